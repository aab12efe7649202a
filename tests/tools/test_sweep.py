"""tools/sweep: what it starts, refuses, continues and collects, on a stub of training."""

import csv
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
import types

import commands
import pytest
import quick_xla
import small_data
import stub_run
import svg_shapes
from repository import ROOT, SUPPORT

from legion_jax.train.sweep_plan import SweepError
from tools.sweep import __main__ as sweep, process, runs as sweep_runs

KNOBS = {"data.data_dir": ".", "data.tokenizer": ".", "optimizer.total_steps": 6,
         "checkpoint_every": 2}


def write_sweep(folder, runs="plan.grid({'model.lora_rank': (1, 2, 4)})", **fields):
    """A sweep file; `fields` are given as source text."""
    fields = {"base": "'experiments/tiny.py'", "metric": "'localisation.mean.f1'",
              "common": repr(KNOBS), "runs": runs} | fields
    path = folder / "one.py"
    path.write_text("from legion_jax.train import sweep_plan as plan\n\n\ndef get_sweep(size=''):\n"
                    f"    return plan.Sweep({', '.join(f'{k}={v}' for k, v in fields.items())})\n")
    return path


@pytest.fixture
def go(tmp_path, monkeypatch):
    """Runs the tool with the stub in place of training and evaluation; returns the exit code."""
    monkeypatch.chdir(ROOT)
    for name in ("train_command", "evaluate_command"):  # given back in the end
        monkeypatch.setattr(sweep_runs.Run, name, getattr(sweep_runs.Run, name))
    stub_run.install(sweep_runs)
    monkeypatch.setattr(process, "TICK", 0.01)
    monkeypatch.setenv("STUB_CALLS", str(tmp_path / "calls"))

    def run(path, **options):
        given = {"sweep": str(path), "output": str(tmp_path / "out"), "set": [], "index": None,
                 "print_commands": False, "collect": False} | options
        return sweep.main(types.SimpleNamespace(**given))
    return run


def calls(folder):
    """What the stub was asked to do: "train rank=1"."""
    path = folder / "calls"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def rows(folder):
    with (folder / "out/table.csv").open() as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def test_runs_all_compares_and_does_nothing_twice(go, tmp_path, capsys):
    path = write_sweep(tmp_path)
    assert go(path) == 0
    first = capsys.readouterr()
    assert calls(tmp_path) == [f"{what} lora_rank={n}" for n in (1, 2, 4)
                               for what in ("train", "evaluate")]
    assert "1 to go, about " in first.err
    files = {name: (tmp_path / "out" / name).read_bytes()
             for name in ("table.md", "table.csv", "plot.svg")}
    assert go(path) == 0
    assert len(calls(tmp_path)) == 6
    assert files == {name: (tmp_path / "out" / name).read_bytes() for name in files}
    scores = rows(tmp_path)["lora_rank=4"]
    assert float(scores["localisation.mean.f1"]) == pytest.approx(0.4)
    assert float(scores["train.loss"]) == pytest.approx(1 / 6)
    assert b"| **lora_rank=4** | 4 | 0.4 | finished |" in files["table.md"]
    heights = [y for _, y in svg_shapes.middles(files["plot.svg"].decode()).values()]
    assert len(heights) == 3 and heights == sorted(heights, reverse=True)


def test_a_failed_run_is_named_and_the_others_go_on(go, tmp_path, capsys, monkeypatch):
    path = write_sweep(tmp_path)
    monkeypatch.setenv("STUB_FAIL", "lora_rank=2")
    assert go(path) == 2
    assert "run lora_rank=2 failed: error: no luck at 4; see" in capsys.readouterr().err
    assert rows(tmp_path)["lora_rank=2"]["state"] == "failed: error: no luck at 4"
    assert rows(tmp_path)["lora_rank=4"]["state"] == "finished"
    monkeypatch.delenv("STUB_FAIL")
    go(path, collect=True)
    assert rows(tmp_path)["lora_rank=2"]["state"] == "at update 4 of 6"
    before = len(calls(tmp_path))
    assert go(path) == 0
    assert calls(tmp_path)[before:] == ["train lora_rank=2", "evaluate lora_rank=2"]
    assert "resumed from 4" in (tmp_path / "out/runs/lora_rank=2/log.txt").read_text()


def test_changed_overrides_of_a_run_are_refused_with_both_values(go, tmp_path):
    go(write_sweep(tmp_path, "{'a': {'model.lora_rank': 1}}"))
    with pytest.raises(SweepError, match="run a .*model.lora_rank was 1, now 2"):
        go(write_sweep(tmp_path, "{'a': {'model.lora_rank': 2}}"))
    with pytest.raises(SweepError, match="seed was 0, now 5"):
        go(write_sweep(tmp_path, "{'a': {'model.lora_rank': 1}}"), set=["seed=5"])
    assert len(calls(tmp_path)) == 2


def test_one_run_of_an_array_job_and_the_collection(go, tmp_path):
    path = write_sweep(tmp_path)
    assert go(path, index=1) == 0
    assert calls(tmp_path) == ["train lora_rank=2", "evaluate lora_rank=2"]
    assert not (tmp_path / "out/table.md").exists()
    assert go(path, collect=True) == 0
    assert [row["state"] for row in rows(tmp_path).values()] == [
        "not begun", "finished", "not begun"]
    with pytest.raises(SweepError, match="--index: 0 to 2, got 3"):
        go(path, index=3)


def test_printed_commands_are_shell_lines_that_do_the_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = write_sweep(tmp_path, "{'a': {'trainable': ('/lora_[ab]$', '^head/')},"
                                 " 'b': {'data.instruction': \"It's $HOME?\"}}")
    options = {"sweep": str(path), "output": str(tmp_path / "o p"), "set": ["seed=3"],
               "index": None, "print_commands": True, "collect": False}
    assert sweep.main(types.SimpleNamespace(**options)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and not (tmp_path / "o p").exists()
    words = [shlex.split(line) for line in lines]
    settings = []
    for name, line in zip("ab", words, strict=True):
        folder = str(tmp_path / "o p/runs" / name)
        cut = line.index("&&")
        assert line[:7] == ["python", "-m", "legion_jax.train", "--config", "experiments/tiny.py",
                            "--workdir", folder]
        settings.append(sweep_runs.parse(line[4], line[7:cut]))
        assert line[cut + 1:] == [
            "python", "-m", "legion_jax.evaluate", "--checkpoint", folder, "--data_dir", ".",
            "--split", "test", "--output", f"{folder}/evaluation", "--batch_size", "16"]
    assert settings[0].trainable == ("/lora_[ab]$", "^head/") and settings[0].seed == 3
    assert settings[1].data.instruction == "It's $HOME?"
    assert sweep.main(types.SimpleNamespace(**options | {"index": 1})) == 0
    assert capsys.readouterr().out.splitlines() == lines[1:]
    for evil in ("w\ntouch PWNED #", "w\rtouch PWNED", "w\x1b[A", "w\u202e"):
        with pytest.raises(SweepError, match="cannot stand in a line of shell"):
            sweep.main(types.SimpleNamespace(**options | {"set": [f"data.data_dir={evil}"]}))
        assert not capsys.readouterr().out


def test_a_killed_sweep_ends_its_training_and_is_continued(tmp_path, go):
    path = write_sweep(tmp_path)
    script = ("import types, stub_run\nfrom legion_jax import command\n"
              "from tools.sweep import __main__ as sweep, runs\nstub_run.install(runs)\n"
              f"o = types.SimpleNamespace(sweep={str(path)!r}, output={str(tmp_path / 'out')!r}, "
              "set=[], index=None, print_commands=False, collect=False)\n"
              "command.run(lambda: sweep.main(o))\n")
    started = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT,
                               env=os.environ | {
                                   "STUB_SLEEP": "30", "PYTHONPATH": f"{ROOT}:{SUPPORT}"})
    folder = tmp_path / "out/runs/lora_rank=1"
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints/2").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    with (folder / "log.txt").open("ab") as log, pytest.raises(BlockingIOError):
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    started.send_signal(signal.SIGTERM)
    assert started.wait(30) == 128 + signal.SIGTERM
    with (folder / "log.txt").open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody is left
    assert go(path) == 0
    assert "resumed from 2" in (folder / "log.txt").read_text()


def test_two_sweeps_do_not_share_a_run(go, tmp_path):
    path = write_sweep(tmp_path)
    folder = tmp_path / "out/runs/lora_rank=1"
    folder.mkdir(parents=True)
    with (folder / "log.txt").open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert go(path) == 2
    assert "lora_rank=1: another process" in rows(tmp_path)["lora_rank=1"]["state"]
    assert "train lora_rank=1" not in calls(tmp_path) and len(calls(tmp_path)) == 4


def test_training_alone_can_be_compared_and_undefined_numbers_are_dashes(go, tmp_path):
    assert go(write_sweep(tmp_path, metric="'train.loss'", evaluate=False,
                          higher_is_better=False)) == 0
    assert calls(tmp_path) == [f"train lora_rank={n}" for n in (1, 2, 4)]
    assert "| **lora_rank=1** | 1 | 0.1667 | finished |" in (tmp_path / "out/table.md").read_text()
    assert go(write_sweep(tmp_path, metric="'localisation.mean_with_artifacts.f1'")) == 0
    assert "| lora_rank=1 | 1 | - | finished |" in (tmp_path / "out/table.md").read_text()
    with pytest.raises(SweepError, match="localisation.mean.f1.x: no run wrote it"):
        go(write_sweep(tmp_path, metric="'localisation.mean.f1.x'"))


@pytest.mark.parametrize("fields, message", [
    ({"runs": "{}"}, "runs: the sweep has none"),
    ({"runs": "plan.grid({})"}, "grid: no knob to vary"),
    ({"runs": "plan.grid({'seed': ()})"}, "grid: seed has no values"),
    ({"runs": "plan.grid({'seed': 'ab'})"}, "grid: seed needs a list of values, got 'ab'"),
    ({"runs": "[{'model.lora_rnk': 2}]"}, "model.lora_rnk: no such knob, model.lora_rank"),
    ({"runs": "[{'seed': 'x'}]"}, "run seed=x: .*--config.seed=x"),
    ({"runs": "[{'seed': -1}]"}, "config.seed: at least 0, got -1"),
    ({"runs": "[{'seed': 1}, {'seed': 1}]"}, "run seed=1: .*would share one folder"),
    ({"runs": "{'a': {'seed': 1}, 'A': {'seed': 2}}"}, "run A: .*would share one folder"),
    ({"runs": "{'a/b': {'seed': 1}}"}, "run 'a/b': names a folder"),
    ({"base": "'experiments/none.py'"}, "experiments/none.py: no such base config file"),
    ({"metric": "'localisation.mean.f2'"},
     "metric localisation.mean.f2: no run wrote it; they wrote localisation.mean.f1"),
    ({"evaluate": "False"}, "comes from an evaluation"),
    ({"common": repr(KNOBS | {"data.data_dir": "nowhere"})}, "data.data_dir: nowhere is not there"),
    ({"common": "{}"}, "data.data_dir: name the folder"),
    ({"base": "1 / 0"}, "one.py: ZeroDivisionError"),
])
def test_mistakes_are_one_sentence(go, tmp_path, fields, message):
    with pytest.raises(SweepError, match=message) as error:
        go(write_sweep(tmp_path, **fields))
    assert "\n" not in str(error.value)
    # A wrong metric cannot be known before one run has been scored; then it stops the sweep.
    assert len(calls(tmp_path)) == (2 if "metric" in fields else 0)


@pytest.mark.slow
def test_a_real_sweep(tmp_path):
    small_data.make(tmp_path, train=12, test=4)
    knobs = {"data.data_dir": str(tmp_path / "data"), "data.mask_canvas": 80, "batch_size": 4,
             "data.tokenizer": str(tmp_path / "tokenizer"), "data.text_length": 220,
             "optimizer.total_steps": 4, "optimizer.warmup_steps": 1, "eval.max_new_tokens": 8}
    path = write_sweep(tmp_path, "plan.grid({'loss.bce': (1.0, 2.0)})", common=repr(knobs),
                       metric="'localisation.mean.miou'")
    words = ["tools.sweep", f"--sweep={path}", f"--output={tmp_path}/out"]
    # A batch of 4 does not divide over eight devices.
    one_device = os.environ | {"XLA_FLAGS": quick_xla.flags(1)}
    for _ in range(2):
        done = commands.run_tool(*words, env=one_device)
        assert done.returncode == 0, done.stderr
        assert [row["state"] for row in rows(tmp_path).values()] == ["finished"] * 2
    assert "finished in" not in done.stderr
