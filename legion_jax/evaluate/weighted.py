"""Numbers of a data set as functions of how often each photo counts.

With every photo counted once, a function gives the number itself; with photos counted as often as
they were drawn, it gives bootstrap replicates of it (Efron, 1979). A block of metrics.json is
built as a tree: names lead to such functions and, beside them, to plain values.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

# Draws int[R, N], how often each of N photos counts in R resamples -> float64[R], NaN where the
# photos that the number is over were not drawn.
Score = Callable[[np.ndarray], np.ndarray]


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, both [...], NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole != 0)


def mean(values: Sequence[float | None] | np.ndarray,
         counted: np.ndarray | None = None) -> Score:
    """The mean of N values, one per photo.

    Args:
        values: [N]; without `counted`, photos with None or NaN are left out.
        counted: bool[N], the photos that the mean is over.
    """
    values = np.array([np.nan if value is None else value for value in values], np.float64)
    counted = ~np.isnan(values) if counted is None else np.asarray(counted, bool)
    values, ones = np.where(counted, values, 0), counted.astype(np.float64)
    return lambda draws: ratio(draws @ values, draws @ ones)


def among(photos: np.ndarray, tree: Any) -> Any:
    """A tree over M photos as a tree over all: `photos` int[M] are their numbers among all."""
    def spread(score: Score) -> Score:
        return lambda draws: score(draws[:, photos])
    return _replaced(tree, spread)


def values(tree: Any, photos: int) -> Any:
    """The tree with every function's number in its place: a float, or None over no photos."""
    once = np.ones((1, photos), np.int64)

    def number(score: Score) -> float | None:
        result = float(score(once)[0])
        return None if np.isnan(result) else result
    return _replaced(tree, number)


def scores(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Score]]:
    """(dotted path, function) of every function in the tree."""
    for name, branch in tree.items():
        if callable(branch):
            yield path + name, branch
        elif isinstance(branch, Mapping):
            yield from scores(branch, f"{path}{name}.")


def _replaced(tree: Any, change: Callable[[Score], Any]) -> Any:
    if callable(tree):
        return change(tree)
    if isinstance(tree, Mapping):
        return {name: _replaced(branch, change) for name, branch in tree.items()}
    return tree
