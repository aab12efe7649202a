"""legion_jax/train/metrics_log.py: every line once, on a disk and in a bucket, after kills too."""

import json

import bucket_server
import pytest
from bucket_server import objects
from etils import epath

from legion_jax.train import metrics_log
from legion_jax.train.metrics_log import MetricsLog

server, bucket = bucket_server.server, bucket_server.bucket
NAMES = ("loss", "ce", "bce", "dice", "verdict", "grad_norm", "learning_rate")


@pytest.fixture(params=["local", "bucket"])
def workdir(request, tmp_path):
    return epath.Path(tmp_path) if request.param == "local" else (
        request.getfixturevalue("bucket") / "run")


def write(log, *steps):
    log.write([(step, dict.fromkeys(NAMES, float(step))) for step in steps], {})


def steps(workdir):
    return [json.loads(line)["step"]
            for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_was_killed_and_one_that_was_not(workdir):
    log = MetricsLog(workdir, start=0, total=8)
    write(log, 0, 1, 2)
    write(log, 3, 4, 5)
    log = MetricsLog(workdir, start=4, total=8)  # the first was killed: nothing closed it
    write(log, 4, 5)
    write(log, 6)
    write(log, 7)
    log.close()
    assert steps(workdir) == list(range(8))


def test_a_kill_between_the_merged_file_and_its_segments_loses_and_repeats_nothing(bucket):
    log = MetricsLog(bucket, start=0, total=4)
    write(log, 0, 1)
    write(log, 2, 3)
    kept = {path: path.read_bytes() for path in (bucket / "metrics_segments").iterdir()}
    log.close()
    assert steps(bucket) == [0, 1, 2, 3] and "metrics_segments" not in str(objects(bucket))
    for path, content in kept.items():
        path.write_bytes(content)
    MetricsLog(bucket, start=4, total=4).close()
    assert steps(bucket) == [0, 1, 2, 3]


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 1}\n{"step": 1, "lo')
    MetricsLog(epath.Path(tmp_path), start=1, total=2).close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 0, "loss": 1}\n'


def test_event_files_in_a_bucket_begin_anew_before_they_are_large(bucket, monkeypatch):
    monkeypatch.setattr(metrics_log, "EVENT_BYTES", 2000)
    log = MetricsLog(bucket, start=0, total=100)
    for step in range(30):
        write(log, step)
    log.close()
    sizes = objects(bucket / "tensorboard").values()
    assert len(sizes) > 3 and max(sizes) < 4000
    assert sum(sizes) > 30 * len(NAMES) * 20
