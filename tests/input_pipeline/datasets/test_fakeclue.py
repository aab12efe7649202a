"""FakeClue: records, groups of videos, archives with any prefix, leaks, counted defects."""

import hashlib
import json
import pickle
import zipfile
from collections import Counter

import pytest
from fake_fakeclue import (
    DEFECTS,
    QUESTION,
    REPAIRED,
    make_fake,
    make_record,
    spoil,
)
from fake_folders import picture, write_tree, zip_tree
from prepared_sources import prepare, printed_by_the_tool, write_times

from input_pipeline.datasets import open_dataset
from input_pipeline.records import builder, manifest
from input_pipeline.records.dataset import Notes
from input_pipeline.records.prepared import open_split
from input_pipeline.records.record import DataError, RecordError


def read_all(source, config="published"):
    """{split: {id: record or the reason why there is none}}, the first of equal ids."""
    dataset, entries = open_dataset(f"fakeclue/{config}", str(source)), {}
    for split, items in dataset.splits().items():
        entries[split] = {}
        for item in items:
            try:
                entries[split].setdefault(item.id, dataset.read(item, Notes()))
            except RecordError as error:
                entries[split].setdefault(item.id, error.reason)
    return entries


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("fakeclue")
    made = make_fake(root / "source", nested=2)
    built = prepare("fakeclue", root / "source", root / "data")
    return root, made, built


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_record_is_exact(prepared, split):
    _, made, built = prepared
    good, files = made[split]
    records = {r.id.removeprefix(f"{split}_"): r
               for r in open_split(built.data_path, split)}
    for source, (label, category, generator, group) in good:
        name = source["image"].removeprefix("./").removeprefix(f"{split}/")
        record = records.pop(name)
        assert record.image == files[name]
        assert record.file_name == source["image"]
        assert (record.label, record.category, record.generator) == (
            label, category, generator)
        assert record.group_id == (group or hashlib.sha256(files[name]).hexdigest())
        assert record.question == QUESTION
        assert record.caption == source["conversations"][1]["value"].strip()
        assert (record.width, record.height) == (source["width"], source["height"])
        assert not record.has_masks and record.dataset == "fakeclue"
    assert set(records) == ({r["image"] for r in REPAIRED} if split == "test" else set())


def test_every_defect_is_counted_and_named(prepared):
    _, made, built = prepared
    counts = manifest.read_summary(built.data_path)["splits"]
    assert counts["train"]["skipped"] == counts["train"]["repaired"] == {}
    test = counts["test"]
    assert test["items"] == len(made["test"][0]) + len(REPAIRED) + len(DEFECTS)
    assert test["skipped"] == Counter(reason for _, reason in DEFECTS)
    assert test["repaired"] == {"size contradicts the image": 1}
    entries = {e["file"]: e for e in manifest.read_manifest(built.data_path)
               if e["split"] == "test"}
    assert entries["doc/fake/wide.png"]["notes"][0]["detail"] == "240x160 told, 24x16 found"
    assert entries["chameleon/fake/gone.jpg"]["reason"] == "file missing"


def test_second_run_changes_nothing(prepared):
    root, _, built = prepared
    before = write_times(built.data_path)
    again = prepare("fakeclue", root / "source", root / "data")
    assert write_times(again.data_path) == before


def test_every_place_of_the_images_gives_the_same(tmp_path):
    expected = None
    for packed, nested in [(True, 0), (True, 1), (True, 2), (False, 0), (False, 1)]:
        source = tmp_path / f"{packed}{nested}"
        make_fake(source, packed=packed, nested=nested, splits=("test",))
        entries = read_all(source)
        expected = expected or entries
        assert entries == expected and len(entries["test"]) > 20


def test_one_archive_and_a_folder_around_it_are_read_too(tmp_path):
    make_fake(tmp_path / "FakeClue", packed=False)
    files = {str(p.relative_to(tmp_path)): p.read_bytes()
             for p in tmp_path.rglob("*") if p.is_file()}
    expected = read_all(tmp_path / "FakeClue")
    assert read_all(tmp_path) == expected
    assert read_all(zip_tree(tmp_path / "all.zip", files)) == expected


def test_videos_that_share_a_face_are_one_group(tmp_path):
    videos = {"train": ["071_054", "100_200"], "test": ["054", "200_300", "300", "400"]}
    for split, names in videos.items():
        records = [make_record(f"ff++/fake/F/c23/frames/{v}/1.png") for v in names]
        write_tree(tmp_path, {f"data_json/{split}.json": json.dumps(records).encode()})
        zip_tree(tmp_path / f"{split}.zip", {r["image"]: picture(i)
                                             for i, r in enumerate(records)})
    groups = {split: [r.group_id for r in records.values()]
              for split, records in read_all(tmp_path).items()}
    assert groups == {"train": ["ff++/054", "ff++/100"],
                      "test": ["ff++/054", "ff++/100", "ff++/100", "ff++/400"]}


@pytest.mark.parametrize("packed", [True, False])
def test_dedup_leaves_no_group_in_both_splits(tmp_path, packed):
    make_fake(tmp_path / "source", packed=packed)
    dataset = open_dataset("fakeclue/dedup", str(tmp_path / "source"))
    items = {item.file: item for item in dataset.splits()["test"]}
    with pytest.raises(RecordError, match="group is also in train"):  # workers have copies
        pickle.loads(pickle.dumps(dataset)).read(items["doc/fake/a.png"], Notes())
    built = builder.prepare(dataset, tmp_path / "data")
    summary = manifest.read_summary(built.data_path)
    assert summary["groups_in_several_splits"] == 0
    assert summary["splits"]["train"]["skipped"] == {}
    # Two videos that share faces with train and the document that is in both.
    assert summary["splits"]["test"]["skipped"]["group is also in train"] == 3
    names = {r.file_name for r in open_split(built.data_path, "test")}
    assert "test/ff++/fake/FaceSwap/c23/frames/300_400/7.png" in names
    assert "doc/fake/a.png" not in names


def test_published_keeps_leaks_and_says_so(prepared):
    assert manifest.read_summary(prepared[2].data_path)["groups_in_several_splits"] == 2


def test_dedup_needs_both_splits(tmp_path):
    make_fake(tmp_path, splits=("test",))
    with pytest.raises(DataError, match="dedup needs both"):
        read_all(tmp_path, "dedup")


def test_missing_files_of_the_source_are_named(tmp_path):
    with pytest.raises(DataError, match="found no data_json/train.json"):
        read_all(tmp_path)
    make_fake(tmp_path, splits=("test",))
    (tmp_path / "test.zip").unlink()
    with pytest.raises(DataError, match="found neither test/ nor test.zip"):
        read_all(tmp_path)


def test_a_doubled_entry_and_a_spoilt_one(tmp_path):
    write_tree(tmp_path, {"data_json/test.json": json.dumps(
        [make_record("doc/fake/a.png"), make_record("doc/fake/b.png")]).encode()})
    with zipfile.ZipFile(tmp_path / "test.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for content in (picture(1), picture(2)):
            archive.writestr("doc/fake/a.png", content)
        archive.writestr("doc/fake/b.png", bytes(range(256)) * 40)
    spoil(tmp_path / "test.zip", "doc/fake/b.png")
    entries = read_all(tmp_path)["test"]
    assert entries["doc/fake/a.png"].image == picture(2)  # unpacking would leave the last one
    assert entries["doc/fake/b.png"] == "file unreadable"


def test_tool(tmp_path):
    make_fake(tmp_path / "source")
    assert "group is also in train" in printed_by_the_tool(
        "fakeclue/dedup", tmp_path / "source", tmp_path / "data")
