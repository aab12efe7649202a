"""Fifty kills at random moments of a run: no checkpoint is lost, and the outcome is the same."""

import collections
import contextlib
import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import time

import commands
import jax
import numpy as np
import pytest
import small_runs
import stored_params
from orbax.checkpoint import v1 as ocp
from random_models import randomized

from input_pipeline.text.tokenizer import Tokenizer
from legion_jax.config import LoraConfig
from legion_jax.models import param_tree
from legion_jax.weights import checkpoint, legion_json

KILLS, STEPS = 50, 240
# Where a kill is aimed at: before the first new step, at any moment of stepping, into a save.
AIMS = ["start"] * 12 + ["steps"] * 19 + ["save"] * 19
data = small_runs.data


@pytest.fixture(scope="module")
def base(config, data, tmp_path_factory):
    """A converted checkpoint of a small model; only its verdict is trained, in milliseconds."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer.from_folder(data / "tokenizer")
    sized = dataclasses.replace(config, lora=LoraConfig(rank=0), language=dataclasses.replace(
        config.language, vocab=tokenizer.vocab_size, max_positions=512))
    model = randomized(param_tree.abstract_model(sized))
    stored_params.save_params(folder, param_tree.flatten(
        param_tree.split_params(model, param_tree.EVERYTHING)[1]))
    tokenizer.save(folder / "tokenizer")
    legion_json.write_meta(folder, sized, base=None, trained=[])
    return folder


@pytest.fixture
def start(data, base, tmp_path, monkeypatch):
    """`start(workdir)`: the run, in a process of its own with one device."""
    for name, value in small_runs.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} --xla_backend_optimization_level=0")

    def start(workdir):
        arguments = small_runs.arguments(
            data, workdir, f"--config.init_from={base}", f"--config.optimizer.total_steps={STEPS}",
            "--config.log_every=3", *small_runs.VERDICT_ONLY)
        return commands.start("legion_jax.train", *arguments)
    return start


def newest(workdir: pathlib.Path) -> int:
    """Step of the newest complete checkpoint, 0 without one."""
    return checkpoint.latest_step(workdir) or 0


def unfinished(workdir: pathlib.Path) -> set[str]:
    """Folders of checkpoints that are being written, or were when the run was killed."""
    with contextlib.suppress(FileNotFoundError):
        return {name for name in os.listdir(workdir / "checkpoints") if not name.isdigit()}
    return set()


def wait(process, condition) -> None:
    """Until the condition holds, or the process has ended."""
    deadline = time.monotonic() + 300
    while not condition() and process.returncode is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def sleep(process, seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def kill(start, workdir, rng, aim: str, usual: float) -> tuple[str, str]:
    """Start the run and kill it at a random moment; returns where that was, and its log."""
    before, left = newest(workdir), unfinished(workdir)
    process = start(workdir)
    if aim == "start":
        sleep(process, rng.uniform(0, usual))
    else:
        wanted = before + rng.randint(1, 4)
        wait(process, lambda: newest(workdir) >= wanted)
        if aim == "save":
            wait(process, lambda: unfinished(workdir) - left)
        sleep(process, rng.uniform(0, 0.1))
    assert process.returncode is None, "it ended before it was killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if unfinished(workdir) - left:
        return "save", process.log.read_text()
    return ("steps" if newest(workdir) > before else "start"), process.log.read_text()


def check(workdir: pathlib.Path, least: int, wanted: list[str]) -> int:
    """The newest complete checkpoint can be read whole, and the log knows all steps before it."""
    step = newest(workdir)
    assert step >= least
    if step:
        assert contents(workdir, step) and checkpoint.read_meta(workdir).trained
    log = workdir / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    assert lines[:step] == wanted[:step]
    return step


def contents(workdir, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, parameters and the optimizer's."""
    loaded = ocp.load_checkpointables(checkpoint.step_folder(workdir, step))
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        {name: loaded[name] for name in ("params", "optimizer")})
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.slow
def test_fifty_kills(start, tmp_path):
    rng, fell = random.Random(0), collections.Counter()
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    begun = time.monotonic()
    process = start(whole)
    process.wait()
    assert process.returncode == 0, process.log.read_text()[-3000:]
    process = start(tmp_path / "warm")  # how long it takes with all programs compiled
    once = time.monotonic()
    wait(process, lambda: newest(tmp_path / "warm"))
    usual = time.monotonic() - once
    process.kill()
    print(f"unbroken {once - begun:.0f} s, to the first checkpoint {usual:.1f} s", flush=True)
    wanted, step = (whole / "metrics.jsonl").read_text().splitlines(), 0
    for number, aim in enumerate(rng.sample(AIMS, KILLS), 1):
        where, log = kill(start, workdir, rng, aim, usual)
        fell[where] += 1
        assert "resumed" not in log or f"resumed from step {step} " in log
        assert "error" not in log.lower(), log[-3000:]
        step = check(workdir, step, wanted)
        print(f"kill {number}: aimed at {aim}, fell into {where}; step {step}", flush=True)
    process = start(workdir)
    process.wait()
    assert process.returncode == 0, process.log.read_text()[-3000:]
    assert (workdir / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    ours, theirs = contents(workdir, STEPS), contents(whole, STEPS)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    print(f"{dict(fell)} in {time.monotonic() - begun:.0f} s", flush=True)
    assert min(fell[where] for where in ("start", "steps", "save")) >= 3
