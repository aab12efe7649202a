"""One process at a time in a folder, on a disk and in a bucket, and who follows a dead one."""

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
import time

import bucket_server
import pytest
from repository import ROOT

from input_pipeline import buckets, files, in_use
from input_pipeline.in_use import FILE, Holder, InUseError

server, bucket = bucket_server.server, bucket_server.bucket
HOLD = """
import sys, time
from input_pipeline import in_use
in_use.BEAT_SECONDS = 0.1
with in_use.alone(sys.argv[1], "training"):
    print("held", flush=True)
    sys.stdin.read(1)
print("left", flush=True)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A busy machine may keep a process from beating for a second or two."""
    monkeypatch.setattr(in_use, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(in_use, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(in_use, "STALE_SECONDS", 10.0)


@pytest.fixture
def impatient(monkeypatch):
    """For tests in which nobody beats."""
    monkeypatch.setattr(in_use, "STALE_SECONDS", 0.8)


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path):
    if request.param == "disk":
        return tmp_path / "run"
    return request.getfixturevalue("bucket") / "run"


@contextlib.contextmanager
def another(folder):
    """A process that is in the folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def elsewhere(**values):
    """What a process leaves that ran on another machine."""
    known = dict(host="tpu-7", pid=os.getpid(), since="2026-01-02 03:04:05+00:00", token="7",
                 machine="another", started=5)
    return Holder(**known | values)


def test_the_second_is_refused_by_name_and_let_in_when_the_first_has_left(folder):
    with another(folder) as first:
        since = json.loads((folder / FILE).read_bytes())["since"]
        start = time.monotonic()
        with pytest.raises(InUseError) as refused, in_use.alone(folder, "training"):
            raise AssertionError("let in")
        assert time.monotonic() - start < 5
        assert str(refused.value) == (
            f"{folder}: another training is at it: process {first.pid} on {os.uname().nodename}, "
            f"since {since}; wait for it or end it, or choose another folder")
        assert first.communicate("x")[0] == "left\n"
    with in_use.alone(folder, "training"):
        assert Holder.parse((folder / FILE).read_bytes()).pid == os.getpid()
    assert not (folder / FILE).exists()


def test_after_a_killed_process_of_this_machine_nobody_waits(folder):
    with another(folder) as first:
        first.kill()
        first.wait()
        assert (folder / FILE).exists()
        start = time.monotonic()
        with in_use.alone(folder, "training"):
            assert time.monotonic() - start < 5
            assert Holder.parse((folder / FILE).read_bytes()).pid == os.getpid()


def test_a_number_that_another_process_has_now_is_no_sign_of_life():
    me = Holder.this()
    assert not me.is_gone() and Holder.parse(me.content(3)) == me
    assert Holder(**vars(me) | {"started": me.started - 1}).is_gone()
    assert not elsewhere().is_gone()


def test_a_process_elsewhere_that_is_silent_is_watched_and_then_followed(
        bucket, caplog, impatient):
    (bucket / FILE).write_bytes(elsewhere().content())
    start = time.monotonic()
    with in_use.alone(bucket, "training"):
        assert 0.6 < time.monotonic() - start < 5
        assert "process" in caplog.text and "tpu-7" in caplog.text
    assert bucket_server.objects(bucket) == {}


def test_one_that_has_been_silent_for_long_by_the_clock_of_the_bucket_is_followed_at_once(
        bucket, monkeypatch, impatient):
    (bucket / FILE).write_bytes(elsewhere().content())
    time.sleep(0.9)
    monkeypatch.setattr(in_use, "LOOK_SECONDS", 60)  # nobody watches
    start = time.monotonic()
    with in_use.alone(bucket, "training"):
        assert time.monotonic() - start < 5


def test_of_many_that_start_at_once_one_is_let_in(folder):
    inside, refused, ready, done = [], [], threading.Barrier(6), threading.Event()

    def start(number):
        ready.wait()
        try:
            with in_use.alone(folder, "training"):
                inside.append(number)
                done.wait()
        except InUseError:
            refused.append(number)
            if len(refused) == 5:
                done.set()

    threads = [threading.Thread(target=start, args=(number,), daemon=True) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (len(inside), len(refused)) == (1, 5)


def test_a_process_that_was_given_up_too_early_ends_when_it_notices(bucket):
    with another(bucket) as first:
        (bucket / FILE).write_bytes(elsewhere().content())
        assert first.wait(20) == 1
        log = first.stderr.read()
        assert log.splitlines()[-1].startswith(f"error: {bucket}: taken over by process ")
    assert Holder.parse((bucket / FILE).read_bytes()).host == "tpu-7"


def test_an_outage_is_said_once_and_survived(bucket, monkeypatch, caplog):
    with in_use.alone(bucket, "training"):
        def fail(*_, **__):
            raise buckets.BucketError("no network")

        with monkeypatch.context() as patched:
            patched.setattr(files, "write_bytes", fail)
            time.sleep(0.5)
        before = (bucket / FILE).read_bytes()
        deadline = time.monotonic() + 10
        while (bucket / FILE).read_bytes() == before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (bucket / FILE).read_bytes() != before
    assert caplog.text.count("no network") == 1


def test_a_disk_without_locks_is_said_and_used_as_a_bucket(tmp_path, monkeypatch, caplog):
    def none(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files, "lock", none)
    folder = tmp_path / "run"
    with in_use.alone(folder, "training"):
        assert "No locks available" in caplog.text
        with pytest.raises(InUseError, match=f"process {os.getpid()} on"):
            with in_use.alone(folder, "training"):
                raise AssertionError("let in")
    with in_use.alone(folder, "training"):
        pass
    assert not (folder / FILE).exists()


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"\xff", b'{"pid": 1}', elsewhere(pid="7").content(), b"[" * 5000])
def test_what_names_nobody(content):
    assert Holder.parse(content) is None


def test_what_names_nobody_and_stays_as_it_is_is_followed(bucket, impatient):
    (bucket / FILE).write_bytes(b"{")
    with in_use.alone(bucket, "training"):
        assert Holder.parse((bucket / FILE).read_bytes())


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("kept")
    (tmp_path / FILE).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=FILE), in_use.alone(tmp_path, "training"):
        pass
    assert (tmp_path / "mine").read_text() == "kept"


def test_a_folder_that_nothing_was_made_of_is_not_left(tmp_path):
    with pytest.raises(ZeroDivisionError), in_use.alone(tmp_path / "run", "training"):
        raise ZeroDivisionError
    assert not os.listdir(tmp_path)
    with in_use.alone(tmp_path / "run", "training"):
        (tmp_path / "run/made").touch()
    assert os.listdir(tmp_path / "run") == ["made"]
