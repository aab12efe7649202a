"""The geometry of small line charts: one chart for each number a training run logged."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from legion_jax.display import web

# Keys of metrics.jsonl and what they are, in the order shown.
TERMS = {
    "loss": "sum of the next four, weights included",
    "ce": "next word, cross-entropy",
    "bce": "mask, binary cross-entropy",
    "dice": "mask, dice loss",
    "verdict": "real or fake, cross-entropy",
    "grad_norm": "gradient norm before clipping",
    "learning_rate": "step size of the optimizer",
}
WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34  # px kept free of lines, for ticks and labels
BUCKETS = 220  # the longest run still draws no more points than pixels
LOG_FROM = 30.0  # largest over smallest value that calls for a logarithmic axis


@dataclasses.dataclass(frozen=True)
class Chart:
    """One chart in pixels of a WIDTH x HEIGHT canvas, y pointing down.

    raw and smooth are the `points` of SVG polylines, x_ticks and y_ticks (place, label); first
    and last are the ends of the smoothed line as text.
    """

    name: str
    meaning: str
    raw: str
    smooth: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    log: bool
    first: str
    last: str


def charts(rows: Sequence[dict]) -> list[Chart]:
    """Charts of TERMS from the rows of metrics.jsonl, {"step": int, name: number, ...} each.

    Values that are missing, None, NaN or infinite are skipped; a term without any has no chart.
    """
    result = []
    for name, meaning in TERMS.items():
        pairs = [(row["step"], row[name]) for row in rows
                 if row.get(name) is not None and math.isfinite(row[name])]
        if pairs:
            result.append(_chart(name, meaning, np.array(sorted(pairs), np.float64)))
    return result


def number(value: float) -> str:
    """A tick or value in at most three digits: 12, 0.35, 2e-5, 1.5k."""
    if value and not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if abs(value) >= 1000:
        return f"{value / 1000:.3g}k"
    return f"{value:.3g}"


def smoothed(values: np.ndarray) -> np.ndarray:
    """Mean of float64[N] over about N / 25 neighbours, at the ends over those there are.

    As many before as after, so that the line does not lag behind falling values.
    """
    place, reach = np.arange(len(values)), len(values) // 50
    start, stop = np.maximum(place - reach, 0), np.minimum(place + reach + 1, len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[stop] - sums[start]) / (stop - start)


def _chart(name: str, meaning: str, pairs: np.ndarray) -> Chart:
    steps, values = pairs.T
    smooth = smoothed(values)
    low, high = values.min(), values.max()
    log = bool(low > 0 and high / low > LOG_FROM)
    y_ticks = _log_ticks(low, high) if log else web.ticks(min(0.0, low), high)
    x_ticks = web.ticks(steps[0], steps[-1], whole=True)
    scale = np.log10 if log else np.asarray
    bottom, top = scale([low, high] if log else [y_ticks[0], y_ticks[-1]])
    first, last = steps[0], max(steps[-1], steps[0] + 1)

    def x(step):
        return LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value):
        return HEIGHT - BOTTOM - (scale(value) - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    return Chart(
        name=name, meaning=meaning, log=log, first=number(smooth[0]), last=number(smooth[-1]),
        raw=_points(x, y, *_extremes(steps, values)),
        smooth=_points(x, y, *_extremes(steps, smooth)),
        x_ticks=[(round(float(x(t)), 1), number(t)) for t in x_ticks if first <= t <= last],
        y_ticks=[(round(float(y(t)), 1), number(t)) for t in y_ticks])


def _points(x, y, steps: np.ndarray, values: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x(steps), y(values), strict=True))


def _extremes(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keeps the lowest and the highest value of each bucket, so that no spike is lost."""
    if len(values) <= 2 * BUCKETS:
        return steps, values
    kept = {0, len(values) - 1}
    for part in np.array_split(np.arange(len(values)), BUCKETS):
        kept |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
    index = sorted(kept)
    return steps[index], values[index]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between `low` and `high`, seven at most; with twice and five times if few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [n * 10.0 ** power for power in powers for n in (1, 2, 5)]
    fine = [tick for tick in fine if low <= tick <= high]
    if len(fine) <= 6:
        return fine
    coarse = [10.0 ** power for power in powers if low <= 10.0 ** power <= high]
    return coarse[::math.ceil(len(coarse) / 7)]
