"""Scores of verdicts of more than two classes: which class was given, not only real or not."""

from collections.abc import Sequence

import numpy as np

from input_pipeline.records import verdict_classes
from input_pipeline.records.record import LABELS, UNKNOWN
from legion_jax.evaluate import weighted

NONE = "none"  # where a verdict is missing
MISSING = -1
FEWEST = 3  # with two classes, real or not says everything


def classes_of(rows: Sequence[dict]) -> tuple[str, ...]:
    """Classes of what judged the photos of these rows; none where they are real and not real, and
    of rows of older evaluations, which do not tell.
    """
    classes = next((row["classes"] for row in rows if row.get("classes")), ())
    return tuple(classes) if len(classes) >= FEWEST else ()


def scores(truth: np.ndarray, given: np.ndarray, classes: Sequence[str]) -> dict:
    """Scores of N verdicts.

    Args:
        truth: int[N], index of each photo's class; given: int[N], of the one it was given, MISSING
            where it was given none, which is never right.
        classes: names by index.

    Returns:
        A tree of `weighted` over N photos:
        accuracy: share of photos given their own class.
        macro_f1: unweighted mean of the F1 of the classes that any photo has or was given.
        by_class: {class: recall, precision, f1, and support, its photos}. Recall is over its
            photos, precision over those that were given it.
    """
    each = range(len(classes))
    right = given == truth
    f1 = [_f1(given == k, truth == k) for k in each]

    def macro_f1(draws: np.ndarray) -> np.ndarray:
        values = np.stack([score(draws) for score in f1])
        known = ~np.isnan(values)
        return weighted.ratio(np.where(known, values, 0).sum(0), known.sum(0))

    return {
        "accuracy": weighted.mean(right), "macro_f1": macro_f1,
        "by_class": {classes[k]: {
            "recall": weighted.mean(right, truth == k),
            "precision": weighted.mean(right, given == k), "f1": f1[k],
            "support": int(np.count_nonzero(truth == k))} for k in each}}


def confusion(labels: Sequence[str], given: np.ndarray, classes: Sequence[str]) -> dict:
    """{label: {class: photos of the label that were given it, NONE: those given none}}.

    `labels` are those of N photos, `given` is as of `scores`.
    """
    labels = np.array(labels, str)
    return {label: {name: int(np.count_nonzero(given[labels == label] == k))
                    for k, name in [*enumerate(classes), (MISSING, NONE)]}
            for label in LABELS.values() if label in labels}


def block(rows: Sequence[dict]) -> dict:
    """`scores` and `confusion` of N rows, {} where there are not FEWEST classes.

    Rows count whose label is known; where it has no class of its own (`class_of`) the row is in
    num_without_class alone. num: rows that count.
    """
    classes = classes_of(rows)
    own = {number: verdict_classes.class_of(label, classes) for number, label in LABELS.items()
           if classes and number != UNKNOWN}
    numbers = [k for k, row in enumerate(rows) if own.get(row["label"]) is not None]
    if not numbers:
        return {}
    truth = np.array([own[rows[k]["label"]] for k in numbers])
    given = np.array([index_of(rows[k]["verdict"], classes) for k in numbers])
    return weighted.among(np.array(numbers), scores(truth, given, classes)) | {
        "confusion": confusion([LABELS[rows[k]["label"]] for k in numbers], given, classes),
        "num": len(numbers),
        "num_without_class": sum(row["label"] != UNKNOWN for row in rows) - len(numbers)}


def index_of(verdict: str | None, classes: Sequence[str]) -> int:
    """Of a class by its name; MISSING of None, and of what is none of them."""
    return list(classes).index(verdict) if verdict in classes else MISSING


def _f1(given: np.ndarray, truth: np.ndarray) -> weighted.Score:
    """F1 of the class that bool[N] photos were given, and have; NaN where it has none of both."""
    hits, total = 2.0 * (given & truth), given.astype(np.float64) + truth
    return lambda draws: weighted.ratio(draws @ hits, draws @ total)
