"""Temperature scaling: the minimum, the file beside a checkpoint, and the command."""

import dataclasses
import json

import numpy as np
import pytest
import small_checkpoint
import small_data
from commands import run_tool
from sklearn.linear_model import LogisticRegression

from input_pipeline.records import prepared
from legion_jax.evaluate import calibration_fit
from legion_jax.evaluate.calibration_fit import CalibrationError
from legion_jax.predict import calibration
from legion_jax.predict.predictor import Predictor
from legion_jax.weights import checkpoint
from legion_jax.weights.checkpoint import CheckpointError
from tools import calibrate

data = small_data.data
folder, tokenizer, photos = (
    small_checkpoint.folder, small_checkpoint.tokenizer, small_checkpoint.photos)


def _photos(seed: int, classes: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `sharpness` times those the labels were drawn from."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(4000, classes)) * 2
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    truth = (p.cumsum(-1) < rng.random((4000, 1))).sum(-1)
    return (logits * sharpness).astype(np.float32), truth


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0])
def test_the_temperature_undoes_what_sharpened_the_logits(sharpness):
    logits, truth = _photos(0, 3, sharpness)
    temperature = calibration_fit.fit(logits, truth)
    assert temperature == pytest.approx(sharpness, rel=0.1)
    best = calibration_fit.quality(logits, truth, temperature)
    for other in temperature * np.array([0.98, 1.02]):
        assert calibration_fit.quality(logits, truth, other)["nll"] > best["nll"]
    assert best["ece"] < 0.03
    if sharpness == 5:
        assert calibration_fit.quality(logits, truth)["ece"] > 0.1


@pytest.mark.parametrize("seed", range(3))
def test_two_classes_agree_with_scikit_learns_logistic_regression(seed):
    """Without intercept and penalty its one coefficient is 1 / T."""
    logits, truth = _photos(seed, 2, 2.5)
    peer = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8).fit(
        logits[:, 1:] - logits[:, :1], truth)
    assert calibration_fit.fit(logits, truth) == pytest.approx(1 / peer.coef_[0, 0], rel=1e-3)


@pytest.mark.parametrize("logits, truth, message", [
    (np.zeros((0, 2)), [], "0 labelled photos of 0 class"),
    ([[1, 0], [2, 0]], [0, 0], "2 labelled photos of 1 class"),
    ([[1, 0], [0, 1]], [0, 1], "accuracy 1.000: the logits tell the classes apart without"),
    ([[1, 0], [0, 1]], [1, 0], "accuracy 0.000: the logits say no more than chance"),
    ([[1, np.inf], [0, 1]], [1, 0], "not finite")])
def test_photos_that_fix_no_temperature(logits, truth, message):
    with pytest.raises(CalibrationError, match=message):
        calibration_fit.fit(np.asarray(logits, np.float32), np.asarray(truth, np.int64))


def test_labels_become_classes_as_in_training():
    assert calibration_fit.class_indices([0, 1, 2], ("synthetic", "real")).tolist() == [1, 0, 0]
    assert calibration_fit.class_indices([0, 1, 2], ("tampered", "real")).tolist() == [1, 0, 0]
    three = ("real", "synthetic", "tampered")
    assert calibration_fit.class_indices([2, 0, 1], three).tolist() == [2, 0, 1]
    with pytest.raises(CalibrationError, match="tampered, which is no class.*real, a, b"):
        calibration_fit.class_indices([0, 2], ("real", "a", "b"))
    with pytest.raises(CalibrationError, match="unknown"):
        calibration_fit.class_indices([-1], three)


@pytest.fixture
def run(config, tmp_path):
    """A training run with two finished checkpoints, as far as calibration looks at it."""
    checkpoint.write_meta(tmp_path, dataclasses.replace(config), base=None)
    for step in (3, 7):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    return tmp_path


def test_a_folder_remembers_its_temperature(run):
    assert calibration.load(run) is None
    calibration.save(run, 1.25, split="validation", num_photos=9)
    assert calibration.load(run) == 1.25
    saved = json.loads((run / "calibration.json").read_text())
    assert saved["step"] == 7 and saved["split"] == "validation"
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []


def test_a_run_that_went_on_is_not_calibrated(run):
    calibration.save(run, 1.25)
    (run / "checkpoints" / "9").mkdir()
    with pytest.raises(CheckpointError, match="fitted on step 7, but here is 9"):
        calibration.load(run)


def test_another_checkpoint_in_its_place_is_not_calibrated(run, config):
    calibration.save(run, 1.25)
    checkpoint.write_meta(run, config, base=None, other=True)
    with pytest.raises(CheckpointError, match="fitted on checkpoint with SHA-256"):
        calibration.load(run)


@pytest.mark.parametrize("text", [
    "", "[]", '{"format": 1}', '{"format": 2, "temperature": 1, "fingerprint": "", "step": 7}',
    '{"format": 1, "temperature": 0, "fingerprint": "", "step": 7}',
    '{"format": 1, "temperature": NaN, "fingerprint": "", "step": 7}'])
def test_a_damaged_file_is_named(run, text):
    (run / "calibration.json").write_text(text)
    with pytest.raises(CheckpointError, match="calibration.json"):
        calibration.load(run)


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
    monkeypatch.setattr(Predictor, "from_folder",
                        lambda folder, batch_size: StubPredictor(labels))
    facts = calibrate.calibrate(str(run), str(data / "data"), "train", batch_size=5)
    # 19 of 24 are right, each with a margin of 9 / T: the optimum is log(19 / 5).
    assert calibration.load(run) == pytest.approx(9 / np.log(19 / 5), rel=1e-4)
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
