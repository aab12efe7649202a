"""tools/predict.py: the command line, with a model that answers at once and with a random one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import hostile_images
import numpy as np
import pytest
import test_inference
from PIL import Image
from stub_predict import lines, make_checkpoint, run, start

from input_pipeline import builder, prepared, regions, scarred_photos
from input_pipeline.datasets import open_dataset

folder, tokenizer, photos = test_inference.folder, test_inference.tokenizer, test_inference.photos


@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "c", config)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """200 small photos, two of them damaged."""
    return save_photos(tmp_path_factory.mktemp("many"), 200)


def save_photos(root, number):
    rng = np.random.default_rng(1)
    for index in range(number):
        height, width = rng.integers(8, 60, 2)
        path = root / f"{index % 7}" / f"p{index:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
        if index in (11, 150):
            path.write_bytes(path.read_bytes()[:60])
    return root


def arguments(checkpoint, source, output, *extra):
    """Without overlays, which take most of the time."""
    return (f"--checkpoint={checkpoint}", f"--images={source}", f"--output={output}",
            "--write=json,mask", *extra)


def everything(output, *, without=("job.json",)):
    """{path: content} of all files of an output folder."""
    return {path.relative_to(output).as_posix(): path.read_bytes()
            for path in output.rglob("*") if path.is_file() and path.name not in without}


@pytest.fixture(scope="module")
def unbroken(checkpoint, many, tmp_path_factory):
    root = tmp_path_factory.mktemp("unbroken")
    code, log = run(*arguments(checkpoint, many, root / "out"), log=root / "log")
    assert code == 2, log
    return root / "out"


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


def parts(output):
    return len(list((output / "parts").glob("part-*"))) if (output / "parts").exists() else 0


def wait(condition, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.005)


def test_three_kills_lose_and_repeat_nothing(checkpoint, many, unbroken, tmp_path):
    command = arguments(checkpoint, many, tmp_path / "out", "--flush_seconds=0.02")
    seen = []
    for _ in range(3):
        process = start(*command, log=tmp_path / "log", seconds=0.05)
        before = parts(tmp_path / "out")
        wait(lambda before=before: parts(tmp_path / "out") >= before + 5, process)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        seen.append([line["name"] for part in sorted((tmp_path / "out/parts").glob("part-*"))
                     for line in lines(part)])
    assert 0 < len(seen[0]) < len(seen[1]) < len(seen[2]) < 200
    assert len({*seen[2]}) == len(seen[2])  # none was done twice
    code, log = run(*command, log=tmp_path / "log")
    assert code == 2, log
    assert f"{200 - len(seen[2])} photos in" in log  # and none of them again
    assert everything(tmp_path / "out") == everything(unbroken)


def test_sigterm_finishes_what_is_in_flight(checkpoint, many, unbroken, tmp_path):
    command = arguments(checkpoint, many, tmp_path / "out", "--flush_seconds=1000")
    process = start(*command, log=tmp_path / "log", seconds=0.05)
    wait(lambda: len(list((tmp_path / "out").rglob("*_mask.png"))) > 10, process)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM, (tmp_path / "log").read_text()
    done = [line["name"] for part in (tmp_path / "out/parts").iterdir() for line in lines(part)]
    written = {str(p.relative_to(tmp_path / "out"))[:-len("_mask.png")]
               for p in (tmp_path / "out").rglob("*_mask.png")}
    failed = {f["name"] for f in lines(unbroken / "failures.jsonl")}
    assert {*done} - failed == written and 10 < len(done) < 200
    assert not list((tmp_path / "out/parts").glob("unfinished*"))
    assert run(*command, log=tmp_path / "log")[0] == 2
    assert everything(tmp_path / "out") == everything(unbroken)


def test_two_shards_give_what_one_process_gives(checkpoint, many, unbroken, tmp_path):
    output = tmp_path / "out"
    command = arguments(checkpoint, many, output)
    processes = [start(*command, f"--shard={k}/2", log=tmp_path / f"log{k}") for k in range(2)]
    for process in processes:
        process.join(120)
    assert [p.exitcode for p in processes] == [2, 2]
    both = [lines(output / f"results-{k}-of-2.jsonl") for k in range(2)]
    whole = lines(unbroken / "results.jsonl")
    assert [r["image"] for r in both[0]] == sorted(r["image"] for r in both[0])
    assert sorted(both[0] + both[1], key=lambda r: r["image"]) == whole
    # Another division takes all of it over.
    code, log = run(*command, log=tmp_path / "log")
    assert code == 2 and "nothing was left to do" in log, log
    assert everything(output) == everything(unbroken)


def test_hosts_that_know_of_each_other_share_the_work(checkpoint, many, unbroken, tmp_path):
    output = tmp_path / "out"
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        place = f"localhost:{probe.getsockname()[1]},2"
    processes = [start(*arguments(checkpoint, many, output, f"--distributed={place},{k}"),
                       log=tmp_path / f"log{k}", seconds=0.05 * k) for k in range(2)]
    for process in processes:
        process.join(120)
    logs = [(tmp_path / f"log{k}").read_text() for k in range(2)]
    assert [p.exitcode for p in processes] == [2, 2], logs
    both = [lines(output / f"results-{k}-of-2.jsonl") for k in range(2)]
    assert sorted(both[0] + both[1], key=lambda r: r["image"]) == lines(unbroken / "results.jsonl")


def test_a_split_of_a_data_set(checkpoint, tmp_path):
    scarred_photos.make_dataset(tmp_path / "photos", num_train=6, num_test=4)
    builder.prepare(open_dataset("synthscars/photos", str(tmp_path / "photos")), tmp_path / "data")
    command = (f"--checkpoint={checkpoint}", f"--data_dir={tmp_path / 'data'}", "--split=test[1:]",
               f"--output={tmp_path / 'out'}", "--write=")
    code, log = run(*command, log=tmp_path / "log")
    assert code == 0, log
    records = prepared.open_split(tmp_path / "data", "test[1:]")
    results = lines(tmp_path / "out/results.jsonl")
    assert [r["image"] for r in results] == [record["id"].decode() for record in records]
    assert [r["size"] for r in results] == [[record["height"], record["width"]]
                                            for record in records]
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


def cli(folder, source, output, *extra):
    """The real command; the compiled programs are kept for the next."""
    return [sys.executable, "-m", "tools.predict",
            *arguments(folder, source, output, "--write=json,mask,overlay", "--batch_size=2",
                       "--explain=always", *extra)]


def environment(cache):
    return os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache),
                         "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def test_the_real_command(folder, photos, tmp_path):
    source = tmp_path / "photos"
    (source / "inner").mkdir(parents=True)
    Image.fromarray(photos[0]).save(source / "a.png")
    Image.fromarray(photos[1]).save(source / "a.jpg")
    Image.fromarray(photos[2]).save(source / "inner" / "b.png")
    whole = (source / "a.jpg").read_bytes()
    (source / "cut.jpg").write_bytes(whole[:len(whole) // 2])
    (source / "notes.txt").write_text("no image")
    done = subprocess.run(cli(folder, source, tmp_path / "out"), capture_output=True, text=True,
                          check=False)
    assert done.returncode == 2, done.stderr
    assert "cut.jpg" in done.stderr and "notes.txt" in done.stderr
    assert "Traceback" not in done.stderr
    assert "3 photos, 2 left out; 5 photos in" in done.stdout
    names = {f"{n}{s}" for n in ("a_png", "a_jpg", "inner/b")
             for s in (".json", "_mask.png", "_overlay.png")}
    assert set(everything(tmp_path / "out")) == names | {"results.jsonl", "failures.jsonl"}
    result = lines(tmp_path / "out" / "results.jsonl")[1]
    assert result["name"] == "a_png" and result["size"] == [40, 60]
    assert result["verdict"] in ("tampered", "real")
    mask = np.asarray(Image.open(tmp_path / "out" / "a_png_mask.png"))
    union = np.zeros((40, 60), bool)
    for artifact in result["artifacts"]:
        start, end = artifact["span"]
        assert result["explanation"][start:end] == artifact["phrase"]
        if artifact["rle"]:
            union |= regions.rle_to_mask(artifact["rle"]).astype(bool)
    np.testing.assert_array_equal(mask > 0, union)


@pytest.mark.slow
def test_the_real_command_killed_three_times(folder, many, tmp_path):
    def count(output):
        return sum(len(lines(part)) for part in (output / "parts").glob("part-*"))

    where = environment(tmp_path / "cache")
    wanted, output = tmp_path / "unbroken", tmp_path / "out"
    done = subprocess.run(cli(folder, many, wanted), env=where, capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
    for _ in range(3):
        process = subprocess.Popen(cli(folder, many, output, "--flush_seconds=0.05"), env=where)
        before = count(output)
        while count(output) < before + 20:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.wait()
    assert 60 <= count(output) < 200
    done = subprocess.run(cli(folder, many, output), env=where, capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
    assert lines(output / "failures.jsonl") == lines(wanted / "failures.jsonl")
    for one, other in zip(lines(output / "results.jsonl"), lines(wanted / "results.jsonl"),
                          strict=True):
        # Other neighbours in a batch may round a last digit otherwise.
        for key in ("probability", "fake_probability"):
            assert one.pop(key) == pytest.approx(other.pop(key), abs=2e-5)
        for line in (one, other):
            for artifact in line["artifacts"]:
                artifact.pop("score"), artifact.pop("rle")
        assert one == other
    assert {*everything(output)} == {*everything(wanted)}


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
