"""DD-VQA: questions of videos, the frames they are asked of, and what has none."""

import json
import re
import shutil

import pytest
from fake_ddvqa import FRAMES, NOSE, WHOLE, make_fake
from fake_folders import write_tree
from prepared_sources import by_id, prepare, printed_by_the_tool

from input_pipeline.datasets import open_dataset
from input_pipeline.records import manifest
from input_pipeline.records.record import DataError

HOME = "ff++/manipulated_sequences/Deepfakes/c23/frames/114_102"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_fake(tmp_path_factory.mktemp("source") / "ddvqa")


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    return {config: prepare(f"ddvqa/{config}", source, tmp_path_factory.mktemp(config))
            for config in ("general", "questions")}


def test_the_whole_face_is_asked_of_the_first_frame(prepared):
    records = by_id(prepared["general"], "test")
    assert set(records) == {"test_0_114_102", "test_0_102_200", "test_6_114_102", "test_5_044"}
    fake, real = records["test_0_114_102"], records["test_5_044"]
    assert fake.image == FRAMES[f"{HOME}/000.png"] and fake.file_name == f"{HOME}/000.png"
    assert (fake.label, fake.generator, fake.category) == (1, "Deepfakes", "deepfake")
    assert (real.label, real.generator, real.category) == (0, "", "deepfake")
    assert fake.question == WHOLE and fake.caption == "It looks fake, says 0."
    assert records["test_6_114_102"].generator == "NeuralTextures"
    assert not fake.has_masks and fake.dataset == "ddvqa"


def test_every_question_has_a_frame_of_its_own(prepared):
    records = by_id(prepared["questions"], "test")
    assert set(records) == {f"test_{name}" for name in (
        "0_114_102_0", "0_114_102_1", "0_114_102_2", "0_102_200_0", "6_114_102_0", "6_114_102_1",
        "5_044_0", "5_044_1", "5_044_2")}
    nose = records["test_0_114_102_1"]
    assert nose.question == NOSE and nose.image == FRAMES[f"{HOME}/020.png"]


def test_videos_with_one_face_are_one_group_in_both_splits(prepared):
    test, train = (by_id(prepared["general"], split) for split in ("test", "train"))
    groups = {name: record.group_id for name, record in (test | train).items()}
    assert groups["train_5_102"] == groups["test_0_114_102"] == groups["test_0_102_200"] == (
        "ff++/102")
    assert groups["test_5_044"] == "ff++/044"


def test_what_cannot_be_used_is_counted_and_named(prepared):
    counts = manifest.read_summary(prepared["general"].data_path)["splits"]
    assert counts["test"]["items"] == 8 and counts["test"]["records"] == 4
    assert counts["test"]["skipped"] == {"file missing": 1, "malformed record": 3}
    assert counts["train"]["skipped"] == {}
    skipped = {entry["id"]: entry["detail"] for entry in manifest.read_manifest(
        prepared["general"].data_path) if entry["status"] == "skipped"}
    assert skipped["6_300_301"] == "frame of NeuralTextures for 6_300_301"
    assert skipped["6_400_401"] == "no question with a list of answers"
    assert skipped["#4"] == "no METHOD_VIDEO with its questions"  # 7_114_102
    questions = manifest.read_summary(prepared["questions"].data_path)["splits"]["test"]
    assert questions["skipped"] == {"file missing": 4, "malformed record": 3}


def test_frames_in_two_places_are_not_mixed(source, tmp_path):
    shutil.copytree(source, tmp_path / "source")
    write_tree(tmp_path / "source", {f"{HOME.replace('c23', 'c40')}/000.png": b"again"})
    with pytest.raises(DataError, match="frames of Deepfakes 114_102 are in several folders, .*c23"
                                        ".* and .*c40"):
        open_dataset("ddvqa", str(tmp_path / "source")).splits()


def test_annotations_need_no_folder_around_them(source, tmp_path):
    shutil.copytree(source, tmp_path / "source")
    for folder in ("train_set", "test_set"):
        shutil.move(tmp_path / "source/DQ_FF++" / folder, tmp_path / "source" / folder)
    moved, first = (open_dataset("ddvqa", str(path)).splits() for path in (
        tmp_path / "source", source))
    assert moved == first


def test_other_layouts_are_named(tmp_path):
    with pytest.raises(DataError, match="found no train_set/METHOD/METHOD.json or test_set"):
        open_dataset("ddvqa", str(tmp_path)).splits()
    write_tree(tmp_path, {"test_set/Original/Original.json": json.dumps([1]).encode()})
    with pytest.raises(DataError, match=r"Original\.json"):
        open_dataset("ddvqa", str(tmp_path)).splits()


def test_nothing_published_is_said_to_be_of_it(source):
    opened = open_dataset("ddvqa/questions", str(source))
    assert "nothing was published" in opened.unlike_published("test", opened.splits()["test"])


def test_the_tool_prepares_it(source, tmp_path):
    printed = printed_by_the_tool("ddvqa/general", source, tmp_path)
    assert re.search(r"file missing\W+0\W+1\W", printed)
