"""The charts of a survey: histograms of its records, and image sizes as a map of dots."""

import math

import numpy as np

from legion_jax.display import charts
from legion_jax.display.charts import Axis, Bar, Chart, Dot, Line
from legion_jax.display.numbers import percent
from tools.inspect_data.survey import Survey

MAX_BARS = 24
MAX_DOTS = 300  # more distinct sizes are put together in a grid
GRID = 30  # cells of that grid along each axis
SHARES = (0.0, *(n * 10.0 ** p for p in range(-4, 0) for n in (1, 2, 5)), 1.0)


def charts_of(survey: Survey, *, tokens: bool) -> list[Chart]:
    """Charts of all records looked at; one without a single value is left out.

    tokens: whether the survey counted the tokens of captions.
    """
    rows = survey.rows
    area, texts = rows["area"], rows[rows["characters"] > 0]
    silent = _without(len(rows) - len(texts), "no caption")
    unmarked = ", ".join(filter(None, (
        _without(int((area == 0).sum()), "nothing marked"),
        _without(int(np.isnan(area).sum()), "not looked for"))))
    drawn = []
    if (area > 0).any():
        drawn.append(shares("Mask area", "share of the photo", area[area > 0], unmarked))
    if (rows["regions"] > 0).any():
        drawn.append(counts("Regions", "regions per image", rows["regions"]))
    if len(texts):
        drawn.append(counts("Caption length", "characters", texts["characters"], silent))
        if tokens:
            drawn.append(counts("Caption length", "tokens of the caption alone",
                                texts["tokens"], silent))
    if len(rows):
        drawn.append(sizes("Image size", rows["width"], rows["height"]))
    return drawn


def _without(count: int, lack: str) -> str:
    return f"{count:,} {lack}" if count else ""


def shares(name: str, unit: str, values: np.ndarray, note: str = "") -> Chart:
    """Histogram of shares above 0 up to 1, in steps of 1, 2 and 5 times a power of ten."""
    bars = [Bar(k, k + 1, int(count), f"{percent(low)} to {percent(high)}: {count:,}")
            for k, (count, low, high) in enumerate(zip(
                np.histogram(values, SHARES)[0], SHARES, SHARES[1:], strict=False))]
    powers = [(k, percent(SHARES[k])) for k in range(1, len(SHARES), 3)]
    return Chart(name, note, Axis(unit, 0, len(bars), powers),
                 charts.count_axis("records", bars), bars=bars)


def counts(name: str, unit: str, values: np.ndarray, note: str = "") -> Chart:
    """Histogram of whole numbers from 0 on; a long tail is put together in the last bar."""
    top = float(values.max(initial=0))
    usual = float(np.quantile(values, 0.99)) if len(values) else 0.0
    if top > 2 * max(usual, 10):
        top = usual
    step = max(1, round(_round_step(top / (MAX_BARS - 1))))
    edges = np.arange(0, top + 1.5 * step, step).astype(int)[:MAX_BARS + 1]
    numbers = np.bincount(np.clip(values // step, 0, len(edges) - 2), minlength=len(edges) - 1)
    bars = []
    for low, number in zip(edges.tolist(), numbers.tolist(), strict=False):
        rest = low == edges[-2] and values.max(initial=0) >= edges[-1]
        label = f"{low:,} and more" if rest else (
            f"{low:,}" if step == 1 else f"{low:,} to {low + step - 1:,}")
        bars.append(Bar(low, low + step, number, f"{label}: {number:,}",
                        opacity=0.35 if rest else 0.6))
    # A bar of one value has its tick below the middle.
    middle, apart = (0.5 if step == 1 else 0), max(1, math.ceil(len(edges) / 7))
    ticks = [(low + middle, f"{low:,}") for low in edges[:len(edges) - (step == 1):apart].tolist()]
    return Chart(name, note, Axis(unit, 0, int(edges[-1]), ticks),
                 charts.count_axis("records", bars), bars=bars)


def sizes(name: str, width: np.ndarray, height: np.ndarray) -> Chart:
    """One dot for each size of image, its area in proportion to the number of images.

    The dashed line is that of square images.
    """
    pairs, numbers = np.unique(np.stack([width, height], -1), axis=0, return_counts=True)
    note = f"{len(pairs):,} sizes" if len(pairs) != 1 else "all of one size"
    if len(pairs) > MAX_DOTS:
        cell = pairs.max(axis=0) / GRID
        cells, group = np.unique(np.floor(pairs / cell), axis=0, return_inverse=True)
        numbers = np.bincount(group.ravel(), numbers).astype(int)
        pairs, note = ((cells + 0.5) * cell).round().astype(int), f"{note}, put together in a grid"
    axes = [charts.value_axis(title, 0, top, whole=True)
            for title, top in zip(("width", "height"), pairs.max(axis=0).tolist(), strict=True)]
    total, square = int(numbers.sum()), min(axis.high for axis in axes)
    dots = [Dot(w, h, f"{w:,} × {h:,}: {number:,}", "accent", opacity=0.5,
                radius=2.5 + 11 * math.sqrt(number / total))
            for (w, h), number in sorted(zip(pairs.tolist(), numbers.tolist(), strict=True),
                                         key=lambda item: -item[1])]
    return Chart(name, note, *axes, dots=dots, lines=[
        Line([(0, 0), (square, square)], "soft", width=1, opacity=0.6, dash=(3, 4))])


def _round_step(rough: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough or 1))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= rough * (1 - 1e-9))
