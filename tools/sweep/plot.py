"""The plot of a sweep as SVG: the metric over the first knob, or over the runs by name."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from legion_jax.display import charts
from legion_jax.display.charts import Axis, Chart, Dot, Line
from legion_jax.train.sweep_plan import run_name

WIDTH, HEIGHT = 640, 380  # px
BELOW = 56  # px kept free below the axis, more where labels are turned
LETTER = 5.9  # px, about the mean width of a letter of a label
MIN_SPAN = 0.05


@dataclasses.dataclass(frozen=True)
class Point:
    """A run: its knobs, and its metric, None while it has none."""

    name: str
    knobs: dict[str, Any]
    value: float | None

    @property
    def drawn(self) -> bool:
        return self.value is not None and math.isfinite(self.value)


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


def value_axis(values: Sequence[float]) -> Axis:
    """The axis of the metric: round numbers around the values, not always down to 0.

    It spans MIN_SPAN of the values at least, so that runs that hardly differ look it.
    """
    low, high = min(values), max(values)
    missing = (MIN_SPAN * max(abs(low), abs(high)) or 0.1) - (high - low)
    if missing > 0:
        low, high = low - missing / 2, high + missing / 2
    return charts.value_axis("", low, high)


def draw(points: Sequence[Point], *, metric: str, best: str | None) -> str:
    """The plot as the text of an SVG file; `best` is the name of the run to mark.

    Repeats, runs that differ in their seed, are dots of their own on a line through their means.
    """
    title, labels, places = layout(points)
    longest = max(map(len, labels)) * LETTER
    turned = longest > (WIDTH - charts.LEFT - charts.RIGHT) / len(labels)
    left, below = charts.LEFT, BELOW
    if turned:
        angle = math.radians(charts.TURN)
        below += round(min(longest, 260) * math.sin(angle))
        left = max(left, round(min(longest, 260) * math.cos(angle)))
    names = list(dict.fromkeys(series for series, _ in places))
    dots, lines, legend = [], [], []
    for number, name in enumerate(names):
        tone = charts.SERIES[number % len(charts.SERIES)]
        drawn = [(at, point) for (series, at), point in zip(places, points, strict=True)
                 if series == name and point.drawn]
        dots += [Dot(at, point.value, f"{point.name}: {point.value:.4g}", tone, radius=4.5,
                     ring=point.name == best) for at, point in drawn]
        if title and drawn:
            lines.append(Line([(at, float(np.mean([p.value for other, p in drawn if other == at])))
                               for at in sorted({at for at, _ in drawn})], tone, width=2))
        legend.append((tone, name))
    axis = Axis(title, -0.5, len(labels) - 0.5, list(enumerate(labels)), turned=turned)
    return charts.draw(Chart(
        metric, "", axis, value_axis([p.value for p in points if p.drawn] or [0.0]),
        lines=lines, dots=dots, legend=legend if len(names) > 1 else (),
        size=(WIDTH, HEIGHT - BELOW + below), left=left, bottom=below), standalone=True)
