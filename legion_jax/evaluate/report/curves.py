"""The charts of a report: robustness, reliability, ROC and the histogram of fake probabilities."""

from collections.abc import Sequence

import numpy as np

from legion_jax.display import charts, numbers
from legion_jax.display.charts import Axis, Bar, Chart, Dot, Line
from legion_jax.evaluate.report.folder import Evaluation, value_at

MAX_POINTS = 200  # of a curve
BINS = 20  # of the histogram of fake probabilities
MILDER_FIRST = {"jpeg", "web", "resize"}  # perturbations whose larger levels do less
SQUARE = 320, 320
MEASURES = {"mIoU": ("localisation", "mean", "miou"), "F1": ("localisation", "mean", "f1"),
            "accuracy": ("detection", "accuracy")}
LOOKS = (("blue", ()), ("orange", (7, 3)), ("green", (2, 3)))  # tone and dash of each measure
DIAGONAL = Line([(0, 0), (1, 1)], "soft", width=1, opacity=0.7, dash=(3, 4))


def robustness(run: Evaluation) -> list[Chart]:
    """mIoU, F1 and accuracy against the level, one chart for each perturbation."""
    levels_of: dict[str, list[dict]] = {}
    for row in run.metrics.get("robustness") or []:
        levels_of.setdefault(row["name"], []).append(row)
    drawn = (_levels(run, name, sorted(rows, key=lambda row: row["level"],
                                       reverse=name in MILDER_FIRST))
             for name, rows in levels_of.items())
    return [chart for chart in drawn if chart.lines]


def _levels(run: Evaluation, name: str, rows: Sequence[dict]) -> Chart:
    """The measures over the levels of one perturbation, the undamaged photos first."""
    labels = ["clean", *(f"{row['level']:g}" for row in rows)]
    axis = Axis("level", -0.05 * len(rows), 1.04 * len(rows), list(enumerate(labels)))
    lines, dots, legend = [], [], []
    for (measure, path), (tone, dash) in zip(MEASURES.items(), LOOKS, strict=True):
        clean, values = run.number(*path), [value_at(row, path) for row in rows]
        if all(value is None for value in values):
            continue
        points = [(k, value) for k, value in enumerate([clean, *values]) if value is not None]
        if clean is not None:
            lines.append(Line([(axis.low, clean), (axis.high, clean)], tone, width=1, opacity=0.65,
                              dash=(4, 4)))
        lines.append(Line(points, tone, dash=dash))
        dots += [Dot(k, value, f"{measure} at {labels[k]}: {value:.3f}", tone)
                 for k, value in points]
        legend.append((tone, measure))
    return Chart(name, "harder to the right", axis, charts.share_axis(""), lines=lines, dots=dots,
                 legend=legend, size=(320, 230))


def reliability(run: Evaluation) -> list[Chart]:
    """Accuracy against confidence, and how many photos each bin holds; [] without bins."""
    bins = [b for b in run.block("detection").get("reliability") or [] if b["num"]]
    if not bins:
        return []
    labels = [f"confidence {b['low']:.2f} to {b['high']:.2f}, mean {b['confidence']:.3f}: accuracy "
              f"{b['accuracy']:.3f}, {b['num']:,} photos" for b in bins]
    named = list(zip(bins, labels, strict=True))
    confidence = charts.share_axis("confidence")
    diagram = Chart(
        "Reliability", f"ECE {numbers.score(run.number('detection', 'ece'))}", confidence,
        charts.share_axis("accuracy"), lines=[DIAGONAL], size=SQUARE,
        bars=[Bar(b["low"], b["high"], b["accuracy"], label) for b, label in named],
        dots=[Dot(b["confidence"], b["accuracy"], label, "ink") for b, label in named])
    bars = [Bar(b["low"], b["high"], b["num"], label) for b, label in named]
    counts = Chart("Photos per bin", f"{sum(b['num'] for b in bins):,} photos", confidence,
                   charts.count_axis("photos", bars), bars=bars, size=SQUARE)
    return [diagram, counts]


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
    chosen = np.unique(np.linspace(0, len(points) - 1, MAX_POINTS).round().astype(int))
    return Chart("ROC", f"AUC {numbers.score(auc)}", charts.share_axis("real photos called fake"),
                 charts.share_axis("fake photos called fake"),
                 lines=[DIAGONAL, Line(points[chosen].tolist())], size=SQUARE)


def histogram(probability: np.ndarray, is_fake: np.ndarray) -> Chart | None:
    """Fake probabilities of real and of fake photos, side by side; None without a photo.

    Args:
        probability: float[N], of fake. is_fake: bool[N].
    """
    if not len(probability):
        return None
    bins = np.clip((probability * BINS).astype(int), 0, BINS - 1)
    bars = []
    for half, (kind, tone, chosen) in enumerate((("real", "green", ~is_fake),
                                                 ("fake", "orange", is_fake))):
        for k, count in enumerate(np.bincount(bins[chosen], minlength=BINS).tolist()):
            words = f"fake probability {k / BINS:.2f} to {(k + 1) / BINS:.2f}: {count:,} {kind}"
            left = (k + half / 2) / BINS
            bars.append(Bar(left, left + 0.5 / BINS, count, words, tone, opacity=0.85))
    return Chart("Fake probability", f"{(~is_fake).sum():,} real, {is_fake.sum():,} fake photos",
                 charts.share_axis("fake probability"), charts.count_axis("photos", bars),
                 bars=bars, legend=[("green", "real photos"), ("orange", "fake photos")],
                 size=SQUARE)
