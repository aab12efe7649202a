"""Which classes photos are of, and which a model says."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from input_pipeline.records import verdict_classes
from input_pipeline.records.record import LABELS, UNKNOWN
from legion_jax.evaluate import class_scores, weighted


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Numbers of photos by their class and by the verdict on them.

    Attributes:
        classes: names, in the order of the model's verdict.
        counts: int[C, C + 1], a row for each true class, a column for each class as it was said,
            the last for no verdict at all.
    """

    classes: tuple[str, ...]
    counts: np.ndarray

    @property
    def _scores(self) -> dict:
        """As of `class_scores.scores`."""
        truth, given = (np.repeat(index.ravel(), self.counts.ravel())
                        for index in np.indices(self.counts.shape))
        given = np.where(given == len(self.classes), class_scores.MISSING, given)
        return weighted.values(class_scores.scores(truth, given, self.classes), len(truth))

    @property
    def accuracy(self) -> float | None:
        """Share of photos that were called what they are; no verdict is a wrong one."""
        return self._scores["accuracy"]

    @property
    def recalls(self) -> list[float | None]:
        """The same among the photos of each class."""
        return [self._scores["by_class"][name]["recall"] for name in self.classes]

    @property
    def silent(self) -> int:
        """Photos without a verdict."""
        return int(self.counts[:, -1].sum())


def confusion_of(rows: Sequence[dict], classes: Sequence[str]) -> Confusion:
    """Of an evaluation's rows; photos whose label is unknown, or has no class, are left out."""
    counts = np.zeros((len(classes), len(classes) + 1), int)
    for row in rows:
        if (truth := class_of(row, classes)) is not None:
            counts[truth, class_scores.index_of(row["verdict"], classes)] += 1  # MISSING: the last
    return Confusion(tuple(classes), counts)


def class_of(row: dict, classes: Sequence[str]) -> int | None:
    """Index of the class that a row's photo is of; None where that is not known."""
    if row["label"] == UNKNOWN:
        return None
    return verdict_classes.class_of(LABELS[row["label"]], classes)


def is_right(row: dict, classes: Sequence[str]) -> bool:
    """Whether the verdict on a photo is its class."""
    truth = class_of(row, classes)
    return truth is not None and row["verdict"] == classes[truth]
