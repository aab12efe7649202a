"""Training runs of eight updates on a few scarred photos, started as a user starts them."""

import os
import pathlib
import subprocess
import sys

import pytest
import small_data

STEPS = 8
SMALL = [
    "--config.batch_size=4", f"--config.optimizer.total_steps={STEPS}", "--config.log_every=3",
    "--config.optimizer.warmup_steps=2", "--config.checkpoint_every=2",
    "--config.data.mask_canvas=80", "--config.data.text_length=220"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A few scarred photos, prepared, and a tokenizer."""
    root = tmp_path_factory.mktemp("data")
    small_data.make(root, train=12, test=4)
    return root


def command(data, workdir, *extra):
    return [sys.executable, "-m", "legion_jax.train", "--config", "experiments/tiny.py",
            "--workdir", str(workdir), f"--config.data.data_dir={data / 'data'}",
            f"--config.data.tokenizer={data / 'tokenizer'}", *SMALL, *extra]


def environment(devices=1):
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}


def run(data, workdir, *extra, devices=1):
    """The command with a relative work directory, as a user would type it."""
    workdir = os.path.relpath(workdir)
    return subprocess.run(command(data, workdir, *extra), env=environment(devices),
                          capture_output=True, text=True, check=False)


def metrics(workdir):
    return (pathlib.Path(workdir) / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    done = run(data, workdir)
    assert done.returncode == 0, done.stderr
    return workdir
