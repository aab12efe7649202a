"""input_pipeline/records/prepared.py: prepared folders from anybody are data, and only that."""

import json
import os
import shutil
import sys

import fake_synthscars
import pytest
from commands import run_tool
from prepared_sources import prepare

from input_pipeline.records import manifest
from input_pipeline.records.prepared import open_folder, open_split
from input_pipeline.records.record import DataError

source, published = fake_synthscars.source, fake_synthscars.published


@pytest.fixture
def folder(published, tmp_path):
    """A copy to change."""
    return published.data_path.__class__(shutil.copytree(published.data_path, tmp_path / "2.0.0"))


def change(path, edit):
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def test_an_unchanged_one_opens(folder):
    records = open_split(folder, "train")
    assert len(records) > 1 and records[-1].id == records[len(records) - 1].id
    for index in (len(records), -len(records) - 1):
        with pytest.raises(IndexError):
            records[index]


@pytest.mark.parametrize("key", ["type", "pythonClassName"])
def test_no_class_of_a_stranger_is_imported(folder, tmp_path, monkeypatch, key):
    (tmp_path / "stranger_code.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.syspath_prepend(tmp_path)

    def edit(value):
        strange = {key: "stranger_code.Text", "content": {}, "text": {}}
        value["featuresDict"]["features"]["id"] = strange

    change(folder / "features.json", edit)
    with pytest.raises(DataError, match="is not that of our records, which differ in id"):
        open_folder(folder)
    assert "stranger_code" not in sys.modules
    done = run_tool("tools.inspect_data", f"--data_dir={folder}", f"--output={tmp_path / 'sheet'}")
    assert done.returncode == 1 and "is not that of our records" in done.stderr


INNER = {"x": {"type": "stranger_code.Text", "content": {}}}


@pytest.mark.parametrize("described", [
    {"pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
     "jsonFeature": {"json": json.dumps(INNER)}},
    {"type": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
     "proto_cls": "tensorflow_datasets.Feature", "content": json.dumps(INNER)}])
@pytest.mark.parametrize("nested", [True, False])
def test_json_in_a_text_names_no_class_either(folder, tmp_path, monkeypatch, described, nested):
    (tmp_path / "stranger_code.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    if nested:
        change(folder / "features.json",
               lambda value: value["featuresDict"]["features"].update(zz=described))
    else:
        (folder / "features.json").write_text(json.dumps(described))
    with pytest.raises(DataError, match="is not that of our records"):
        open_folder(folder)
    assert "stranger_code" not in sys.modules


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "summary.json",
                                  "train-manifest.jsonl", "SHARD"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_plain_file_is_not_read(folder, source, name, kind):
    shard = next(path.name for path in folder.iterdir() if "array_record" in path.name)
    path = folder / (shard if name == "SHARD" else name)
    path.unlink()
    {"pipe": os.mkfifo, "folder": os.mkdir,
     "device": lambda path: os.symlink("/dev/zero", path)}[kind](path)

    def read():
        open_folder(folder)
        manifest.read_summary(folder)
        list(manifest.read_manifest(folder))

    with pytest.raises(DataError, match="not a plain file|lies elsewhere"):
        read()


def test_numbers_that_no_shard_can_hold_are_refused(folder):
    change(folder / "dataset_info.json",
           lambda value: value["splits"][0].update(shardLengths=["9223372036854775807"]))
    with pytest.raises(DataError, match=r"bytes, dataset_info.json tells of 9223372036854775807"):
        open_split(folder, "train")
    change(folder / "dataset_info.json",
           lambda value: value["splits"][0].update(shardLengths=["1"] * 100_001))
    with pytest.raises(DataError, match="100001 shards, limit 100000"):
        open_folder(folder)


@pytest.mark.parametrize("edit, words", [
    (lambda value: value.update(zzz=1), 'no field named "zzz"'),
    (lambda value: value.update(version="9.9.9"), "not a readable data set"),
    (lambda value: value.update(fileFormat="parquet"), "tells format 'parquet'")])
def test_preparing_over_a_strange_folder_is_one_sentence(source, tmp_path, edit, words):
    made = prepare("synthscars", source, tmp_path / "data").data_path
    change(made / "dataset_info.json", edit)
    with pytest.raises(DataError, match=words):
        prepare("synthscars", source, tmp_path / "data")


@pytest.mark.parametrize("template", [
    "../{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", "/etc/{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    "a/{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"])
def test_files_elsewhere_are_not_read(folder, template):
    change(folder / "dataset_info.json",
           lambda value: value["splits"][0].update(filepathTemplate=template))
    with pytest.raises(DataError, match="lies elsewhere|not a readable data set"):
        open_folder(folder)


def test_links_are_not_followed(folder, tmp_path):
    shard = next(path for path in folder.iterdir() if "array_record" in path.name)
    os.rename(shard, tmp_path / "outside")
    os.symlink(tmp_path / "outside", shard)
    with pytest.raises(DataError, match="lies elsewhere"):
        open_folder(folder)


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("content, words", [
    ("", "not valid JSON"), ("[]", "expected a JSON object"), ("[" * 100_000, "not valid JSON"),
    ("{}", "not a readable data set|records, which differ|tells format|lies elsewhere"),
    (" " * (16 << 20) + "{}", "such a file has at most")])
def test_damage_is_one_sentence(folder, name, content, words):
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=words) as raised:
        open_folder(folder)
    assert len(str(raised.value).splitlines()) == 1
