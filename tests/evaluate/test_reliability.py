"""Whether probabilities mean what they say: by hand, and against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as reference

from legion_jax.evaluate import reliability


def test_bins_by_hand():
    found = reliability.bins([0.05, 0.5, 0.55, 1.0], [False, True, False, True], num=2)
    assert found == [
        {"low": 0.0, "high": 0.5, "num": 2, "confidence": pytest.approx(0.275), "accuracy": 0.5},
        {"low": 0.5, "high": 1.0, "num": 2, "confidence": pytest.approx(0.775), "accuracy": 0.5}]
    assert reliability.calibration_error([0.05, 0.5, 0.55, 1.0], [False, True, False, True],
                                         num=2) == pytest.approx((0.225 + 0.275) / 2)


def test_zero_is_in_the_first_bin_and_empty_bins_have_no_mean():
    first, *others = reliability.bins([0.0], [True])
    assert first["num"] == 1 and first["accuracy"] == 1 and len(others) == reliability.BINS - 1
    assert all(b["num"] == 0 and b["confidence"] is b["accuracy"] is None for b in others)


def test_honest_and_overconfident_probabilities():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 200_000)
    right = rng.random(200_000) < confidence
    assert reliability.calibration_error(confidence, right) < 0.005
    assert reliability.calibration_error(np.full(200_000, 0.99), right) == pytest.approx(
        0.99 - right.mean())


@pytest.mark.parametrize("seed", range(5))
def test_likelihood_agrees_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    fake, p = rng.random(50) < 0.5, rng.random(50)
    ours = reliability.nll(np.where(fake, p, 1 - p))
    assert ours == pytest.approx(reference.log_loss(fake, p))


def test_no_photos_and_impossible_probabilities():
    assert reliability.nll([]) is reliability.calibration_error([], []) is None
    assert reliability.nll([0.0]) == pytest.approx(-np.log(reliability.SMALLEST))
    for wrong in (1.1, -0.1, np.nan):
        with pytest.raises(ValueError, match="outside 0 to 1"):
            reliability.bins([wrong], [True])
    with pytest.raises(ValueError, match=r"\(2,\) and \(1,\)"):
        reliability.bins([0.5, 0.5], [True])
