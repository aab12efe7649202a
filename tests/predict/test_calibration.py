"""The temperature beside a checkpoint: kept, and refused for other parameters."""

import json

import empty_run
import pytest

from legion_jax.predict import calibration
from legion_jax.weights import legion_json
from legion_jax.weights.checkpoint import Checkpoint, CheckpointError

run = empty_run.run


def test_a_folder_remembers_its_temperature(run):
    assert calibration.load(Checkpoint.open(run)) is None
    calibration.save(Checkpoint.open(run), 1.25, split="validation", num_photos=9)
    assert calibration.load(Checkpoint.open(run)) == 1.25
    saved = json.loads((run / "calibration.json").read_text())
    assert saved["step"] == 7 and saved["split"] == "validation"
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []


def test_a_run_that_went_on_is_not_calibrated(run):
    calibration.save(Checkpoint.open(run), 1.25)
    (run / "checkpoints" / "9").mkdir()
    with pytest.raises(CheckpointError, match="fitted on step 7, but here is 9"):
        calibration.load(Checkpoint.open(run))


def test_another_checkpoint_in_its_place_is_not_calibrated(run, config):
    calibration.save(Checkpoint.open(run), 1.25)
    legion_json.write_meta(run, config, base=None, other=True)
    with pytest.raises(CheckpointError, match="fitted on checkpoint with SHA-256"):
        calibration.load(Checkpoint.open(run))


@pytest.mark.parametrize("text", [
    "", "[]", '{"format": 1}', '{"format": 2, "temperature": 1, "fingerprint": "", "step": 7}',
    '{"format": 1, "temperature": 0, "fingerprint": "", "step": 7}',
    '{"format": 1, "temperature": NaN, "fingerprint": "", "step": 7}'])
def test_a_damaged_file_is_named(run, text):
    (run / "calibration.json").write_text(text)
    with pytest.raises(CheckpointError, match="calibration.json"):
        calibration.load(Checkpoint.open(run))
