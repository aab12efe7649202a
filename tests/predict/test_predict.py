"""tools/predict.py with a model that answers at once: what it writes, and what it refuses."""

import json
import re

import hostile_images
import numpy as np
import predict_jobs
import pytest
from PIL import Image
from predict_jobs import arguments, everything, save_photos
from stub_predict import lines, make_checkpoint, run

from input_pipeline.datasets import open_dataset
from input_pipeline.photos import regions
from input_pipeline.records import builder, prepared
from input_pipeline.scarred_photos import dataset_folder

checkpoint, many, unbroken = predict_jobs.checkpoint, predict_jobs.many, predict_jobs.unbroken


def test_every_photo_has_its_line_in_order_and_its_files(many, unbroken):
    results, failures = lines(unbroken / "results.jsonl"), lines(unbroken / "failures.jsonl")
    files = sorted(str(p) for p in many.rglob("*.png"))
    failed = [f["image"] for f in failures]
    assert [f.rsplit("/", 1)[1] for f in failed] == ["p150.png", "p011.png"]  # 3/p150, 4/p011
    assert [r["image"] for r in results] == [f for f in files if f not in failed]
    assert all(set(f) == {"image", "name", "error"} and f["image"] in f["error"] for f in failures)
    assert list(results[0]) == [
        "image", "name", "size", "verdict", "probability", "fake_probability", "words",
        "words_agree", "explanation", "answer", "finished", "withheld", "artifacts"]
    names = {r["name"] for r in results}
    assert set(everything(unbroken)) == {"results.jsonl", "failures.jsonl"} | {
        name + ending for name in names for ending in (".json", "_mask.png")}
    one = results[17]
    assert json.loads((unbroken / f"{one['name']}.json").read_text()) == one
    mask = np.asarray(Image.open(unbroken / f"{one['name']}_mask.png"))
    assert mask.shape == tuple(one["size"]) and {*mask.flat} == {0, 255}
    np.testing.assert_array_equal(mask > 0, regions.rle_to_mask(one["artifacts"][0]["rle"]))


def test_a_split_of_a_data_set(checkpoint, tmp_path):
    dataset_folder.make_dataset(tmp_path / "photos", num_train=6, num_test=4)
    builder.prepare(open_dataset("synthscars/photos", str(tmp_path / "photos")), tmp_path / "data")
    command = (f"--checkpoint={checkpoint}", f"--data_dir={tmp_path / 'data'}", "--split=test[1:]",
               f"--output={tmp_path / 'out'}", "--write=")
    code, log = run(*command, log=tmp_path / "log")
    assert code == 0, log
    records = prepared.open_split(tmp_path / "data", "test[1:]")
    results = lines(tmp_path / "out/results.jsonl")
    assert [r["image"] for r in results] == [record.id for record in records]
    assert [r["size"] for r in results] == [[record.height, record.width] for record in records]
    assert set(everything(tmp_path / "out")) == {"results.jsonl"}
    code, log = run(*command, "--split=test[:2]", log=tmp_path / "log")
    assert code == 1 and "source: split was test[1:], is now test[:2]" in log


def test_failures_are_tried_again_when_asked(checkpoint, tmp_path):
    source = save_photos(tmp_path, 14)
    command = arguments(checkpoint, source / "4", tmp_path / "out", "--write=mask")
    assert run(*command, log=tmp_path / "log")[0] == 2
    Image.new("RGB", (9, 9)).save(source / "4/p011.png")
    code, log = run(*command, log=tmp_path / "log")
    assert code == 2 and "1 photos, 1 left out; nothing was left to do" in log
    code, log = run(*command, "--retry_failures", log=tmp_path / "log")
    assert code == 0, log
    assert [r["name"] for r in lines(tmp_path / "out/results.jsonl")] == ["p004", "p011"]
    assert set(everything(tmp_path / "out")) == {"results.jsonl", "p004_mask.png", "p011_mask.png"}


@pytest.mark.parametrize("extra, reason", [
    ("--explain=never", "settings: explain was fakes, is now never"),
    ("--temperature=0.5", "settings: temperature was 0.0, is now 0.5"),
    ("--int8", "settings: int8 was False, is now True"),
    ("--write=", "settings: write was ['json', 'mask'], is now []"),
    ("--images=@{list}", "source: kind was folder, is now list"),
    ("--checkpoint={other}", "checkpoint: fingerprint was")])
def test_another_job_is_refused(checkpoint, many, unbroken, config, tmp_path, extra, reason):
    (tmp_path / "list").write_text(str(next(many.rglob("*.png"))))
    other = tmp_path / "other"
    make_checkpoint(other, config)
    (other / "legion.json").write_text((other / "legion.json").read_text() + "\n")
    extra = extra.format(list=tmp_path / "list", other=other)
    before = everything(unbroken, without=())
    code, log = run(*arguments(checkpoint, many, unbroken), extra, log=tmp_path / "log")
    assert code == 1 and log.startswith(f"error: {unbroken}/job.json: {reason}"), log
    assert everything(unbroken, without=()) == before


@pytest.mark.parametrize("given, message", [
    ((), "either with --images or with --data_dir"),
    (("--images={empty}",), "the folder holds no files"),
    (("--images={empty}/gone",), "no such file or folder"),
    (("--images={photo}", "--shard=2/2"), "INDEX below COUNT"),
    (("--images={photo}", "--shard=0/2", "--distributed=auto"), "give one of them"),
    (("--images={photo}", "--checkpoint={empty}"), "neither a converted checkpoint")])
def test_what_cannot_be_done_is_one_sentence(checkpoint, tmp_path, given, message):
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    given = [g.format(empty=tmp_path / "empty", photo=tmp_path / "a.png") for g in given]
    code, log = run(f"--checkpoint={checkpoint}", f"--output={tmp_path / 'out'}", *given,
                    log=tmp_path / "log")
    assert code == 1 and message in log and log.startswith("error: "), log
    assert "Traceback" not in log and not (tmp_path / "out").exists()


def test_hostile_files_have_a_result_or_one_sentence_each(checkpoint, tmp_path):
    source, output = tmp_path / "hostile", tmp_path / "out"
    hostile_images.make(source)
    files = {str(path) for path in source.rglob("*")
             if not path.name.startswith(".") and path.name not in ("folder.jpg", "loop")}
    assert len(files) > 100
    code, log = run(*arguments(checkpoint, source, output, "--write=mask", "--max_file_mb=2",
                               "--queue_mb=64", "--threads=3"), log=tmp_path / "log")
    assert code == 2, log
    results, failures = lines(output / "results.jsonl"), lines(output / "failures.jsonl")
    assert sorted(line["image"] for line in results + failures) == sorted(files)
    for line in results:
        name = line["image"].rsplit("/", 1)[1]
        assert name.startswith(("good", "any")), line["image"]
        assert line["size"] == ([56, 40] if "turned" in name and name[-5] in "5678" else
                                list(mask_of(output, line).shape))
    for line in failures:
        name = line["image"].rsplit("/", 1)[1]
        wanted = "" if name.startswith(("any", "good_or")) else hostile_images.reason(name)
        assert wanted is not None and wanted in line["error"], line
        assert name in line["error"] and "\n" not in line["error"] and " at 0x" not in line["error"]
    assert len({line["name"].lower() for line in results + failures}) == len(files)
    assert "Traceback" not in log and "Warning: " not in log
    # Eight photos take 48 MB each and 150 more while they are decoded: four make a batch, one more
    # is decoded ahead. A queue of 6400 MiB and eight threads grew to 870 MiB.
    assert int(re.search(r"grew (\d+) MiB", log)[1]) < 650, log


def mask_of(output, line):
    return np.asarray(Image.open(output / f"{line['name']}_mask.png"))
