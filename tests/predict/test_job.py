"""legion_jax/predict/job.py: one job from its claim on a folder to its merged record."""

import json
import os
import signal
import subprocess
import sys
import time

import bucket_server
import numpy as np
import pytest
from bucket_server import objects
from PIL import Image
from stub_predict import StubPredictor, answer, make_checkpoint

from input_pipeline.photos.images import read_image
from legion_jax.predict import job as job_module, result_files
from legion_jax.predict.job import BatchJob, JobError, Options, Progress
from legion_jax.predict.job_lines import Share
from legion_jax.predict.photo_sources import open_source
from legion_jax.weights.checkpoint import Checkpoint

server, bucket = bucket_server.server, bucket_server.bucket


@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory):
    return str(make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "c", config))


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(2)
    (tmp_path / "photos").mkdir()
    for index in range(11):
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).save(
            tmp_path / "photos" / f"p{index:02d}.png")
    return tmp_path / "photos"


def job(output, source, checkpoint, **options):
    options = {"write": ("mask",), "flush_seconds": 100.0} | options
    return BatchJob(output, open_source(str(source)), checkpoint=Checkpoint.open(checkpoint),
                    options=Options(**options))


def test_a_job_from_bucket_to_bucket(bucket, photos, checkpoint):
    for path in photos.iterdir():
        (bucket / "in" / path.name).write_bytes(path.read_bytes())
    (bucket / "in" / "bad.png").write_bytes(b"text")
    output = bucket / "out"
    one = job(output, bucket / "in", checkpoint, share=Share(0, 2), write=result_files.KINDS)
    assert list(one.left) == [0, 2, 4, 6, 8, 10]
    one.run(StubPredictor())
    assert one.finish() == (5, 1)
    with pytest.raises(JobError, match="settings: explain was fakes, is now never"):
        job(output, bucket / "in", checkpoint, explain="never", write=result_files.KINDS)
    rest = job(output, bucket / "in", checkpoint, write=result_files.KINDS)
    assert list(rest.left) == [1, 3, 5, 7, 9, 11]
    rest.run(StubPredictor())
    assert rest.finish() == (11, 1)
    results = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    assert [r["image"] for r in results] == [f"{bucket}/in/p{k:02d}.png" for k in range(11)]
    pixels = read_image(photos / "p03.png")
    assert results[3] == result_files.as_json(results[3]["image"], "p03", answer(pixels))
    names = set(objects(output))
    assert names == {"job.json", "results.jsonl", "failures.jsonl"} | {
        f"p{k:02d}{ending}" for k in range(11) for ending in result_files.ENDINGS.values()}


def test_photos_are_taken_as_the_predictor_needs_them(photos, tmp_path, checkpoint):
    predictor = StubPredictor(batch_size=3)
    one = job(tmp_path / "out", photos, checkpoint)
    one.run(predictor)
    assert predictor.most_taken == 3 and one.finish() == (11, 0)
    assert not list((tmp_path / "out").rglob("*.json*.writing"))


def test_an_error_of_the_predictor_keeps_what_was_done(photos, tmp_path, checkpoint):
    def fail(number):
        if number == 6:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        job(tmp_path / "out", photos, checkpoint).run(StubPredictor(batch_size=1, after=fail))
    rest = job(tmp_path / "out", photos, checkpoint)
    assert len(rest.left) == 6
    rest.run(StubPredictor())
    assert rest.finish() == (11, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_what_is_in_flight(photos, tmp_path, checkpoint, number):
    def tell(answered):
        if answered == 2:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        job(tmp_path / "out", photos, checkpoint).run(StubPredictor(after=tell))
    assert stopped.value.code == 128 + number and signal.getsignal(number) == before
    assert len(job(tmp_path / "out", photos, checkpoint).left) == 11 - 4  # the batch it was at


def test_a_failure_leaves_no_files_of_an_earlier_try(photos, tmp_path, checkpoint):
    one = job(tmp_path / "out", photos, checkpoint)
    (tmp_path / "out/p04_mask.png").write_bytes(b"of a run that was killed before its line")
    (photos / "p04.png").write_bytes(b"damaged meanwhile")
    one.run(StubPredictor())
    assert one.finish() == (10, 1) and not (tmp_path / "out/p04_mask.png").exists()


def test_a_folder_of_another_job_is_refused(photos, tmp_path, checkpoint):
    job(tmp_path / "out", photos, checkpoint)
    Image.new("RGB", (4, 4)).save(photos / "new.png")
    with pytest.raises(JobError, match="out/job.json: source: photos was 11, is now 12; choose"):
        job(tmp_path / "out", photos, checkpoint)
    (photos / "new.png").rename(photos / "other.png")
    (photos / "p00.png").unlink()
    with pytest.raises(JobError, match="source: names was"):
        job(tmp_path / "out", photos, checkpoint)
    (tmp_path / "out/job.json").write_text("{")
    with pytest.raises(JobError, match="job.json: damaged"):
        job(tmp_path / "out", photos, checkpoint)
    (tmp_path / "out/job.json").unlink()
    (tmp_path / "out/results.jsonl").write_text("mine")
    with pytest.raises(JobError, match="results.jsonl: there, but no job.json"):
        job(tmp_path / "out", photos, checkpoint)
    assert (tmp_path / "out/results.jsonl").read_text() == "mine"


def test_a_newer_checkpoint_of_the_run_is_another_job(photos, tmp_path, checkpoint, config):
    run = make_checkpoint(tmp_path / "run", config)
    (run / "checkpoints" / "10").mkdir(parents=True)
    job(tmp_path / "out", photos, str(run))
    run.rename(tmp_path / "moved")
    job(tmp_path / "out", photos, str(tmp_path / "moved"))  # wherever it lies
    (tmp_path / "moved" / "checkpoints" / "20").mkdir()
    with pytest.raises(JobError, match="checkpoint: step was 10, is now 20"):
        job(tmp_path / "out", photos, str(tmp_path / "moved"))


def test_two_processes_do_not_do_the_same_share(photos, tmp_path, checkpoint):
    one = job(tmp_path / "out", photos, checkpoint, share=Share(1, 3))
    # A process of its own, because locks are a process's.
    code = (f"import fcntl\nheld = open({str(tmp_path / 'out/job.json')!r}, 'r+b')\n"
            "fcntl.lockf(held, fcntl.LOCK_EX, 1, 3 + 1)\nprint('held', flush=True)\ninput()")
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(JobError, match="another process is at share 1 of 3"):
        one.run(StubPredictor())
    job(tmp_path / "out", photos, checkpoint, share=Share(2, 3)).run(StubPredictor())
    other.kill()
    other.communicate()
    one.run(StubPredictor())
    assert one.finish() == (4, 0)


def test_pixels_are_only_kept_for_overlays(photos, tmp_path, checkpoint, monkeypatch):
    seen = []
    write = result_files.write
    monkeypatch.setattr(result_files, "write", lambda output, line, pixels, *args, **options: (
        seen.append(pixels is None), write(output, line, pixels, *args, **options)))
    job(tmp_path / "a", photos, checkpoint, write=("json",)).run(StubPredictor())
    assert seen == [True] * 11
    job(tmp_path / "b", photos, checkpoint, write=("overlay",)).run(StubPredictor())
    assert seen[11:] == [False] * 11


def test_a_line_now_and_then_without_a_terminal(capfd, monkeypatch):
    monkeypatch.setattr(job_module, "LINE_SECONDS", 0.05)
    with Progress(1000, done=100, failed=3) as progress:
        for _ in range(20):
            progress.add()
        progress.add("x.jpg: broken")
        time.sleep(0.15)
    out, err = capfd.readouterr()
    shown = err.splitlines()
    assert shown[0] == "skipped: x.jpg: broken" and not out
    assert len(shown) <= 5 and all("\r" not in line for line in shown)
    assert shown[1].startswith("121 of 1,000 photos, 4 left out, ") and " left" in shown[1]
    assert progress.summary().startswith("21 photos in ")


def test_the_speed_is_that_of_the_last_while(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(job_module.time, "monotonic", lambda: now[0])
    progress = Progress(10_000, done=0, failed=0)
    for second in range(1, 601):
        now[0] = float(second)
        for _ in range(1 if second < 300 else 5):
            progress.add()
        if second % 30 == 0:
            speed = progress.speed()
    assert abs(speed - 5) < 0.1
    assert "5.0 photos/s" in progress.line() and " 27 min " in progress.line()


def test_failures_do_not_bury_everything(capfd):
    with Progress(100, done=0, failed=0) as progress:
        for number in range(60):
            progress.add(f"{number}.jpg: broken")
    shown = capfd.readouterr().err.splitlines()
    assert len(shown) == job_module.SHOWN_FAILURES + 1 and "only counted" in shown[-1]
    assert progress.failed == 60
