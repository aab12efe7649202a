"""Scores of masks, on the host in int64 and float64.

Masks are compared at the size of the original photo, as the union over all artifacts. Both usual
averages are given side by side, because publications rarely say which one they print:

* `mean`: scored photo by photo, then averaged; a photo where neither prediction nor truth has a
  pixel counts as 1. `mean_with_artifacts` leaves out every photo whose truth is empty.
* `pooled`: the pixels of all photos counted together, so large artifacts weigh more.

mIoU is the two-class one: half foreground, half background (LEGION paper).
An average over nothing is None in metrics.json. How empty masks score is a rule, one of `RULES`:

* `exact`: a class with no pixel in either mask was handled perfectly and scores 1;
* `legion`: IoU is intersection / (union + 1e-6), as in LEGION's evaluation, so that a class with
  no pixel in either mask has IoU 0; its F1 is 1 all the same.
"""

import numpy as np

from legion_jax.evaluate import weighted

NAMES = ("fg_iou", "bg_iou", "miou", "f1")
RULES = {"exact": 0.0, "legion": 1e-6}  # what is added to a union


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


def pixel_scores(counts: np.ndarray, *, rule: str = "exact") -> dict[str, float]:
    """Scores of one photo, or of pooled pixels, from int64[4] counts.

    Returns:
        fg_iou, bg_iou, their mean miou, and f1 of the foreground, each 0 to 1. By the exact rule
        always fg_iou = f1 / (2 - f1).
    """
    return {name: float(value) for name, value in scores(counts, rule=rule).items()}


def localisation(counts: np.ndarray, *, rule: str = "exact",
                 failed: np.ndarray | None = None) -> dict:
    """Scores of the masks of a data set, from int64[N, 4] counts, one row a photo.

    Args:
        rule: one of `RULES`.
        failed: bool[N], photos without an answer; they score 0 in the means, whatever their truth.

    Returns:
        A tree of `weighted` over N photos:
        mean, pooled, mean_with_artifacts: fg_iou, bg_iou, miou, f1 as in the module's
            introduction.
        num_images, num_empty_both, num_with_artifacts: photos; those where prediction and truth
            are both empty; those whose truth is not.
        false_area_on_clean: mean share of predicted pixels, 0 to 1, over photos whose truth is
            empty.
    """
    tp, fp, fn, tn = _columns(counts)
    if tp.ndim != 1:
        raise ValueError(f"counts need shape [N, 4], got {np.shape(counts)}")
    counts = np.stack([tp, fp, fn, tn], -1)
    answered = np.ones(tp.size) if failed is None else ~np.asarray(failed, bool)
    by_photo = {name: values * answered for name, values in scores(counts, rule=rule).items()}
    marked = tp + fn > 0
    false_area = fp / np.maximum(fp + tn, 1)
    return {
        "mean": {name: weighted.mean(by_photo[name]) for name in NAMES},
        "pooled": {name: _pooled(counts, name, rule) for name in NAMES},
        "mean_with_artifacts": {name: weighted.mean(by_photo[name], marked) for name in NAMES},
        "num_images": int(tp.size),
        "num_empty_both": int(np.count_nonzero(tp + fp + fn == 0)),
        "num_with_artifacts": int(np.count_nonzero(marked)),
        "false_area_on_clean": weighted.mean(false_area, ~marked),
    }


def scores(counts: np.ndarray, *, rule: str = "exact") -> dict[str, np.ndarray]:
    """float64[...] for each of NAMES, from int64[..., 4] counts."""
    if rule not in RULES:
        raise ValueError(f"rule: one of {', '.join(RULES)}, not {rule!r}")
    tp, fp, fn, tn = _columns(counts)
    wrong, slack = fp + fn, RULES[rule]
    fg_iou, bg_iou = (_ratio(right, right + wrong, slack) for right in (tp, tn))
    values = fg_iou, bg_iou, (fg_iou + bg_iou) / 2, _ratio(2 * tp, 2 * tp + wrong, 0)
    return dict(zip(NAMES, values, strict=True))


def _columns(counts: np.ndarray) -> tuple[np.ndarray, ...]:
    """int64[..., 4] -> four int64[...]; raises ValueError on other shapes and on fractions."""
    counts = np.asarray(counts)
    if counts.size == 0:
        counts = counts.reshape(-1, 4).astype(np.int64)
    if counts.shape[-1:] != (4,) or counts.dtype.kind not in "iu":
        raise ValueError(f"counts need integers [..., 4], got {counts.dtype}{counts.shape}")
    return tuple(np.moveaxis(counts.astype(np.int64), -1, 0))


def _ratio(part: np.ndarray, whole: np.ndarray, slack: float) -> np.ndarray:
    """Share of `whole`; without slack, 1 where there is nothing to get wrong."""
    if slack:
        return part / (whole + slack)
    return np.where(whole == 0, 1.0, part / np.maximum(whole, 1))


def _pooled(counts: np.ndarray, name: str, rule: str) -> weighted.Score:
    """The score `name` of all pixels of the photos counted together."""
    def score(draws: np.ndarray) -> np.ndarray:
        return np.where(draws.any(axis=1), scores(draws @ counts, rule=rule)[name], np.nan)
    return score
