"""The geometry of small SVG charts: histograms, and image sizes as a map of dots."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 20, 10, 36  # px kept free of bars, for ticks and labels
MAX_BARS = 24
MAX_DOTS = 300  # more distinct sizes are put together in a grid
GRID = 30  # cells of that grid along each axis
SHARES = (0.0, *(n * 10.0 ** p for p in range(-4, 0) for n in (1, 2, 5)), 1.0)


@dataclasses.dataclass(frozen=True)
class Bar:
    """Values from `low` to below `high` (of the last bar of a whole: to `high`) and its pixels."""

    low: float
    high: float
    count: int
    label: str
    x: float
    y: float
    width: float
    height: float
    rest: bool  # everything from `low` on


@dataclasses.dataclass(frozen=True)
class Dot:
    """Images of one size, or of about one size."""

    label: str
    count: int
    x: float
    y: float
    radius: float


@dataclasses.dataclass(frozen=True)
class Chart:
    """One chart in pixels of a WIDTH x HEIGHT canvas, y pointing down; bars or dots.

    x_ticks and y_ticks are (place, label). `note` says what is not drawn. `diagonal` is the end
    (x, y) of the line on which images are square.
    """

    name: str
    unit: str
    note: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    bars: Sequence[Bar] = ()
    dots: Sequence[Dot] = ()
    diagonal: tuple[float, float] | None = None


def shares(name: str, unit: str, values: np.ndarray, note: str = "") -> Chart:
    """Histogram of shares above 0 up to 1, in steps of 1, 2 and 5 times a power of ten."""
    ticks = {k: percent(SHARES[k]) for k in range(1, len(SHARES), 3)}  # the powers of ten
    return _histogram(name, unit, values, np.array(SHARES), ticks, percent, note=note)


def numbers(name: str, unit: str, values: np.ndarray, note: str = "") -> Chart:
    """Histogram of whole numbers from 0 on; a long tail is put together in the last bar."""
    top = float(values.max(initial=0))
    usual = float(np.quantile(values, 0.99)) if len(values) else 0.0
    if top > 2 * max(usual, 10):
        top = usual
    step = max(1, round(round_step(top / (MAX_BARS - 1))))
    edges = np.arange(0, top + 1.5 * step, step)[:MAX_BARS + 1]
    each = max(1, math.ceil(len(edges) / 7))
    # A bar of one value has its tick below the middle.
    ticks = {k + (0.5 if step == 1 else 0): f"{edges[k]:,.0f}"
             for k in range(0, len(edges) - (step == 1), each)}
    return _histogram(name, unit, values, edges, ticks, lambda v: f"{v:,.0f}", step=step, note=note)


def sizes(name: str, width: np.ndarray, height: np.ndarray) -> Chart:
    """One dot for each size of image, its area in proportion to the number of images."""
    pairs, counts = np.unique(np.stack([width, height], -1), axis=0, return_counts=True)
    note = f"{len(pairs):,} sizes" if len(pairs) != 1 else "all of one size"
    if len(pairs) > MAX_DOTS:
        cell = pairs.max(axis=0) / GRID
        cells, place = np.unique(np.floor(pairs / cell), axis=0, return_inverse=True)
        counts = np.bincount(place.ravel(), counts).astype(int)
        pairs, note = ((cells + 0.5) * cell).round().astype(int), f"{note}, put together in a grid"
    steps = [round_step(max(1, top) / 4) for top in pairs.max(axis=0, initial=1)]
    ends = [step * math.ceil(top / step) for step, top in zip(
        steps, pairs.max(axis=0, initial=1), strict=True)]

    def x(value):
        return round(LEFT + value / ends[0] * (WIDTH - LEFT - RIGHT), 1)

    def y(value):
        return round(HEIGHT - BOTTOM - value / ends[1] * (HEIGHT - TOP - BOTTOM), 1)

    total = int(counts.sum())
    dots = [Dot(f"{w:,} × {h:,}", int(n), x(w), y(h), round(2.5 + 11 * math.sqrt(n / total), 1))
            for (w, h), n in sorted(zip(pairs.tolist(), counts, strict=True), key=lambda p: -p[1])]
    square = min(ends)
    return Chart(name, "width", note, _axis(x, steps[0], ends[0]), _axis(y, steps[1], ends[1]),
                 dots=dots, diagonal=(x(square), y(square)))


def percent(share: float) -> str:
    """A share as text with two digits that count: 0.02 %, 1.5 %, 37 %."""
    value = 100 * share
    if 0 < value < 0.01:
        return "< 0.01 %"
    return f"{value:.2g} %" if value < 99.5 else f"{value:.0f} %"


def round_step(rough: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough or 1))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= rough * (1 - 1e-9))


def _axis(scale, step: float, end: float) -> list[tuple[float, str]]:
    return [(scale(k * step), f"{k * step:,.0f}") for k in range(round(end / step) + 1)]


def _histogram(name: str, unit: str, values: np.ndarray, edges: np.ndarray,
               ticks: dict[float, str], spell, *, step: int = 0, note: str = "") -> Chart:
    """Bars of equal width between `edges`; `ticks` are counted in bars. `step`: whole numbers."""
    last = len(edges) - 2
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, last)
    counts = np.bincount(place, minlength=last + 1)
    more = bool((values > edges[-1]).any() or step and (values == edges[-1]).any())
    rise = max(1, round(round_step(max(1, counts.max()) / 4)))
    top = rise * math.ceil(max(1, counts.max()) / rise)
    wide = (WIDTH - LEFT - RIGHT) / (last + 1)

    def y(count):
        return round(HEIGHT - BOTTOM - count / top * (HEIGHT - TOP - BOTTOM), 1)

    bars = []
    for k, count in enumerate(counts.tolist()):
        low, high = float(edges[k]), float(edges[k + 1])
        rest = more and k == last
        label = (f"{spell(low)} and more" if rest else spell(low) if step == 1 else
                 f"{spell(low)} to {spell(high - 1 if step else high)}")
        # Few are not none: one among thousands still shows.
        tall = max(1.5, HEIGHT - BOTTOM - y(count)) if count else 0.0
        bars.append(Bar(low, high, count, label, round(LEFT + k * wide, 1),
                        round(HEIGHT - BOTTOM - tall, 1), round(wide - min(1.5, wide / 4), 1),
                        round(tall, 1), rest))
    x_ticks = [(round(LEFT + k * wide, 1), label) for k, label in ticks.items()]
    return Chart(name, unit, note, x_ticks, _axis(y, rise, top), bars=bars)
