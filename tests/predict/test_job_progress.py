"""legion_jax/predict/job_progress.py: what is said of a job that is under way."""

import time

from legion_jax.predict import job_progress
from legion_jax.predict.job_progress import Progress


def test_a_line_now_and_then_without_a_terminal(capfd, monkeypatch):
    monkeypatch.setattr(job_progress, "LINE_SECONDS", 0.05)
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
    monkeypatch.setattr(job_progress.time, "monotonic", lambda: now[0])
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
    assert len(shown) == job_progress.SHOWN_FAILURES + 1 and "only counted" in shown[-1]
    assert progress.failed == 60
