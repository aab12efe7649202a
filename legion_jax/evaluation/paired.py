"""How much two evaluations differ on the same photos, with 95 % intervals (Efron, 1979)."""

from collections.abc import Callable, Sequence

import numpy as np

from input_pipeline.errors import UserError
from legion_jax import metrics

RESAMPLES = 1000
_AT_ONCE = 50  # resamples in memory

Statistic = Callable[[np.ndarray], np.ndarray]  # draws int64[R, N] -> float64[R]


def paired_difference(rows_a: Sequence[dict], rows_b: Sequence[dict], *,
                      resamples: int = RESAMPLES, seed: int = 0) -> dict[str, dict[str, float]]:
    """How much larger the numbers of b are than those of a.

    Both are drawn together in every resample, so that what makes a photo hard for both cancels.

    Args:
        rows_a, rows_b: rows of the same photos in the same order.

    Returns:
        {path of a number in metrics.json: {"a", "b", "difference": b - a, "low", "high": 95 %
        interval of the difference}}, for numbers that both have.

    Raises:
        UserError: a photo was scored against another truth; naming it.
    """
    for a, b in zip(rows_a, rows_b, strict=True):
        for name in ("id", "label", "truth_rle"):
            if a[name] != b[name]:
                raise UserError(f"{a['id']}: the evaluations differ in its {name}, so they are not "
                                f"against the same truth")
    sides = [_statistics(rows) for rows in (rows_a, rows_b)]
    once = np.ones((1, len(rows_a)), np.int64)
    points = [{name: float(of(once)[0]) for name, of in side.items()} for side in sides]
    names = [name for name in sides[0] if not np.isnan(points[0][name] + points[1][name])]
    changes = {name: [] for name in names}
    for draws in _draws(len(rows_a), resamples, seed):
        for name in names:
            changes[name].append(sides[1][name](draws) - sides[0][name](draws))
    result = {}
    for name in names:
        low, high = np.nanpercentile(np.concatenate(changes[name]), [2.5, 97.5])
        result[name] = {"a": points[0][name], "b": points[1][name],
                        "difference": points[1][name] - points[0][name],
                        "low": float(low), "high": float(high)}
    return result


def _draws(photos: int, resamples: int, seed: int):
    """How often each photo is in each resample, int64[up to _AT_ONCE, photos] at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, _AT_ONCE):
        yield rng.multinomial(photos, np.full(photos, 1 / photos),
                              size=min(_AT_ONCE, resamples - start))


def _statistics(rows: Sequence[dict]) -> dict[str, Statistic]:
    """Means over photos that have the value, and pooled pixels."""
    counts = np.array([row["counts"] or (0, 0, 0, 0) for row in rows], np.int64).reshape(-1, 4)
    artifacts = counts[:, 0] + counts[:, 2] > 0
    found = {}
    for name in metrics.NAMES:
        values = _column(rows, name)
        found[f"localisation.mean.{name}"] = _mean(values)
        found[f"localisation.mean_with_artifacts.{name}"] = _mean(
            np.where(artifacts, values, np.nan))
        found[f"localisation.pooled.{name}"] = _pooled(counts, name)
    right = [None if row["verdict"] is None or row["label"] < 0 else
             float((row["verdict"] == "real") == (row["label"] == 0)) for row in rows]
    found["detection.accuracy"] = _mean(np.array(right, np.float64))
    return found | {f"text.{name}": _mean(_column(rows, name)) for name in ("rouge_l", "css")}


def _column(rows: Sequence[dict], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], np.float64)  # None becomes NaN


def _mean(values: np.ndarray) -> Statistic:
    known = ~np.isnan(values)
    filled = np.where(known, values, 0)

    def statistic(draws):
        number = draws @ known.astype(np.int64)
        return np.where(number > 0, draws @ filled / np.maximum(number, 1), np.nan)
    return statistic


def _pooled(counts: np.ndarray, name: str) -> Statistic:
    def statistic(draws):
        return np.array([metrics.pixel_scores(total)[name] if total.any() else np.nan
                         for total in draws @ counts])
    return statistic
