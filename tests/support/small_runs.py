"""Training runs of eight updates on a few scarred photos, started as a user starts them."""

import os
import pathlib
import time

import commands
import pytest
import quick_xla
import small_data

from legion_jax.weights import checkpoint

STEPS = 8
SMALL = [
    "--config.batch_size=4", f"--config.optimizer.total_steps={STEPS}", "--config.log_every=3",
    "--config.optimizer.warmup_steps=2", "--config.checkpoint_every=2",
    "--config.data.mask_canvas=80", "--config.data.text_length=220"]
# Of a loss of one term, for tests of what does not depend on the loss: its update compiles in a
# fifth of the time.
VERDICT_ONLY = ["--config.loss.ce=0.0", "--config.loss.bce=0.0", "--config.loss.dice=0.0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A few scarred photos, prepared, and a tokenizer."""
    root = tmp_path_factory.mktemp("data")
    small_data.make(root, train=12, test=4)
    return root


def arguments(data, workdir, *extra, recipe="experiments/tiny.py"):
    """Those of the training command."""
    return ["--config", recipe, "--workdir", str(workdir),
            f"--config.data.data_dir={data / 'data'}",
            f"--config.data.tokenizer={data / 'tokenizer'}", *SMALL, *extra]


def environment(devices=1):
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": quick_xla.flags(devices)}


def start(data, workdir, *extra, devices=1):
    """The training command, begun; it is not waited for."""
    return commands.start("legion_jax.train", *arguments(data, workdir, *extra),
                          env=environment(devices))


def run(data, workdir, *extra, devices=1, recipe="experiments/tiny.py"):
    """The training command with a relative work directory, as a user would type it."""
    workdir = os.path.relpath(workdir)
    return commands.run_tool("legion_jax.train", *arguments(data, workdir, *extra, recipe=recipe),
                             env=environment(devices))


def metrics(workdir):
    return (pathlib.Path(workdir) / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    done = run(data, workdir, *VERDICT_ONLY)
    assert done.returncode == 0, done.stderr
    return workdir


def wait_for(workdir, step, processes, seconds=600):
    """Until a checkpoint of `step` or later is there, or a process has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and all(p.poll() is None for p in processes):
        if (checkpoint.latest_step(workdir) or 0) >= step:
            return
        time.sleep(0.02)
    raise AssertionError([p.communicate(timeout=60)[1][-3000:] for p in processes])
