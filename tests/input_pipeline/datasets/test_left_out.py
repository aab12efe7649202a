"""Splits under other names: taken, or said to be left out, whatever the data set."""

import shutil

import fake_fakeclue
import fake_synthscars
import pytest
from fake_folders import picture, write_tree
from prepared_sources import prepare

from input_pipeline.datasets import open_dataset
from input_pipeline.records.prepared import open_split


def said(name, source, caplog):
    caplog.clear()
    splits = open_dataset(name, str(source)).splits()
    return {split: len(items) for split, items in splits.items()}, caplog.text


def labelled(*folders):
    return {f"{folder}/{label}/a.png": picture(number) for number, (folder, label) in enumerate(
        (folder, label) for folder in folders for label in ("0_real", "1_fake"))}


@pytest.mark.parametrize("name, tree, splits, words", [
    ("pal4vst/published", {f"images/{folder}/{folder}.png": picture(k) for k, folder in enumerate(
        ("train", "validation", "extra"))}, {"train": 1, "val": 1},
     "extra is left out: no split is called so; known are train, val, test"),
    ("sid_set/folders", {f"{folder}/real/{folder}.png": picture(k) for k, folder in enumerate(
        ("train", "dev", "holdout"))}, {"train": 1, "validation": 1}, "holdout is left out"),
    ("progan/published", labelled("progan_train/cat", "valid/cat", "test/cat"),
     {"train": 2, "val": 2}, "test is left out"),
    ("forensynths/published", labelled("biggan", "new_one", "train/progan"), {"biggan": 2},
     "new_one, train/progan is left out"),
])
def test_folders(name, tree, splits, words, tmp_path, caplog):
    write_tree(tmp_path / "source", tree)
    assert said(name, tmp_path / "source", caplog)[0] == splits
    assert words in caplog.text


def test_annotations(tmp_path, caplog):
    scars = fake_synthscars.write_split(tmp_path / "scars", "train", fake_synthscars.GOOD,
                                        images=fake_synthscars.IMAGES)
    shutil.copytree(scars / "train", scars / "val")
    assert "val is left out" in said("synthscars/published", scars, caplog)[1]
    clue = tmp_path / "clue"
    fake_fakeclue.make_fake(clue)
    shutil.copy(clue / "data_json/train.json", clue / "data_json/dev.json")
    assert "dev.json is left out" in said("fakeclue/published", clue, caplog)[1]


def test_label_folders_in_any_case_and_photos_without_one(tmp_path, caplog):
    tree = {f"{folder}/a.png": picture(number) for number, folder in enumerate((
        "cyclegan/horse/0_Real", "cyclegan/zebra/1_FAKE", "gaugan/real", "gaugan/fake"))}
    write_tree(tmp_path / "source", tree)
    splits, words = said("forensynths/published", tmp_path / "source", caplog)
    assert splits == {"cyclegan": 2}
    assert "photos in gaugan/fake, gaugan/real are left out: no folder above" in words


def test_nothing_is_said_where_nothing_is_left_out(tmp_path, caplog):
    write_tree(tmp_path / "source", labelled("progan", "biggan"))
    assert said("forensynths/published", tmp_path / "source", caplog) == (
        {"progan": 2, "biggan": 2}, "")


def test_photos_are_known_by_content_whatever_their_names(tmp_path):
    names = {"a.jpg_large": "JPEG", "b": "PNG", "c.image": "WEBP", "d.avif": "AVIF",
             "e.jfif": "JPEG"}
    tree = {f"biggan/{label}/{name}": picture(7 * number + len(label), form=form)
            for label in ("0_real", "1_fake") for number, (name, form) in enumerate(names.items())}
    tree |= {f"biggan/{label}/{name}": content for label in ("0_real", "1_fake")
             for name, content in ((".hidden", picture(3)), ("notes", b"text"), ("x.txt", b""))}
    write_tree(tmp_path / "source", tree)
    built = prepare("ufd/capped", tmp_path / "source", tmp_path / "data")
    assert {record.file_name.rpartition("/")[2] for record in open_split(
        built.data_path, "biggan")} == set(names)
    built = prepare("forensynths/published", tmp_path / "source", tmp_path / "data")
    assert len(open_split(built.data_path, "biggan")) == 2 * len(names)
    lines = (built.data_path / "biggan-manifest.jsonl").read_text()
    assert lines.count("not an image file") == 6
