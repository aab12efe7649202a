"""The geometry of a report's SVG charts, in pixels of a canvas with y pointing down."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from legion_jax.display import numbers, web
from legion_jax.evaluate.report.folder import Evaluation
from legion_jax.evaluate.report.tables import number_in

MAX_POINTS = 200  # of a curve
BINS = 20  # of the histogram of fake probabilities
MILDER_FIRST = {"jpeg", "web", "resize"}  # perturbations whose larger levels do less
SHARES = ("0", "0.25", "0.5", "0.75", "1")


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Size of a chart, and what is kept free of lines for ticks and labels."""

    WIDTH: int
    HEIGHT: int
    LEFT: int = 40
    RIGHT: int = 14
    TOP: int = 24
    BOTTOM: int = 38

    def x(self, share: float) -> float:
        """Pixels from the left of a share, 0 to 1, of the axis."""
        return round(self.LEFT + share * (self.WIDTH - self.LEFT - self.RIGHT), 1)

    def y(self, share: float) -> float:
        """Pixels from the top of a share, 0 to 1 upwards, of the axis."""
        return round(self.HEIGHT - self.BOTTOM - share * (self.HEIGHT - self.TOP - self.BOTTOM), 1)


WIDE, SQUARE = Canvas(320, 230), Canvas(320, 320)


@dataclasses.dataclass(frozen=True)
class Bar:
    """A filled rectangle; `kind` is a class of the style sheet."""

    x: float
    y: float
    width: float
    height: float
    label: str
    kind: str


@dataclasses.dataclass(frozen=True)
class Line:
    """The `points` of a polyline, and dots (x, y, label) on it; `level` is y of its clean value."""

    name: str
    points: str
    kind: str
    dots: Sequence[tuple[float, float, str]] = ()
    level: float | None = None


@dataclasses.dataclass(frozen=True)
class Chart:
    """One chart; x_ticks and y_ticks are (place, label), legend (class, words)."""

    name: str
    note: str
    canvas: Canvas
    x_title: str
    y_title: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    bars: Sequence[Bar] = ()
    lines: Sequence[Line] = ()
    legend: Sequence[tuple[str, str]] = ()
    diagonal: bool = False


def robustness(run: Evaluation) -> list[Chart]:
    """mIoU, F1 and accuracy against the level, one chart for each perturbation."""
    measures = {"mIoU": ("localisation", "mean", "miou"), "F1": ("localisation", "mean", "f1"),
                "accuracy": ("detection", "accuracy")}
    names = {}
    for row in run.metrics.get("robustness") or []:
        names.setdefault(row["name"], []).append(row)
    charts = []
    for name, rows in names.items():
        rows = sorted(rows, key=lambda row: row["level"], reverse=name in MILDER_FIRST)
        lines = [line for kind, (measure, path) in enumerate(measures.items()) if (
            line := _levels(measure, [number_in(row, path) for row in rows], rows,
                            run.number(*path), kind=f"line{kind}"))]
        if lines:
            ticks = [(WIDE.x(_place(k, len(rows))), label) for k, label in enumerate(
                ["clean", *(f"{row['level']:g}" for row in rows)])]
            charts.append(Chart(name, "harder to the right", WIDE, "level", "", ticks,
                                _shares(WIDE.y), lines=lines,
                                legend=[(line.kind, line.name) for line in lines]))
    return charts


def reliability(run: Evaluation) -> list[Chart]:
    """Accuracy against confidence, and how many photos each bin holds; [] without bins."""
    bins = [b for b in run.block("detection").get("reliability") or [] if b["num"]]
    if not bins:
        return []
    ece = run.number("detection", "ece")
    bars = [Bar(SQUARE.x(b["low"]), SQUARE.y(b["accuracy"]),
                round(SQUARE.x(b["high"]) - SQUARE.x(b["low"]) - 1, 1),
                round(SQUARE.y(0) - SQUARE.y(b["accuracy"]), 1), _bin_label(b), "shape")
            for b in bins]
    dots = [(SQUARE.x(b["confidence"]), SQUARE.y(b["accuracy"]), _bin_label(b)) for b in bins]
    diagram = Chart("Reliability", f"ECE {numbers.score(ece)}", SQUARE, "confidence", "accuracy",
                    _shares(SQUARE.x), _shares(SQUARE.y), bars=bars,
                    lines=[Line("mean confidence", "", "dots", dots)], diagonal=True)
    counts = _counted([(b["low"], b["high"], [(b["num"], "shape", _bin_label(b))]) for b in bins])
    return [diagram, dataclasses.replace(
        counts, name="Photos per bin", note=f"{sum(b['num'] for b in bins):,} photos",
        x_title="confidence")]


def roc(probability: np.ndarray, is_fake: np.ndarray, auc: float | None) -> Chart | None:
    """True against false positives over all thresholds; None unless both classes are there.

    Args:
        probability: float[N], of fake. is_fake: bool[N].
    """
    if is_fake.all() or not is_fake.any():
        return None
    values, group = np.unique(-probability, return_inverse=True)
    hits = np.cumsum(np.bincount(group, is_fake, len(values))) / is_fake.sum()
    false = np.cumsum(np.bincount(group, ~is_fake, len(values))) / (~is_fake).sum()
    points = np.stack([np.append(0, false), np.append(0, hits)], -1)
    kept = np.unique(np.linspace(0, len(points) - 1, MAX_POINTS).round().astype(int))
    line = Line("ROC", _points(SQUARE, points[kept]), "line0")
    return Chart("ROC", f"AUC {numbers.score(auc)}", SQUARE, "real photos called fake",
                 "fake photos called fake", _shares(SQUARE.x), _shares(SQUARE.y), lines=[line],
                 diagonal=True)


def histogram(probability: np.ndarray, is_fake: np.ndarray) -> Chart | None:
    """Fake probabilities of real and of fake photos, side by side; None without a photo."""
    if not len(probability):
        return None
    place = np.clip((probability * BINS).astype(int), 0, BINS - 1)
    real, fake = (np.bincount(place[chosen], minlength=BINS) for chosen in (~is_fake, is_fake))
    bins = []
    for k in range(BINS):
        low, high = k / BINS, (k + 1) / BINS
        words = f"fake probability {low:.2f} to {high:.2f}"
        bins.append((low, high, [(int(real[k]), "shape real", f"{words}: {real[k]:,} real"),
                                 (int(fake[k]), "shape fake", f"{words}: {fake[k]:,} fake")]))
    chart = _counted(bins)
    return dataclasses.replace(chart, name="Fake probability",
                               note=f"{int(real.sum()):,} real, {int(fake.sum()):,} fake photos",
                               x_title="fake probability",
                               legend=[("real", "real photos"), ("fake", "fake photos")])


def _levels(name: str, values: Sequence[float | None], rows: Sequence[dict], clean: float | None,
            *, kind: str) -> Line | None:
    """A line over levels, the undamaged photos first; None without a value."""
    if all(value is None for value in values):
        return None
    levels = ["clean", *(f"{row['level']:g}" for row in rows)]
    places = [(_place(k, len(rows)), value) for k, value in enumerate([clean, *values])
              if value is not None]
    dots = [(WIDE.x(_place(k, len(rows))), WIDE.y(value), f"{name} at {levels[k]}: {value:.3f}")
            for k, value in enumerate([clean, *values]) if value is not None]
    return Line(name, _points(WIDE, np.array(places)), kind, dots,
                level=None if clean is None else WIDE.y(clean))


def _place(number: int, levels: int) -> float:
    return 0.04 + 0.92 * number / levels


def _counted(bins: Sequence[tuple[float, float, list[tuple[int, str, str]]]]) -> Chart:
    """Bars of counts: (low, high, [(count, class, label)]), those of a bin side by side."""
    top = max(1, *(count for _, _, parts in bins for count, _, _ in parts))
    ticks = web.ticks(0, top, whole=True)
    bars = []
    for low, high, parts in bins:
        wide = (SQUARE.x(high) - SQUARE.x(low) - 1) / len(parts)
        for k, (count, kind, label) in enumerate(parts):
            # Few are not none: one among thousands still shows.
            y = min(SQUARE.y(count / ticks[-1]), SQUARE.y(0) - 1.5) if count else SQUARE.y(0)
            bars.append(Bar(round(SQUARE.x(low) + k * wide, 1), y, round(wide, 1),
                            round(SQUARE.y(0) - y, 1), label, kind))
    return Chart("", "", SQUARE, "", "photos", _shares(SQUARE.x),
                 [(SQUARE.y(tick / ticks[-1]), f"{tick:,.0f}") for tick in ticks],
                 bars=[bar for bar in bars if bar.height > 0])


def _bin_label(b: dict) -> str:
    return (f"confidence {b['low']:.2f} to {b['high']:.2f}, mean {b['confidence']:.3f}: accuracy "
            f"{b['accuracy']:.3f}, {b['num']:,} photos")


def _shares(scale) -> list[tuple[float, str]]:
    return [(scale(float(label)), label) for label in SHARES]


def _points(canvas: Canvas, points: np.ndarray) -> str:
    return " ".join(f"{canvas.x(x)},{canvas.y(y)}" for x, y in points.tolist()
                    if math.isfinite(x) and math.isfinite(y))
