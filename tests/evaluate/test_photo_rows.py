"""Rows of an evaluation: what is true, what was predicted, and what could not be read."""

import dataclasses
import json

import numpy as np
import pytest
from made_rows import prediction, record

from input_pipeline.photos import perturbations, regions
from input_pipeline.records.record import DataError, RecordError
from legion_jax.evaluate import chunks, photo_rows, summary
from legion_jax.evaluate.settings import DEFAULT, Settings

SQUARE, OTHER = [2, 2, 12, 2, 12, 12, 2, 12], [5, 5, 18, 5, 18, 15, 5, 15]
PHOTO = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)


class Finder:
    """Finds a fixed mask in every photo; answers come in groups of three, the last one first."""

    def __init__(self, mask):
        self.mask, self.photos = mask, []

    def stream(self, items, *, explain):
        assert explain == "always"
        group = []
        for key, photo in items:
            self.photos.append(photo)
            group.append((key, prediction(photo.shape[:2], [self.mask], fake=0.9, text="a hand")))
            if len(group) == 3:
                yield from group[::-1]
                group = []
        yield from group[::-1]


def evaluated(records, *, mask=None, settings=DEFAULT):
    finder = Finder(np.zeros((16, 20), bool) if mask is None else mask)
    source = photo_rows.Source([("test", records)])
    numbered = list(photo_rows.predicted(finder, source, range(len(records)), settings=settings))
    assert sorted(number for number, _ in numbered) == list(range(len(records)))
    return [row for _, row in sorted(numbered, key=lambda item: item[0])], finder


def test_a_row_says_what_is_true_and_what_was_found():
    mask = np.zeros((16, 20), bool)
    mask[2:12, 2:12] = True
    (row,), _ = evaluated([record("a", PHOTO, polygons=[SQUARE, OTHER], caption="A hand!",
                                  category="human", generator="ldm_200")], mask=mask)
    truth = record("a", PHOTO, polygons=[SQUARE, OTHER]).marked((16, 20))
    np.testing.assert_array_equal(regions.rle_to_mask(row["truth_rle"]), truth)
    assert row["counts"] == [100, 0, int(truth.sum()) - 100, 320 - int(truth.sum())]
    assert row["mask_area"] == 100 / 320 and row["rouge_l"] == 1 and row["css"] is None
    assert row["ious"] == [[1.0, pytest.approx(49 / (100 + 130 - 49))]]
    assert [t["phrase"] for t in row["truth"]] == ["region 0", "region 1"]
    assert (row["id"], row["split"], row["category"], row["generator"], row["size"]) == (
        "a", "test", "human", "ldm_200", [16, 20])
    assert row["failed"] is None and row["num_regions"] == 2 and row["num_masks"] == 1
    assert json.loads(chunks.line(row)) == row


def test_the_rasteriser_is_a_switch():
    for rasteriser, pixels in (("coco", 100), ("fillpoly", 121)):
        (row,), _ = evaluated([record("a", PHOTO, polygons=[SQUARE])],
                              settings=Settings(rasteriser=rasteriser))
        assert row["counts"][2] == pixels
        assert int(regions.rle_to_mask(row["truth"][0]["rle"]).sum()) == pixels


def test_every_record_has_a_row_whatever_is_wrong_with_it():
    class Records(list):
        def __getitem__(self, index):
            if index == 2:
                raise RecordError("unreadable record", "2: Corrupted")
            return super().__getitem__(index)

    records = Records([record("good", PHOTO, polygons=[SQUARE], caption="hand"),
                       record("broken", None, polygons=[SQUARE], caption="hand"), None,
                       record("clean", None, label=0),
                       record("unmarked", PHOTO, label=0, has_masks=False), record("last", PHOTO)])
    rows, finder = evaluated(records)
    assert len(finder.photos) == 3
    assert [bool(row["failed"]) for row in rows] == [False, True, True, True, False, False]
    assert "broken: not an image" in rows[1]["failed"] and "Corrupted" in rows[2]["failed"]
    assert rows[1]["counts"] == [0, 0, 100, 220] and rows[1]["f1"] == rows[1]["rouge_l"] == 0
    assert rows[3]["f1"] == rows[3]["miou"] == 0  # an unreadable photo earns nothing
    assert rows[2]["id"] == "test[2]" and rows[2]["counts"] is None
    assert rows[4]["counts"] is rows[4]["f1"] is rows[4]["rouge_l"] is None
    result = summary.summary(rows)
    assert result["num_photos"] == 6 and result["num_failed"] == 3
    assert [f["id"] for f in result["failures"]] == ["broken", "test[2]", "clean"]
    assert result["localisation"]["num_images"] == 4 and result["text"]["num"] == 2
    assert result["detection"]["num"] == 5 and result["detection"]["num_unanswered"] == 2
    assert result["num_no_mask"] == 1  # broken; the finder draws an empty mask in the others


def test_only_what_is_marked_together():
    whole, other = (dataclasses.replace(
        record("a", PHOTO), union_mask=regions.mask_to_png(np.eye(*size) > 0))
        for size in ((16, 20), (8, 8)))
    (row,), _ = evaluated([whole])
    assert row["truth"] == [] and row["counts"][2] == 16
    with pytest.raises(DataError, match=r"record a: a mask of \(8, 8\) for a photo of \(16, 20\)"):
        evaluated([other])
    with pytest.raises(DataError, match="record b: polygon lies wholly outside the 20x16"):
        evaluated([record("b", PHOTO, polygons=[[30, 30, 40, 30, 40, 40]])])


def test_damage_is_done_to_the_photo_alone():
    settings = Settings(perturbation="jpeg", level=35)
    (row,), finder = evaluated([record("a", PHOTO, polygons=[SQUARE])], settings=settings)
    np.testing.assert_array_equal(finder.photos[0],
                                  perturbations.perturb(PHOTO, "jpeg", 35, record_id="a"))
    assert row["counts"][2] == 100


def test_records_of_several_splits():
    source = photo_rows.Source([("a", ["a0", "a1"]), ("b", ["b0"]), ("c", ["c0", "c1"])])
    assert len(source) == 5
    seen = [source.at(number) for number in range(5)]
    assert [(name, records[number]) for name, number, records in seen] == [
        ("a", "a0"), ("a", "a1"), ("b", "b0"), ("c", "c0"), ("c", "c1")]
