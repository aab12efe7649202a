"""Whether probabilities mean what they say: of photos called fake with 0.8, are 8 in 10 fake?"""

import numpy as np

BINS = 15  # of equal width over 0 to 1 (Guo et al., 2017, section 2)
SMALLEST = 1e-12  # a probability of 0 that was wrong would cost an infinite likelihood


def bins(confidence: np.ndarray, right: np.ndarray, *, num: int = BINS) -> list[dict]:
    """What a reliability diagram shows: `num` bins of equal width, open below, closed above.

    Args:
        confidence: float[N], probability of the verdict given, 0 to 1.
        right: bool[N], whether it was right.

    Returns:
        For each bin {low, high, num, confidence, accuracy}; the last two are means over its
        photos, None in an empty bin.

    Raises:
        ValueError: the shapes differ, or a confidence is not in 0 to 1.
    """
    confidence, right = np.asarray(confidence, np.float64), np.asarray(right, bool)
    if confidence.shape != right.shape or confidence.ndim != 1:
        raise ValueError(f"confidences and outcomes need one shape [N], got {confidence.shape} "
                         f"and {right.shape}")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("a confidence lies outside 0 to 1 or is NaN")
    place = places(confidence, num=num)
    count, sure, good = (np.bincount(place, weights, num) for weights in (None, confidence, right))
    return [{"low": i / num, "high": (i + 1) / num, "num": int(count[i]),
             "confidence": float(sure[i] / count[i]) if count[i] else None,
             "accuracy": float(good[i] / count[i]) if count[i] else None} for i in range(num)]


def places(confidence: np.ndarray, *, num: int = BINS) -> np.ndarray:
    """The bin of every confidence 0 to 1, int[N]; 0 is in the first."""
    return np.clip(np.ceil(confidence * num).astype(int) - 1, 0, num - 1)


def calibration_error(confidence: np.ndarray, right: np.ndarray, *,
                      num: int = BINS) -> float | None:
    """Expected calibration error: |confidence - accuracy| of each of `bins`, weighted by photos.

    Naeini et al. (2015) as used by Guo et al. (2017, equation 3). None without photos.
    """
    found = [b for b in bins(confidence, right, num=num) if b["num"]]
    total = sum(b["num"] for b in found)
    return sum(b["num"] * abs(b["confidence"] - b["accuracy"]) for b in found) / total \
        if total else None


def nll(probability_of_truth: np.ndarray) -> float | None:
    """Mean negative log likelihood in nats of float[N] probabilities given to what was true.

    A probability of 0 counts as SMALLEST. None without photos.
    """
    p = np.asarray(probability_of_truth, np.float64)
    return float(-np.log(np.maximum(p, SMALLEST)).mean()) if p.size else None
