"""What a run says and refuses before its first update."""

import logging

import jax
import pytest
import small_data

from input_pipeline import in_use
from input_pipeline.in_use import InUseError
from legion_jax import sharding
from legion_jax.memory import OutOfMemoryError
from legion_jax.train import run, setup
from legion_jax.train.step import TrainState

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
            run.train(config, tmp_path / "run")
        assert len([r for r in caplog.records if "this mesh" in r.getMessage()]) == said


@pytest.mark.parametrize("index", [0, 1])
def test_a_second_run_in_a_work_directory_is_refused(config, tmp_path, monkeypatch, index):
    """By its first process, for all of them: the others wait for it."""
    monkeypatch.setattr(setup, "read_task", reached)
    monkeypatch.setattr(jax, "process_index", lambda: index)
    error, words = (InUseError, "another training") if index == 0 else (ReachedError, "")
    with in_use.alone(tmp_path / "run", "training"):
        before = (tmp_path / "run" / in_use.FILE).read_bytes()
        with pytest.raises(error, match=words):
            run.train(config, tmp_path / "run")
        assert [(p.name, p.read_bytes()) for p in (tmp_path / "run").iterdir()] == [
            (in_use.FILE, before)]
    with pytest.raises(ReachedError):
        run.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


GPU = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 34359738368 bytes."


class FullStep:
    """Stands for the jitted step where the devices have no room for what it does at `place`."""

    def __init__(self, place):
        self._place = place

    def lower(self, *_):
        return self

    def compile(self):
        if self._place == "compile":
            raise jax.errors.JaxRuntimeError(GPU)

    def __call__(self, *_):
        raise jax.errors.JaxRuntimeError(GPU)


@pytest.mark.parametrize("place, doing", [
    ("compile", "compiling an update of 300 ids"), ("call", "training")])
def test_out_of_memory_is_called_so(config, tmp_path, monkeypatch, place, doing):
    """With all of a run as it is but its parameters, which take long to make, and its step."""
    monkeypatch.setattr(setup, "jit_step", lambda *_, **__: FullStep(place))
    monkeypatch.setattr(run, "first_state", lambda *_: (TrainState(0, {}, {}, False), {}))
    with pytest.raises(OutOfMemoryError) as raised:
        run.train(config, tmp_path / "run")
    assert str(raised.value).startswith(
        f"out of memory while {doing}: 32.0 GiB were asked for; this machine has ")
    assert "config.batch_size" in str(raised.value)


def test_compiled_programs_go_beside_the_run_unless_another_place_is_set(config, tmp_path,
                                                                         monkeypatch):
    monkeypatch.setattr(setup, "open_base", reached)
    config.compile_cache, before = True, jax.config.jax_compilation_cache_dir
    try:
        for place, kept in ((None, str(tmp_path / "run/compiled")), ("elsewhere", "elsewhere")):
            jax.config.update("jax_compilation_cache_dir", place)
            with pytest.raises(ReachedError):
                run.train(config, tmp_path / "run")
            assert jax.config.jax_compilation_cache_dir == kept
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
