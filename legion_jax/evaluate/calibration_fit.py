"""One temperature for the verdict's logits, so that its probabilities mean what they say.

Temperature scaling (Guo et al., 2017, section 4.2): softmax(logits / T), with the T that minimises
the negative log likelihood of held-out photos. It never changes a verdict.
"""

import math
from collections.abc import Sequence

import numpy as np
import scipy.special

from input_pipeline.errors import UserError
from input_pipeline.records import verdict_classes
from input_pipeline.records.record import LABELS
from legion_jax.evaluate import verdict_scores, weighted

LIMITS = (1e-3, 1e3)  # of the temperature, far beyond any that was published


class CalibrationError(UserError):
    """Photos that cannot say how sure a verdict should be."""


def class_indices(labels: Sequence[int], classes: Sequence[str]) -> np.ndarray:
    """The verdict head's class of every photo, by `verdict_classes.class_of`, int64[N].

    Args:
        labels: of records, see `record.LABELS`; none unknown.
        classes: the head's names by index.

    Raises:
        ClassError: the head has no class for a label.
    """
    names = {label: LABELS[label] for label in sorted(set(labels))}
    verdict_classes.check_labels(names.values(), classes, "calibration")
    index = {label: verdict_classes.class_of(name, classes) for label, name in names.items()}
    return np.array([index[label] for label in labels], np.int64)


def quality(logits: np.ndarray, truth: np.ndarray, temperature: float = 1.0) -> dict[str, float]:
    """{nll, ece} of softmax(logits / temperature); float[N, classes], int[N].

    The error's confidence is the probability of the most probable class, and right means that this
    class is the true one.
    """
    log = _log_probabilities(logits, temperature)
    error = verdict_scores.calibration_error(np.minimum(np.exp(log.max(-1)), 1),
                                             log.argmax(-1) == truth)
    return {"nll": _nll(logits, truth, temperature), "ece": weighted.values(error, len(truth))}


def fit(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature with the smallest negative log likelihood.

    Args:
        logits: float[N, classes], not calibrated.
        truth: int[N], true classes.

    Raises:
        CalibrationError: no photos, photos of one class only, a logit that is not finite, or no
            such temperature: the logits separate the classes without an error, or are no better
            than chance.
    """
    logits, truth = np.asarray(logits, np.float64), np.asarray(truth)
    if len(logits) != len(truth) or logits.ndim != 2:
        raise ValueError(f"logits {logits.shape} do not go with {truth.shape} labels")
    if len(np.unique(truth)) < 2:
        raise CalibrationError(f"{len(truth)} labelled photos of {len(np.unique(truth))} class; "
                               f"a temperature needs photos of two classes or more")
    if not np.isfinite(logits).all():
        raise CalibrationError("a verdict logit is not finite")
    own = logits[np.arange(len(truth)), truth]
    accuracy = f"accuracy {np.mean(logits.argmax(-1) == truth):.3f}"
    # The likelihood is concave in 1 / T: it has a maximum unless it rises for ever, or falls at 0.
    if (own >= logits.max(-1)).all():
        raise CalibrationError(f"{len(truth)} photos, {accuracy}: the logits tell the classes "
                               f"apart without an error, so that no confidence is too high")
    if (own - logits.mean(-1)).sum() <= 0:
        raise CalibrationError(f"{len(truth)} photos, {accuracy}: the logits say no more than "
                               f"chance, so that no confidence is too low")
    from scipy import optimize  # late: whoever only loads a temperature does without

    optimum = optimize.minimize_scalar(
        lambda log: _nll(logits, truth, math.exp(log)), bounds=np.log(LIMITS), method="bounded",
        options={"xatol": 1e-6})
    return math.exp(optimum.x)


def _nll(logits: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    return float(-_log_probabilities(logits, temperature)[np.arange(len(truth)), truth].mean())


def _log_probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    # Not the log of a softmax, which a small temperature takes to 0.
    return scipy.special.log_softmax(np.asarray(logits, np.float64) / temperature, axis=-1)
