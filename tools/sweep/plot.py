"""The plot of a sweep as SVG: the metric over the first knob, or over the runs by name.

Geometry is computed here; tools/sweep/templates/sweep.svg draws it.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from legion_jax.display import web
from legion_jax.train.sweep_plan import run_name
from tools.inspect_data import bar_charts

WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 44, 56  # px kept free of points, for ticks and labels
LETTER = 6.6  # px, about the mean width of a letter of a label
MIN_SPAN = 0.05
# Okabe and Ito (2008): told apart by readers of every colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333")
_TEMPLATES = pathlib.Path(__file__).parent / "templates"


@dataclasses.dataclass(frozen=True)
class Point:
    """A run: its knobs, and its metric, None while it has none."""

    name: str
    knobs: dict[str, Any]
    value: float | None

    @property
    def drawn(self) -> bool:
        return self.value is not None and math.isfinite(self.value)


@dataclasses.dataclass(frozen=True)
class Dot:
    """A point in pixels, y pointing down."""

    x: float
    y: float
    label: str
    best: bool


@dataclasses.dataclass(frozen=True)
class Series:
    """Points that differ in the first knob only; `line` is the `points` of an SVG polyline.

    Repeats, runs that differ in their seed, are dots of their own on a line through their means.
    """

    label: str
    colour: str
    dots: list[Dot]
    line: str


def layout(points: Sequence[Point]) -> tuple[str, list[str], list[tuple[str, int]]]:
    """What goes along the plot.

    Returns:
        (title of the axis, labels along it, (series, place on the axis) of each point). The axis
        is the first knob, its values evenly spaced, if all of them are numbers; otherwise the
        runs one by one.
    """
    knobs = [k for k in points[0].knobs if k != "seed"] or list(points[0].knobs)
    values = [p.knobs[knobs[0]] for p in points] if knobs else []
    numeric = bool(values) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if not numeric or len(set(values)) < 2:
        return "", [p.name for p in points], [("", k) for k in range(len(points))]
    places = sorted(set(values))
    # A knob that follows from the first one divides nothing.
    rest = [k for k in knobs[1:] if any(
        len({repr(p.knobs[k]) for p in points if p.knobs[knobs[0]] == v}) > 1 for v in places)]
    series = [run_name({k: p.knobs[k] for k in rest}) if rest else "" for p in points]
    return (knobs[0], [f"{v:g}" for v in places],
            [(s, places.index(v)) for s, v in zip(series, values, strict=True)])


def ticks(values: Sequence[float]) -> list[tuple[float, str]]:
    """Round numbers around the values, not always down to 0, with their labels.

    They span MIN_SPAN of the values at least, so that runs that hardly differ look it.
    """
    low, high = min(values), max(values)
    missing = (MIN_SPAN * max(abs(low), abs(high)) or 0.1) - (high - low)
    if missing > 0:
        low, high = low - missing / 2, high + missing / 2
    step = bar_charts.round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(k * step, f"{k * step:.{digits}f}") for k in range(first, last + 1)]


def draw(points: Sequence[Point], *, metric: str, best: str | None) -> str:
    """The plot as the text of an SVG file; `best` is the name of the run to mark."""
    title, labels, places = layout(points)
    y_ticks = ticks([p.value for p in points if p.drawn] or [0.0])
    # Labels too long for their place are turned.
    room = (WIDTH - LEFT - RIGHT) / len(labels)
    longest = max(map(len, labels)) * LETTER
    turned = longest > room
    below = BOTTOM + (min(longest, 260) * math.sin(math.radians(35)) if turned else 0)
    low, high = y_ticks[0][0], y_ticks[-1][0]

    def x(place: int) -> float:
        return round(LEFT + (place + 0.5) * room, 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    return web.environment(_TEMPLATES).get_template("sweep.svg").render(
        width=WIDTH, height=round(HEIGHT - BOTTOM + below), left=LEFT, right=WIDTH - RIGHT,
        top=TOP, floor=HEIGHT - BOTTOM, title=title, metric=metric, turned=turned,
        x_ticks=[(x(k), label) for k, label in enumerate(labels)],
        y_ticks=[(y(value), label) for value, label in y_ticks],
        series=_series(points, places, x, y, best, joined=bool(title)),
        legend_step=(WIDTH - LEFT - RIGHT) / max(1, len({s for s, _ in places})))


def _series(points, places, x, y, best: str | None, *, joined: bool) -> list[Series]:
    found = []
    for number, name in enumerate(dict.fromkeys(s for s, _ in places)):
        mine = [(place, p) for (s, place), p in zip(places, points, strict=True)
                if s == name and p.drawn]
        means = {place: float(np.mean([p.value for q, p in mine if q == place]))
                 for place, _ in sorted(mine, key=lambda pair: pair[0])}
        line = " ".join(f"{x(place)},{y(value)}" for place, value in means.items())
        found.append(Series(
            name, COLOURS[number % len(COLOURS)],
            [Dot(x(place), y(p.value), f"{p.name}: {p.value:.4g}", p.name == best)
             for place, p in mine], line if joined else ""))
    return found
