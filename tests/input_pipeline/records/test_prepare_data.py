"""Preparing SynthScars: repeated, interrupted and wrong runs, and the command."""

import io
import json
import re
import shutil
import subprocess
import sys

import bucket_server
import fake_synthscars
import pytest
from bucket_server import objects
from commands import run_tool
from fake_synthscars import DEFECTS, GOOD, IMAGES, write_split
from prepared_sources import prepare, printed_by_the_tool, write_times
from rich.console import Console

from input_pipeline.datasets import open_dataset
from input_pipeline.records import builder, dataset, manifest
from input_pipeline.records.prepared import open_split
from input_pipeline.records.record import DataError
from tools import prepare_data

source, published = fake_synthscars.source, fake_synthscars.published
server, bucket = bucket_server.server, bucket_server.bucket


def test_second_run_changes_nothing(published, source):
    before = write_times(published.data_path)
    again = prepare("synthscars/published", source, published.data_dir_root)
    assert write_times(again.data_path) == before


def test_other_annotations_are_not_taken_for_the_same(published, tmp_path):
    other = write_split(tmp_path / "other", "train", GOOD[:1], images=IMAGES)
    with pytest.raises(DataError, match="from another source"):
        prepare("synthscars/published", other, published.data_dir_root)


def test_two_builds_give_the_same_records_in_the_same_order(published, source, tmp_path):
    again = prepare("synthscars/published", source, tmp_path)
    first, second = (open_split(b.data_path, "train") for b in (published, again))
    assert [r.id for r in first] == [r.id for r in second]
    first, second = (list(manifest.read_manifest(b.data_path)) for b in (published, again))
    assert first == second


def test_test_annotations_beside_train_are_found(tmp_path):
    write_split(tmp_path, "train", GOOD, images=IMAGES)
    test_file = tmp_path / "train" / "annotations" / "test.json"
    test_file.write_text(json.dumps(GOOD[:1]))
    def images():
        splits = open_dataset("synthscars", str(tmp_path)).splits()
        return [items[0].data[0] for items in splits.values()]

    assert images() == ["train/images", "train/images"]
    (tmp_path / "test" / "images").mkdir(parents=True)
    (tmp_path / "test" / "images" / "a.png").write_bytes(IMAGES["a.png"])
    assert images() == ["train/images", "test/images"]


@pytest.mark.parametrize(
    ("content", "message"), [("[{", "not valid JSON.*line 1"), ("{}", "expected a JSON list.*dict")]
)
def test_a_broken_file_is_one_clear_error(tmp_path, content, message):
    write_split(tmp_path, "train", [])
    path = tmp_path / "train" / "annotations" / "train.json"
    path.write_text(content)
    with pytest.raises(DataError, match=f"{path}: .*{message}"):
        prepare("synthscars/published", tmp_path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_missing_source_and_unknown_config_are_named(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        prepare("synthscars/published", tmp_path / "none", tmp_path)
    with pytest.raises(DataError, match="found no train/annotations/train.json"):
        prepare("synthscars/published", tmp_path, tmp_path)
    with pytest.raises(DataError, match="published, photos"):
        prepare("synthscars/all", tmp_path, tmp_path)


def test_a_split_without_usable_records_is_an_error_and_leaves_its_account(tmp_path):
    source = write_split(tmp_path / "source", "train", DEFECTS[1:4], images=IMAGES)
    account = tmp_path / "data/synthscars/published/unusable-train-manifest.jsonl"
    with pytest.raises(DataError, match=f"no usable record.*no usable ref.* is in {account}"):
        prepare("synthscars/published", source, tmp_path / "data")
    with pytest.raises(DataError, match="no prepared data set here"):
        open_split(tmp_path / "data", "train")
    lines = [json.loads(line) for line in account.read_text().splitlines()]
    assert len(lines) == 3 and {line["status"] for line in lines} == {"skipped"}
    assert [file.name for file in account.parent.iterdir()] == [account.name]
    write_split(tmp_path / "source", "train", DEFECTS, images=IMAGES)
    prepare("synthscars/published", tmp_path / "source", tmp_path / "data")
    assert not account.exists()


def test_the_account_of_a_split_without_usable_records_goes_to_the_bucket(bucket, tmp_path):
    source = write_split(tmp_path / "source", "train", DEFECTS[1:4], images=IMAGES)
    with pytest.raises(DataError, match=f"is in {bucket}/synthscars/published/unusable-train-m"):
        prepare("synthscars/published", source, bucket)
    assert list(objects(bucket)) == ["synthscars/published/unusable-train-manifest.jsonl"]


def test_an_interrupted_build_is_never_read_as_complete(source, tmp_path, monkeypatch):
    def stop(dataset, split, item):
        if item.id == "2":
            raise KeyboardInterrupt
        return complete(dataset, split, item)

    complete = dataset.read_item
    monkeypatch.setattr(builder, "read_item", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare("synthscars/published", source, tmp_path)
    with pytest.raises(DataError, match="no prepared data set here"):
        open_split(tmp_path, "train")
    # A killed process cannot tidy up: what it leaves has TFDS' longer name.
    monkeypatch.undo()
    rebuilt = prepare("synthscars/published", source, tmp_path)
    shutil.copytree(rebuilt.data_path, rebuilt.data_path.parent / "incomplete.X1Y2Z3_1.0.0")
    assert len(open_split(tmp_path, "train")) == 5


def test_missing_split_lists_the_available_ones(published):
    with pytest.raises(DataError, match="no split 'test'; available: train"):
        open_split(published.data_path, "test")
    assert len(open_split(published.data_dir_root, "train[:40%]")) == 2


def test_several_data_sets_in_one_folder_must_be_named(source, published, tmp_path):
    shutil.copytree(published.data_path, tmp_path / "a" / "1.0.0")
    shutil.copytree(published.data_path, tmp_path / "b" / "1.0.0")
    with pytest.raises(DataError, match="name one of"):
        open_split(tmp_path, "train")
    assert len(open_split(tmp_path / "a", "train")) == 5


def test_tool_prints_a_table_and_needs_no_tensorflow(source, tmp_path):
    printed = printed_by_the_tool("synthscars/published", source, tmp_path)
    assert re.search(r"name outside the source\W+3\W", printed)
    assert "manifest.jsonl" in printed


def test_tool_fails_in_one_sentence(tmp_path):
    done = run_tool("tools.prepare_data", "--dataset=synthscars", f"--source={tmp_path}/none",
                    f"--data_dir={tmp_path}", timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip() == f"error: {tmp_path}/none: no such file or folder"


def test_reading_imports_neither_tensorflow_nor_jax(published):
    code = (
        "import sys; from input_pipeline.records.prepared import open_split;"
        f"print(len(open_split({str(published.data_path)!r}, 'train')[0].image) > 0,"
        " [m for m in ('tensorflow', 'jax', 'torch', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[0] == "True []", done.stderr


def test_records_of_another_version_are_named(published, tmp_path):
    folder = shutil.copytree(published.data_path, tmp_path / "1.0.0")
    features = folder / "features.json"
    features.write_text(features.read_text().replace('"union_mask"', '"mask"'))
    with pytest.raises(DataError, match="prepared by another version.* mask, union_mask"):
        open_split(folder, "train")


def test_many_splits_are_shown_side_by_side_as_far_as_they_fit(tmp_path, monkeypatch):
    splits = {f"set_{n}": {"published": None, "items": 7 * n, "records": 1, "regions": 0,
                           "label": {"1": 1}, "skipped": {}, "repaired": {}, "dropped": {}}
              for n in range(19)}
    monkeypatch.setattr(manifest, "read_summary", lambda folder: {
        "splits": splits, "groups_in_several_splits": 0, "images_with_several_labels": 0})
    console = Console(width=100, record=True, file=io.StringIO())
    prepare_data.show_summary(tmp_path, console)
    text = console.export_text()
    assert all(name in text and str(s["items"]) in text for name, s in splits.items())
    assert "…" not in text
