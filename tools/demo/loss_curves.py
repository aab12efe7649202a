"""One chart for each number a training run logged: every step, and the mean over its neighbours."""

import math
from collections.abc import Sequence

import numpy as np

from legion_jax.display import charts, numbers
from legion_jax.display.charts import Chart, Line

# Keys of metrics.jsonl and what they are, in the order shown.
TERMS = {
    "loss": "sum of the next {number}, weights included",
    "ce": "next word, cross-entropy",
    "bce": "mask, binary cross-entropy",
    "dice": "mask, dice loss",
    "verdict": "real or fake, cross-entropy",
    "grad_norm": "gradient norm before clipping",
    "learning_rate": "step size of the optimizer",
}
WEIGHED = ("ce", "bce", "dice", "verdict")  # those that make up the loss
THREE_WAY = "class of the photo, cross-entropy"
# The same of scores on held-out photos, 0 to 1.
SCORES = {"eval/localisation.mean.f1": ("mask F1", "mean over photos"),
          "eval/detection.accuracy": ("verdict accuracy", "real or fake"),
          "eval/text.rouge_l": ("ROUGE-L", "explanation and reference")}
_NUMBERS = ("terms", "one", "two", "three", "four")
BUCKETS = 220  # the longest run still draws no more points than pixels
LOG_FROM = 30.0  # largest over smallest value that calls for a logarithmic axis


def charts_of(rows: Sequence[dict], *, three_way: bool = False) -> list[Chart]:
    """Charts of TERMS from the rows of metrics.jsonl, {"step": int, name: number, ...} each.

    Values that are missing, None, NaN or infinite are skipped. A term without any, or one that is
    always 0, which a run does not compute, has no chart; nor has the sum of a single one.
    `three_way`: the verdict has more classes than real and fake.
    """
    values = {name: [(row["step"], row[name]) for row in rows
                     if row.get(name) is not None and math.isfinite(row[name])] for name in TERMS}
    values = {name: pairs for name, pairs in values.items() if any(value for _, value in pairs)}
    weighed = [name for name in WEIGHED if name in values]
    meanings = TERMS | {"loss": TERMS["loss"].format(number=_NUMBERS[len(weighed)])}
    if three_way:
        meanings["verdict"] = THREE_WAY
    return [_chart(name, meanings[name], np.array(sorted(pairs), np.float64))
            for name, pairs in values.items() if name != "loss" or len(weighed) != 1]


def score_charts(rows: Sequence[dict]) -> list[Chart]:
    """Charts of SCORES, which few rows have; the highest dot has a ring."""
    drawn = []
    for key, (name, meaning) in SCORES.items():
        points = [(row["step"] + 1, row[key]) for row in rows if row.get(key) is not None]
        if not points:
            continue
        best = max(points, key=lambda point: (point[1], point[0]))
        dots = [charts.Dot(step, value, f"{value:.3f} after {step} updates", "accent",
                           ring=(step, value) == best) for step, value in points]
        last = rows[-1]["step"] + 1
        ticks = [(tick, numbers.compact(tick)) for tick in charts.ticks(0, last, whole=True)
                 if tick <= last]
        drawn.append(Chart(name, f"{meaning}, highest {best[1]:.3f} after {best[0]} updates",
                           charts.Axis("updates", 0, last, ticks), charts.value_axis("", 0, 1),
                           lines=[Line(points, "accent")], dots=dots))
    return drawn


def smoothed(values: np.ndarray) -> np.ndarray:
    """Mean of float64[N] over about N / 25 neighbours, at the ends over those there are.

    As many before as after, so that the line does not lag behind falling values.
    """
    indices, reach = np.arange(len(values)), len(values) // 50
    start, stop = np.maximum(indices - reach, 0), np.minimum(indices + reach + 1, len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[stop] - sums[start]) / (stop - start)


def _chart(name: str, meaning: str, pairs: np.ndarray) -> Chart:
    steps, values = pairs.T
    means = smoothed(values)
    low, high = values.min(), values.max()
    log = bool(low > 0 and high / low > LOG_FROM)
    last = max(steps[-1], steps[0] + 1)
    step_ticks = [(tick, numbers.compact(tick)) for tick in charts.ticks(
        steps[0], steps[-1], whole=True) if steps[0] <= tick <= last]
    ends = f"from {numbers.compact(means[0])} to {numbers.compact(means[-1])}"
    return Chart(
        name, f"{meaning}, {ends}{', log scale' if log else ''}",
        charts.Axis("step", steps[0], last, step_ticks),
        charts.log_axis("", low, high) if log else charts.value_axis("", min(0.0, low), high),
        lines=[Line(_extremes(steps, values), "accent", width=0.8, opacity=0.38),
               Line(_extremes(steps, means), "accent")])


def _extremes(steps: np.ndarray, values: np.ndarray) -> list[tuple[float, float]]:
    """(step, value) of the lowest and the highest value of each bucket, so no spike is lost."""
    indices = range(len(values))
    if len(values) > 2 * BUCKETS:
        ends = {0, len(values) - 1}
        for part in np.array_split(np.arange(len(values)), BUCKETS):
            ends |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
        indices = sorted(ends)
    return [(float(steps[k]), float(values[k])) for k in indices]
