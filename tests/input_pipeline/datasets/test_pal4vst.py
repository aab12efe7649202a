"""PAL4VST: masks of what is bad, clean images, and what does not fit."""

import re
import zipfile

import numpy as np
import pytest
from fake_pal4vst import LABELS, SKIPPED, TRAIN, label, make_fake
from prepared_sources import by_id, prepare, printed_by_the_tool, write_times

from input_pipeline.datasets import open_dataset
from input_pipeline.photos.regions import png_to_mask
from input_pipeline.records import manifest
from input_pipeline.records.dataset import image_hash
from input_pipeline.records.record import DataError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_fake(tmp_path_factory.mktemp("source") / "pal4vst")


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    return prepare("pal4vst", source, tmp_path_factory.mktemp("data"))


def test_labels_become_masks_that_can_be_seen(prepared):
    records = by_id(prepared, "train")
    expected = {"ffhq_seed0524": label((2, 3, 9, 8)), "grey": label(),
                "cmyk": label((0, 0, 24, 16)), "été 照片": label((0, 0, 1, 1)),
                "turned_with_its_label": label((2, 3, 9, 8), size=(24, 16))}
    assert set(records) == {f"train_{name}" for name in expected}
    for name, mask in expected.items():
        record = records[f"train_{name}"]
        assert record.image == TRAIN[name]
        assert record.file_name == f"images/train/{name}.jpg"
        assert record.label == 1 and record.has_masks and not record.regions
        assert (record.height, record.width) == mask.shape
        assert np.array_equal(png_to_mask(record.union_mask), mask)
        assert np.array_equal(record.marked(mask.shape), mask.astype(bool))
        if mask.any():
            assert record.union_mask != LABELS[name]  # 0 and 255 instead of 0 and 1
        assert record.group_id == image_hash(TRAIN[name])


def test_an_empty_label_means_a_clean_image(prepared):
    records = by_id(prepared, "test")
    marked = {key: bool(png_to_mask(r.union_mask).any()) for key, r in records.items()}
    assert marked == {"test_clean": False, "test_bad": True}
    assert all(record.has_masks for record in records.values())


def test_every_defect_is_counted_and_named(prepared):
    counts = manifest.read_summary(prepared.data_path)["splits"]
    assert {name: c["published"] for name, c in counts.items()} == {
        "train": None, "val": None, "test": 1_441}
    assert {name: (c["items"], c["records"]) for name, c in counts.items()} == {
        "train": (10, 5), "val": (1, 1), "test": (2, 2)}
    assert counts["train"]["skipped"] == SKIPPED and not counts["test"]["skipped"]
    skipped = {entry["id"]: entry["detail"] for entry in manifest.read_manifest(prepared.data_path)
               if entry["status"] == "skipped"}
    assert skipped["no_image"] == "image of labels/train/no_image.png"
    assert skipped["unlabelled"] == "label of images/train/unlabelled.jpg"
    assert skipped["turned"] == "24x16 for an image of 16x24"


def test_second_run_changes_nothing(prepared, source):
    before = write_times(prepared.data_path)
    again = prepare("pal4vst", source, prepared.data_dir_root)
    assert write_times(again.data_path) == before


def test_a_zip_with_a_folder_around_it_is_read(source, tmp_path):
    with zipfile.ZipFile(tmp_path / "pal4vst.zip", "w") as archive:
        for path in source.rglob("*.*"):
            archive.write(path, f"unified/{path.relative_to(source)}")
    items = open_dataset("pal4vst", str(tmp_path / "pal4vst.zip")).splits()
    assert {split: len(listed) for split, listed in items.items()} == {
        "train": 10, "val": 1, "test": 2}


def test_other_layouts_are_named(source, tmp_path):
    with pytest.raises(DataError, match="found no images/train"):
        open_dataset("pal4vst", str(tmp_path)).splits()
    for folder in ("cvton", "unified"):
        (tmp_path / folder / "images").mkdir(parents=True)
    with pytest.raises(DataError, match="name one of: cvton/, unified/"):
        open_dataset("pal4vst", str(tmp_path)).splits()


def test_the_tool_prepares_it(source, tmp_path):
    assert re.search(r"label of another size\W+1\W",
                     printed_by_the_tool("pal4vst", source, tmp_path))
