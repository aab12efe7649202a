"""Where the photos of a page come from."""

import dataclasses
import io

import numpy as np
import pytest
from made_rows import record
from PIL import Image
from sheet_pages import make_source

from input_pipeline.errors import UserError
from input_pipeline.records import builder, prepared
from legion_jax.evaluate.report import photos


def test_records_are_read_once_when_asked_in_order():
    reads = []

    class Split(list):
        def __getitem__(self, number):
            reads.append(number)
            return dataclasses.replace(record(f"test/{number}"), image=str(number).encode())

    lookup = photos.RecordPhotos(Split(range(5)), Split(range(0)))
    assert [lookup(f"test/{k}") for k in (0, 2, 4)] == [b"0", b"2", b"4"]
    assert reads == [0, 1, 2, 3, 4]
    assert lookup("test/1") == b"1" and lookup("none") is None and lookup("none") is None
    assert reads == [0, 1, 2, 3, 4, 1]


@pytest.mark.parametrize("splits", [["all"], ["train+test"], ["train", "test", "test"]])
def test_photos_of_a_prepared_data_set(tmp_path, splits):
    builder.prepare(make_source("jsonl", tmp_path / "source"), tmp_path / "data")
    lookup = photos.of_data(tmp_path / "data", splits)
    for split in ("train", "test"):
        for stored in prepared.open_split(tmp_path / "data", split):
            assert lookup(stored.id) == stored.image
    assert lookup("nowhere") is None


def test_pictures_of_rows_are_found_or_empty(caplog):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(buffer, "PNG")
    known = {"a": buffer.getvalue(), "b": b"broken"}
    rows = [{"id": name, "size": [4, 6]} for name in "abc"]
    for source in (known, known.get):
        codes = [photos.picture_of(source, row) for row in rows]
        assert [bool(code) for code in codes] == [True, False, False]
    assert "photo b: not an image that PIL can read" in caplog.text
    with pytest.raises(UserError, match="6x4 pixels, but rows.jsonl tells 7x4"):
        photos.picture_of(known, {"id": "a", "size": [4, 7]})
