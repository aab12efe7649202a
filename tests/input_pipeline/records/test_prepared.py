"""input_pipeline/records/prepared.py: prepared folders from anybody are data, and only that."""

import json
import os
import shutil
import sys

import fake_synthscars
import pytest
from commands import run_tool

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
    with pytest.raises(DataError, match="names 'stranger_code.Text'.* not imported"):
        open_folder(folder)
    assert "stranger_code" not in sys.modules
    done = run_tool("tools.inspect_data", f"--data_dir={folder}", f"--output={tmp_path / 'sheet'}")
    assert done.returncode == 1 and "it is not imported" in done.stderr


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
    ("{}", "not a readable data set|whose records differ|lies elsewhere"),
    (" " * (16 << 20) + "{}", "such a file has at most")])
def test_damage_is_one_sentence(folder, name, content, words):
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=words) as raised:
        open_folder(folder)
    assert len(str(raised.value).splitlines()) == 1
