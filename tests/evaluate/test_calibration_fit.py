"""Temperature scaling: the minimum, and photos that fix none."""


import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from input_pipeline.records.verdict_classes import ClassError
from legion_jax.evaluate import calibration_fit
from legion_jax.evaluate.calibration_fit import CalibrationError


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
    with pytest.raises(ClassError, match="labelled real, tampered,.*classes real, a, b: none mean"):
        calibration_fit.class_indices([0, 2], ("real", "a", "b"))
    with pytest.raises(ClassError, match="unknown"):
        calibration_fit.class_indices([-1], three)
