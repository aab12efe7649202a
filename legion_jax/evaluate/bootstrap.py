"""How sure a number is: 95 % percentile intervals over resampled photos (Efron, 1979)."""

from collections.abc import Iterator, Sequence

import numpy as np

from input_pipeline.errors import UserError
from legion_jax.evaluate import intervals as intervals_lib

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
_AT_ONCE = 50  # resamples in memory


def intervals(rows: Sequence[dict], *, resamples: int = RESAMPLES, seed: int = 0,
              rule: str = "exact") -> dict[str, list[float]]:
    """{path of a number in metrics.json: [low, high]} of every headline number there is.

    Replicates without the photos a number is over (no real ones, say) do not count.
    """
    if not rows or not resamples:
        return {}
    found = intervals_lib.of_rows(rows, rule=rule)
    point = {name: statistic(intervals_lib.once(rows))[0] for name, statistic in found.items()}
    found = {name: found[name] for name, value in point.items() if not np.isnan(value)}
    drawn = _replicates(found, len(rows), resamples, seed)
    return {name: _percentiles(values) for name, values in drawn.items()}


def paired_difference(rows_a: Sequence[dict], rows_b: Sequence[dict], *,
                      resamples: int = RESAMPLES, seed: int = 0,
                      rule: str = "exact") -> dict[str, dict[str, float]]:
    """How much better b is than a on the same photos.

    Both are drawn together in every resample, so that what makes a photo hard for both cancels.

    Returns:
        {path of a number in metrics.json: {"a", "b", "difference": b - a, "low", "high": 95 %
        interval of the difference, "share_above_zero": of the resamples}}, for numbers that both
        have.

    Raises:
        UserError: not the same photos, or one was scored against another truth; naming it.
    """
    rows_b = _aligned(rows_a, rows_b)
    draws = intervals_lib.once(rows_a)
    sides = [intervals_lib.of_rows(rows, rule=rule) for rows in (rows_a, rows_b)]
    points = [{name: float(s(draws)[0]) for name, s in side.items()} for side in sides]
    names = [name for name in sides[0] if name in sides[1]
             and not np.isnan(points[0][name] + points[1][name])]
    replicates = [_replicates({name: side[name] for name in names}, len(rows_a), resamples, seed)
                  for side in sides]
    result = {}
    for name in names:
        change = replicates[1][name] - replicates[0][name]
        low, high = _percentiles(change)
        result[name] = {"a": points[0][name], "b": points[1][name],
                        "difference": points[1][name] - points[0][name], "low": low, "high": high,
                        "share_above_zero": float((change[~np.isnan(change)] > 0).mean())}
    return result


def _draws(photos: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each photo is in each resample, int64[up to _AT_ONCE, photos] at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, _AT_ONCE):
        yield rng.multinomial(photos, np.full(photos, 1 / photos),
                              size=min(_AT_ONCE, resamples - start))


def _replicates(found: dict, photos: int, resamples: int, seed: int) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {name: [] for name in found}
    for draws in _draws(photos, resamples, seed):
        for name, statistic in found.items():
            parts[name].append(statistic(draws))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _percentiles(values: np.ndarray) -> list[float]:
    return [float(v) for v in np.nanpercentile(values, PERCENTILES)]


def _aligned(rows_a: Sequence[dict], rows_b: Sequence[dict]) -> list[dict]:
    """`rows_b` in the order of `rows_a`."""
    found = {row["id"]: row for row in rows_b}
    missing = [row["id"] for row in rows_a if row["id"] not in found]
    if missing or len(rows_a) != len(rows_b) or len(found) != len(rows_b) or not rows_a:
        what = f"; {missing[0]} is in the first alone" if missing else ""
        raise UserError(f"the two evaluations are not of the same photos: {len(rows_a)} and "
                        f"{len(rows_b)} rows{what}")
    for row in rows_a:
        for name in ("label", "truth_rle"):
            if row[name] != found[row["id"]][name]:
                raise UserError(f"{row['id']}: the two evaluations differ in its {name}, so they "
                                f"are not against the same truth")
    return [found[row["id"]] for row in rows_a]
