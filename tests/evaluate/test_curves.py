"""The charts of a report, from metrics.json and the probabilities of its rows."""

import numpy as np
from etils import epath

from legion_jax.evaluate.report import curves
from legion_jax.evaluate.report.folder import Evaluation


def _run(**metrics) -> Evaluation:
    return Evaluation(epath.Path("runs/x"), metrics)


def test_levels_go_from_mild_to_hard_and_begin_with_the_clean_value():
    def at(name, level, f1):
        return {"name": name, "level": level, "localisation": {"mean": {"f1": f1}}}

    run = _run(localisation={"mean": {"f1": 1.0}}, robustness=[
        at("jpeg", 35, 0.25), at("jpeg", 90, 0.5), at("noise", 0.2, 0.0), at("noise", 0.02, 0.5)])
    jpeg, noise = curves.robustness(run)
    assert jpeg.x.ticks == [(0, "clean"), (1, "90"), (2, "35")]
    assert [label for _, label in noise.x.ticks] == ["clean", "0.02", "0.2"]
    level, line = jpeg.lines
    assert line.points == [(0, 1.0), (1, 0.5), (2, 0.25)] == [(d.x, d.y) for d in jpeg.dots]
    assert level.points == [(jpeg.x.low, 1.0), (jpeg.x.high, 1.0)] and level.dash
    assert jpeg.dots[1].label == "F1 at 90: 0.500" and jpeg.legend == [(line.tone, "F1")]
    assert curves.robustness(_run(robustness=[{"name": "jpeg", "level": 1}])) == []


def test_reliability_shows_the_bins_that_hold_photos():
    bins = [{"low": 0.5, "high": 0.75, "num": 3, "confidence": 0.6, "accuracy": 1.0},
            {"low": 0.75, "high": 1.0, "num": 0, "confidence": None, "accuracy": None}]
    diagram, counts = curves.reliability(_run(detection={"ece": 0.4, "reliability": bins}))
    assert diagram.note == "ECE 0.400" and counts.note == "3 photos"
    [bar], [dot], [count] = diagram.bars, diagram.dots, counts.bars
    assert (bar.left, bar.right, bar.value) == (0.5, 0.75, 1.0) and (dot.x, dot.y) == (0.6, 1.0)
    assert (count.left, count.right, count.value) == (0.5, 0.75, 3)
    assert counts.y.low == 0 and counts.y.high >= 3
    assert curves.reliability(_run()) == []


def test_roc_goes_from_corner_to_corner():
    fake = np.array([0.0, 0.2, 0.8, 1.0, 0.5])
    truth = np.array([False, False, True, True, True])
    _, line = curves.roc(fake, truth, 1.0).lines
    assert line.points[0] == [0, 0] and line.points[-1] == [1, 1]
    assert [0, 1] in line.points  # no real photo above any fake one
    assert curves.roc(fake, truth | True, None) is None


def test_large_curves_are_thinned_but_keep_their_ends():
    rng = np.random.default_rng(0)
    truth = rng.random(5000) < 0.5
    _, line = curves.roc(rng.random(5000), truth, 0.5).lines
    assert curves.MAX_POINTS / 2 < len(line.points) <= curves.MAX_POINTS
    assert line.points[0] == [0, 0] and line.points[-1] == [1, 1]


def test_the_histogram_counts_real_and_fake_side_by_side():
    fake = np.array([0.0, 0.2, 0.8, 1.0, 0.5])
    truth = np.array([False, False, True, True, True])
    chart = curves.histogram(fake, truth)
    assert chart.note == "2 real, 3 fake photos"
    filled = [bar for bar in chart.bars if bar.value]
    assert [(round(bar.left, 3), bar.value) for bar in filled] == [
        (0.0, 1), (0.2, 1), (0.525, 1), (0.825, 1), (0.975, 1)]
    assert filled[-1].label == "fake probability 0.95 to 1.00: 1 fake"
    assert len({bar.tone for bar in filled}) == len(chart.legend) == 2
    assert curves.histogram(fake[:0], truth[:0]) is None
