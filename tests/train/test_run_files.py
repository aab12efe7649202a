"""What a run writes first: its legion.json is that of no other run."""

import json
import types

import pytest

from input_pipeline.errors import UserError
from legion_jax.config import tiny
from legion_jax.train import recipes, setup
from legion_jax.train.knobs import RunSettings
from legion_jax.weights import checkpoint
from legion_jax.weights.checkpoint import Checkpoint

TASK = types.SimpleNamespace(
    model=tiny(), examples=types.SimpleNamespace(sam_longest=64),
    tokenizer=types.SimpleNamespace(save=lambda folder: None))


def fingerprint(workdir, **knobs) -> str:
    config = recipes.load("tiny").get_config()
    config.update(knobs)
    settings = RunSettings.from_config(config, without_data=True)
    setup.write_run_files(settings, TASK, {"a": 1}, workdir)
    return Checkpoint.open(workdir).fingerprint


@pytest.mark.parametrize("knobs", [{"seed": 5}, {"batch_size": 8}, {"optimizer": {"beta2": 0.9}}])
def test_runs_of_other_knobs_are_told_apart(tmp_path, knobs):
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b", **knobs)


def test_a_run_stays_itself_when_it_is_started_anew(tmp_path, monkeypatch):
    first = fingerprint(tmp_path)
    monkeypatch.setattr(checkpoint, "latest_step", lambda workdir: 1)
    assert fingerprint(tmp_path, log_every=7) == first  # a knob that may change


def test_a_damaged_config_is_named(tmp_path, monkeypatch):
    fingerprint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    monkeypatch.setattr(checkpoint, "latest_step", lambda workdir: 1)
    with pytest.raises(UserError, match="config.json"):
        fingerprint(tmp_path)


def test_a_run_of_an_earlier_version_stays_what_its_results_name(tmp_path, monkeypatch):
    fingerprint(tmp_path)
    written = json.loads((tmp_path / "legion.json").read_text())
    del written["run"]
    (tmp_path / "legion.json").write_text(json.dumps(written))
    monkeypatch.setattr(checkpoint, "latest_step", lambda workdir: 1)
    fingerprint(tmp_path)
    assert "run" not in json.loads((tmp_path / "legion.json").read_text())
