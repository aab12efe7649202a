"""SynthScars as TFDS: what is read back, which defects are tolerated, and how they are counted."""

import dataclasses

import fake_synthscars
import numpy as np
import pytest
from fake_synthscars import (
    DEFECTS,
    DROPPED,
    GOOD,
    IMAGES,
    SKIPPED,
    SQUARE,
    make_record,
    make_ref,
    write_split,
)
from prepared_sources import by_id, prepare

from input_pipeline.records import manifest, record as record_module
from input_pipeline.records.prepared import open_split
from input_pipeline.scarred_photos.dataset_folder import make_dataset

source, published = fake_synthscars.source, fake_synthscars.published


def test_usable_records_come_back_with_their_bytes(published):
    records = by_id(published)
    assert sorted(records) == [f"train_{i}" for i in range(5)]
    names = {key: record.file_name for key, record in records.items()}
    for key, name in names.items():
        assert records[key].image == IMAGES[name]
        assert records[key].label == 1
    sizes = {key: (r.height, r.width) for key, r in records.items()}
    assert sizes["train_0"] == (16, 24) and sizes["train_2"] == (24, 16)


def test_record_has_exactly_the_documented_features(published):
    record = by_id(published)["train_0"]
    assert {f.name for f in dataclasses.fields(record)} == set(record_module.features())
    assert {f.name for f in dataclasses.fields(record_module.Region)} == set(
        record_module.features()["regions"].feature)
    for field in set(record_module.features()) - {"regions", "scores"}:
        assert f"| {field}" in record_module.__doc__ or f", {field} |" in record_module.__doc__
    assert record.dataset == "synthscars" and record.has_masks
    assert np.isnan(list(record.scores.values())).all()


def test_regions_follow_the_cleaned_caption(published):
    record = by_id(published)["train_0"]
    caption, regions = record.caption, record.regions
    # Quotes go first, then spaces: a quote behind a space stays, as in the published code.
    assert caption == '"The hand and the left foot. "'
    assert [region.phrase for region in regions] == ["hand", "left foot"]
    assert [caption[region.start:region.end] for region in regions] == ["hand", "left foot"]
    assert [region.polygons for region in regions] == [SQUARE, SQUARE]


def test_quotes_are_stripped_and_an_empty_explanation_is_kept(published):
    record = by_id(published)["train_1"]
    assert record.caption == "A sign."
    assert [region.explanation for region in record.regions] == [""]


def test_group_is_the_image_itself(published):
    groups = {key: record.group_id for key, record in by_id(published).items()}
    assert groups["train_0"] == groups["train_3"] == groups["train_4"]
    assert len({groups["train_0"], groups["train_1"], groups["train_2"]}) == 3


def test_every_defect_is_counted(published):
    counts = manifest.read_summary(published.data_path)["splits"]["train"]
    assert counts["items"] == len(GOOD + DEFECTS) and counts["published"] == 11_236
    assert counts["records"] == 5 and counts["regions"] == 6
    assert counts["skipped"] == SKIPPED and counts["dropped"] == DROPPED


def test_every_defect_is_named(published):
    entries = list(manifest.read_manifest(published.data_path))
    assert len(entries) == len(GOOD + DEFECTS)
    skipped = {entry["id"]: entry for entry in entries if entry["status"] == "skipped"}
    assert skipped["7"]["file"] == "gone.png"
    assert skipped["8"]["reason"] == skipped["9"]["reason"] == "unreadable image"
    assert skipped["#15"]["reason"] == "malformed record"
    (entry,) = (e for e in entries if e["status"] == "kept" and e["id"] == "4")
    notes = {note["region"]: note for note in entry["notes"]}
    assert notes[1]["detail"] == "sign"
    assert notes[3]["detail"] == "polygon has fewer than 3 points: 2"
    assert "wholly outside the 24x16 image" in notes[4]["detail"]


def test_photos_are_real_or_tampered(tmp_path):
    pytest.importorskip("skimage")
    made = make_dataset(tmp_path / "made", num_train=10, num_test=5, size=96)
    builder = prepare("synthscars/photos", made, tmp_path / "data")
    counts = manifest.read_summary(builder.data_path)["splits"]
    assert all(not counts[split]["skipped"] and not counts[split]["dropped"] for split in counts)
    for split, number in (("train", 10), ("test", 5)):
        records = by_id(builder, split).values()
        assert len(records) == number
        for record in records:
            assert record.label == (2 if record.regions else 0)
            assert record.group_id == record.file_name.rpartition("_")[0]
            stored = made / split / "images" / record.file_name
            assert record.image == stored.read_bytes()
        assert sorted({record.label for record in records}) == [0, 2]


def test_a_photo_whose_refs_are_all_broken_is_not_called_real(tmp_path):
    items = [
        {"0": make_record("a.png", "No artifact.")},
        {"1": make_record("a.png", "A spot.", make_ref("spot", polygons=[[1, 1]]))},
    ]
    source = write_split(tmp_path / "source", "train", items, images=IMAGES)
    builder = prepare("synthscars/photos", source, tmp_path / "data")
    assert [key for key in by_id(builder)] == ["train_0"]
    counts = manifest.read_summary(builder.data_path)["splits"]["train"]
    assert counts["skipped"] == {"no usable ref": 1}


def test_image_bytes_may_hold_zeros_at_the_end(tmp_path):
    content = IMAGES["a.png"] + b"\0\0\0"  # fixed-width byte strings would lose them
    source = write_split(tmp_path / "s", "train", GOOD[:1], images={"a.png": content})
    builder = prepare("synthscars/published", source, tmp_path / "data")
    assert np.array_equal(open_split(builder.data_path, "train")[0].image, content)
