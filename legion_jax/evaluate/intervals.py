"""How sure a number is: 95 % percentile intervals over resampled photos (Efron, 1979)."""

from collections.abc import Mapping, Sequence

import numpy as np

from input_pipeline.errors import UserError
from legion_jax.evaluate import weighted
from legion_jax.evaluate.summary import blocks

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
_AT_ONCE = 50  # resamples in memory


def bootstrap_intervals(rows: Sequence[dict], *, resamples: int = RESAMPLES, seed: int = 0,
                        rule: str = "exact") -> dict[str, list[float]]:
    """{path of a number in metrics.json: [low, high]} of every headline number there is.

    Replicates without the photos a number is over (no real ones, say) do not count.
    """
    if not rows or not resamples:
        return {}
    scores, numbers = _scores(rows, rule)
    drawn = _replicates({name: scores[name] for name in numbers}, len(rows), resamples, seed)
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
    scores_a, numbers_a = _scores(rows_a, rule)
    scores_b, numbers_b = _scores(rows_b, rule)
    names = [name for name in numbers_a if name in numbers_b]
    drawn_a, drawn_b = (_replicates({name: scores[name] for name in names}, len(rows_a), resamples,
                                    seed) for scores in (scores_a, scores_b))
    result = {}
    for name in names:
        change = drawn_b[name] - drawn_a[name]
        low, high = _percentiles(change)
        result[name] = {"a": numbers_a[name], "b": numbers_b[name],
                        "difference": numbers_b[name] - numbers_a[name], "low": low, "high": high,
                        "share_above_zero": float((change[~np.isnan(change)] > 0).mean())}
    return result


def _scores(rows: Sequence[dict],
            rule: str) -> tuple[dict[str, weighted.Score], dict[str, float]]:
    """Every headline number by its path: as a function of draws, and its value if it has one."""
    scores = dict(weighted.scores(blocks(rows, rule=rule)))
    numbers = weighted.values(scores, len(rows))
    return scores, {name: value for name, value in numbers.items() if value is not None}


def _replicates(scores: Mapping[str, weighted.Score], photos: int, resamples: int,
                seed: int) -> dict[str, np.ndarray]:
    """float64[resamples] of every score, all of the same draws."""
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in scores}
    for start in range(0, resamples, _AT_ONCE):
        draws = rng.multinomial(photos, np.full(photos, 1 / photos),
                                size=min(_AT_ONCE, resamples - start))
        for name, score in scores.items():
            parts[name].append(score(draws))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _percentiles(values: np.ndarray) -> list[float]:
    return [float(value) for value in np.nanpercentile(values, PERCENTILES)]


def _aligned(rows_a: Sequence[dict], rows_b: Sequence[dict]) -> list[dict]:
    """`rows_b` in the order of `rows_a`."""
    by_id = {row["id"]: row for row in rows_b}
    missing = [row["id"] for row in rows_a if row["id"] not in by_id]
    if missing or len(rows_a) != len(rows_b) or len(by_id) != len(rows_b) or not rows_a:
        example = f"; {missing[0]} is in the first alone" if missing else ""
        raise UserError(f"the two evaluations are not of the same photos: {len(rows_a)} and "
                        f"{len(rows_b)} rows{example}")
    for row in rows_a:
        for name in ("label", "truth_rle"):
            if row[name] != by_id[row["id"]][name]:
                raise UserError(f"{row['id']}: the two evaluations differ in its {name}, so they "
                                f"are not against the same truth")
    return [by_id[row["id"]] for row in rows_a]
