"""tools/predict.py killed, told to stop, or shared by several: as if nothing had happened."""

import os
import signal
import socket
import time

import predict_jobs
from predict_jobs import arguments, everything
from stub_predict import lines, run, start

checkpoint, many, unbroken = predict_jobs.checkpoint, predict_jobs.many, predict_jobs.unbroken


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
