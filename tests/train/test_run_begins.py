"""What a run says and refuses before its first update."""

import logging

import jax
import pytest
import small_data

from input_pipeline import in_use
from input_pipeline.in_use import InUseError
from legion_jax import sharding
from legion_jax.train import setup
from legion_jax.train.run import train

data = small_data.data


class ReachedError(Exception):
    """The place where these tests end a run."""


@pytest.fixture
def config(data):
    config = small_data.make_config(data)
    config.data.tokenizer, config.compile_cache = str(data / "tokenizer"), False
    config.batch_size = 8
    return config


def reached(*_):
    raise ReachedError


def test_large_copies_are_said(config, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(setup, "open_base", reached)
    monkeypatch.setattr(sharding, "LARGE_BYTES", 1)  # two classes are not eight
    for mesh, said in (((8, 1, 1), 0), ((1, 8, 1), 1)):
        config.mesh = mesh
        caplog.clear()
        with caplog.at_level(logging.WARNING), pytest.raises(ReachedError):
            train(config, tmp_path / "run")
        assert len([r for r in caplog.records if "this mesh" in r.getMessage()]) == said


@pytest.mark.parametrize("index", [0, 1])
def test_a_second_run_in_a_work_directory_is_refused(config, tmp_path, monkeypatch, index):
    """By its first process, for all of them: the others wait for it."""
    monkeypatch.setattr(setup, "read_task", reached)
    monkeypatch.setattr(jax, "process_index", lambda: index)
    with in_use.alone(tmp_path / "run", "training"):
        before = (tmp_path / "run" / in_use.FILE).read_bytes()
        with pytest.raises((InUseError, ReachedError)[index], match=("another training", "")[index]):
            train(config, tmp_path / "run")
        assert [(p.name, p.read_bytes()) for p in (tmp_path / "run").iterdir()] == [
            (in_use.FILE, before)]
    with pytest.raises(ReachedError):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
