"""Scores of masks, verdicts and texts, on the host in int64 and float64.

Masks are compared at the size of the original photo, as the union over all artifacts. Both usual
averages are given side by side, because publications rarely say which one they print:

* `mean`: scored photo by photo, then averaged; a photo where neither prediction nor truth has a
  pixel counts as 1. `mean_with_artifacts` leaves out every photo whose truth is empty.
* `pooled`: the pixels of all photos counted together, so large artifacts weigh more.

mIoU is the two-class one: half foreground, half background (LEGION paper; family spec 4.1 - 4.3).
An average over nothing is None.
"""

import functools
from collections.abc import Sequence

import numpy as np

NAMES = ("fg_iou", "bg_iou", "miou", "f1")


def pixel_counts(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Count the pixels of one photo.

    Args:
        predicted: bool[H, W], true where the model sees an artifact.
        truth: bool[H, W], true where there is one.

    Returns:
        int64[4]: true positives, false positives, false negatives, true negatives.

    Raises:
        ValueError: the shapes differ, or a mask is not bool (logits need a threshold first).
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted mask is {predicted.shape}, true mask {truth.shape}")
    for name, mask in (("predicted", predicted), ("true", truth)):
        if mask.dtype != bool:
            raise ValueError(f"{name} mask needs dtype bool, got {mask.dtype}")
    both = np.count_nonzero(predicted & truth)
    only_predicted = np.count_nonzero(predicted) - both
    only_true = np.count_nonzero(truth) - both
    rest = truth.size - both - only_predicted - only_true
    return np.array([both, only_predicted, only_true, rest], np.int64)


def all_ones_counts(counts: np.ndarray) -> np.ndarray:
    """What a mask over the whole photo would have counted: int64[..., 4] -> int64[..., 4].

    `counts` may come from any prediction; only the size of the truth is read from it.
    """
    tp, fp, fn, tn = _columns(counts)
    return np.stack([tp + fn, fp + tn, 0 * tp, 0 * tp], -1)


def empty_counts(counts: np.ndarray) -> np.ndarray:
    """What a mask without a pixel would have counted: int64[..., 4] -> int64[..., 4]."""
    tp, fp, fn, tn = _columns(counts)
    return np.stack([0 * tp, 0 * tp, tp + fn, fp + tn], -1)


def pixel_scores(counts: np.ndarray) -> dict[str, float]:
    """Scores of one photo, or of pooled pixels, from int64[4] counts.

    Returns:
        fg_iou, bg_iou, their mean miou, and f1 of the foreground, each 0 to 1. A class with no
        pixel in either mask was handled perfectly and scores 1. Always fg_iou = f1 / (2 - f1).
    """
    return {name: float(value) for name, value in _scores(counts).items()}


def localisation(counts: np.ndarray) -> dict:
    """Score the masks of a data set from int64[N, 4] counts, one row a photo.

    Returns:
        mean, pooled, mean_with_artifacts: dicts of fg_iou, bg_iou, miou, f1 as in the module's
            introduction; every value None when there is no photo to average over.
        num_images, num_empty_both, num_with_artifacts: photos; those where prediction and truth
            are both empty; those whose truth is not.
        false_area_on_clean: mean share of predicted pixels, 0 to 1, over photos whose truth is
            empty; None without such photos.
    """
    tp, fp, fn, tn = columns = _columns(counts)
    if tp.ndim != 1:
        raise ValueError(f"counts need shape [N, 4], got {np.shape(counts)}")
    scores = _scores(counts)
    marked = tp + fn > 0
    area = fp[~marked] / np.maximum((fp + tn)[~marked], 1)
    everything = [int(column.sum()) for column in columns]
    return {
        "mean": {name: _mean(scores[name]) for name in NAMES},
        "pooled": pixel_scores(everything) if tp.size else dict.fromkeys(NAMES),
        "mean_with_artifacts": {name: _mean(scores[name][marked]) for name in NAMES},
        "num_images": int(tp.size),
        "num_empty_both": int(np.count_nonzero(tp + fp + fn == 0)),
        "num_with_artifacts": int(np.count_nonzero(marked)),
        "false_area_on_clean": _mean(area),
    }


def detection(probability_fake: np.ndarray, is_fake: np.ndarray,
              predicted_fake: np.ndarray) -> dict:
    """Score the verdicts of a data set; fake is the positive class.

    Args:
        probability_fake: float[N], higher means more likely fake; only its order matters.
        is_fake: bool[N], the truth.
        predicted_fake: bool[N], the verdict given, whatever threshold made it.

    Returns:
        accuracy, accuracy_real, accuracy_fake: shares of right verdicts, of all photos and of
            those of one class; None without such photos.
        auc: area under the ROC curve, pairs with equal probability count one half.
        average_precision: sum of precision times gain in recall over distinct probabilities.
            Both None unless real and fake photos are present.
        f1: of the fake class; None when nothing is fake and nothing was called so.
        num: photos.

    Raises:
        ValueError: the three differ in shape, have not one axis, or a probability is NaN.
    """
    score = np.asarray(probability_fake, np.float64)
    truth, verdict = np.asarray(is_fake, bool), np.asarray(predicted_fake, bool)
    if score.ndim != 1 or not score.shape == truth.shape == verdict.shape:
        raise ValueError("probabilities, truths and verdicts need one shape [N], got "
                         f"{score.shape}, {truth.shape} and {verdict.shape}")
    if np.isnan(score).any():
        raise ValueError(f"probability of photo {np.flatnonzero(np.isnan(score))[0]} is NaN")
    right = verdict == truth
    called = np.count_nonzero(verdict) + np.count_nonzero(truth)
    auc, precision = _ranking(score, truth)
    return {
        "accuracy": _mean(right),
        "accuracy_real": _mean(right[~truth]),
        "accuracy_fake": _mean(right[truth]),
        "auc": auc,
        "average_precision": precision,
        "f1": 2 * np.count_nonzero(verdict & truth) / called if called else None,
        "num": int(truth.size),
    }


def rouge_l(prediction: str, reference: str) -> float:
    """F-measure, 0 to 1, of the longest common subsequence of words, without stemming.

    Both are plain texts, free of `<p>` and `[SEG]`. Words are runs of a-z and 0-9 after lower
    casing; a text without any scores 0 (Lin 2004, as in Google's rouge_score).
    """
    return float(_rouge().score(reference, prediction)["rougeL"].fmeasure)


def text(predictions: Sequence[str], references: Sequence[str]) -> dict:
    """Score N explanations: {"rouge_l": mean of `rouge_l` or None, "num": N}.

    Raises ValueError when there is not one reference for each prediction.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions, but {len(references)} references")
    scores = [rouge_l(ours, theirs) for ours, theirs in zip(predictions, references, strict=True)]
    return {"rouge_l": _mean(np.array(scores)), "num": len(scores)}


@functools.cache
def _rouge():
    # Imported late: it brings in nltk, which takes seconds and loads whatever it finds installed.
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)


def _columns(counts: np.ndarray) -> tuple[np.ndarray, ...]:
    """int64[..., 4] -> four int64[...]; raises ValueError on other shapes and on fractions."""
    counts = np.asarray(counts)
    if counts.size == 0:
        counts = counts.reshape(-1, 4).astype(np.int64)
    if counts.shape[-1:] != (4,) or counts.dtype.kind not in "iu":
        raise ValueError(f"counts need integers [..., 4], got {counts.dtype}{counts.shape}")
    return tuple(np.moveaxis(counts.astype(np.int64), -1, 0))


def _scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """float64[...] for each of NAMES, from int64[..., 4]."""
    tp, fp, fn, tn = _columns(counts)
    fg_iou, bg_iou = _ratio(tp, tp + fp + fn), _ratio(tn, tn + fp + fn)
    values = fg_iou, bg_iou, (fg_iou + bg_iou) / 2, _ratio(2 * tp, 2 * tp + fp + fn)
    return dict(zip(NAMES, values, strict=True))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Share of `whole`, and 1 where there is nothing to get wrong."""
    return np.where(whole == 0, 1.0, part / np.maximum(whole, 1))


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values, dtype=np.float64)) if values.size else None


def _ranking(score: np.ndarray, truth: np.ndarray) -> tuple[float | None, float | None]:
    """ROC area and average precision, by one pass over the distinct scores, highest first."""
    if truth.all() or not truth.any():
        return None, None
    _, group = np.unique(-score, return_inverse=True)
    fakes = np.bincount(group, truth)
    reals = np.bincount(group, ~truth)
    true_rate = np.cumsum(fakes) / fakes.sum()
    precision = np.cumsum(fakes) / np.cumsum(fakes + reals)
    area = (reals / reals.sum()) @ (true_rate - fakes / fakes.sum() / 2)
    return float(area), float((fakes / fakes.sum()) @ precision)
