"""The command that fits and keeps a temperature."""

import dataclasses
import json

import empty_run
import numpy as np
import pytest
import small_checkpoint
import small_data
from commands import run_tool

from input_pipeline.records import prepared
from input_pipeline.records.verdict_classes import ClassError
from legion_jax.config import VerdictConfig
from legion_jax.predict import calibration
from legion_jax.predict.predictor import Predictor
from legion_jax.weights import legion_json
from legion_jax.weights.checkpoint import Checkpoint
from tools import calibrate

data, run = small_data.data, empty_run.run
folder, tokenizer, photos = (
    small_checkpoint.folder, small_checkpoint.tokenizer, small_checkpoint.photos)


class StubPredictor:
    """Right about four photos of five, and far too sure."""

    batch_size = 5

    def __init__(self, labels):
        self.labels, self.seen = labels, 0

    def verdict_logits(self, images):
        assert 0 < len(images) <= self.batch_size
        numbers = range(self.seen, self.seen + len(images))
        self.seen += len(images)
        signs = [(1 if self.labels[i] else -1) * (-1 if i % 5 == 0 else 1) for i in numbers]
        return np.array([[9.0 * sign, 0] for sign in signs], np.float32)


def test_the_command_fits_all_labelled_photos(run, data, monkeypatch, capsys):
    source = prepared.open_split(data / "data", "train")
    labels = [source[i].label for i in range(24)]
    monkeypatch.setattr(Predictor, "from_checkpoint",
                        lambda checkpoint, batch_size: StubPredictor(labels))
    facts = calibrate.calibrate(str(run), str(data / "data"), "train", batch_size=5)
    # 19 of 24 are right, each with a margin of 9 / T: the optimum is log(19 / 5).
    assert calibration.load(Checkpoint.open(run)) == pytest.approx(9 / np.log(19 / 5), rel=1e-4)
    assert facts["num_photos"] == 24 and facts["num_failed"] == 0
    assert facts["after"]["nll"] < facts["before"]["nll"]
    assert facts["after"]["ece"] == pytest.approx(0, abs=1e-4) and facts["before"]["ece"] > 0.2
    saved = json.loads((run / "calibration.json").read_text())
    assert saved["data"] == "synthscars/photos" and len(saved["content"]) == 64
    calibrate.show(facts)
    assert "24 photos of synthscars/photos, train" in capsys.readouterr().out


def test_a_split_of_one_class_is_refused(folder, data, tmp_path):
    done = run_tool("tools.calibrate", "--checkpoint", folder, "--data_dir", data / "data",
                    "--split", "test[:1]")
    assert done.returncode == 1 and "split test[:1]: 1 labelled photos of 1 class" in done.stderr
    assert not (folder / "calibration.json").exists()


def test_labels_without_a_class_are_refused_before_a_photo_is_judged(data, config, tmp_path):
    legion_json.write_meta(tmp_path, dataclasses.replace(
        config, verdict=VerdictConfig(classes=("real", "gan", "diffusion"))), base=None)
    with pytest.raises(ClassError, match=r"split train\[:3\]: photos are labelled real, tampered, "
                                         r"the verdict head has the classes real, gan, diffusion"):
        calibrate.calibrate(str(tmp_path), str(data / "data"), "train[:3]", batch_size=5)
