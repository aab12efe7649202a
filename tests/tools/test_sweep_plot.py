"""The plot of a sweep: what goes along its axis, and where the dots are."""

import itertools

import pytest
import svg_shapes

from tools.sweep import plot
from tools.sweep.plot import Point


def drawn(points, best=None):
    return plot.draw(points, metric="a<b", best=best)


def texts(picture):
    return {text.text for text in svg_shapes.elements(picture, "text")}


def lines(picture):
    """The corners of each line through means, float[N, 2] px."""
    return [svg_shapes.corners(path) for path in svg_shapes.elements(picture, "path")
            if "stroke-width: 2" in path.get("style")]


def test_a_knob_that_follows_from_the_first_makes_no_series():
    points = [Point(f"r{r}", {"model.lora_rank": r, "model.lora_alpha": 2.0 * r}, 0.1)
              for r in (8, 2, 4)]
    title, labels, places = plot.layout(points)
    assert (title, labels) == ("model.lora_rank", ["2", "4", "8"])
    assert places == [("", 2), ("", 0), ("", 1)]


def test_repeats_are_dots_on_a_line_through_their_means():
    points = [Point(f"{b} {d} {s}", {"seed": s, "loss.bce": b, "loss.dice": d}, b + d + 0.1 * s)
              for b, d, s in itertools.product((0.5, 2.0), (0.25, 1.0), (0, 1))]
    picture = drawn(points, best="2.0 1.0 1")
    joined, places = lines(picture), svg_shapes.middles(picture)
    assert [len(line) for line in joined] == [2, 2] and len(places) == 8
    low, high = places["0.5 0.25 0: 0.75"], places["0.5 0.25 1: 0.85"]
    x, y = joined[0][0]
    assert low[0] == high[0] == pytest.approx(x, abs=0.11) and high[1] < y < low[1]
    assert y == pytest.approx((low[1] + high[1]) / 2, abs=0.11)
    assert {"dice=0.25", "dice=1", "loss.bce", "a<b"} <= texts(picture)


def test_runs_without_numbers_on_the_axis_stand_side_by_side():
    points = [Point("published", {"trainable": (".*",)}, 0.5),
              Point("without_lora", {"trainable": ("a",)}, None),
              Point("broken", {"trainable": ("b",)}, float("nan"))]
    picture = drawn(points, best="published")
    assert not lines(picture) and list(svg_shapes.middles(picture)) == ["published: 0.5"]
    assert {"published", "without_lora", "broken"} <= texts(picture)


@pytest.mark.parametrize("values", [[0.5], [0.0], [1e-6, 3e-6], [-2.0, 5.0], [123.4, 123.9],
                                    [0.7264, 0.7265]])
def test_ticks_enclose_the_values_and_differ(values):
    axis = plot.value_axis(values)
    labels = [label for _, label in axis.ticks]
    assert axis.low <= min(values) + 1e-9 and axis.high >= max(values) - 1e-9
    assert axis.high - axis.low >= 0.05 * max(map(abs, values))
    assert 3 <= len(labels) <= 7 and len(set(labels)) == len(labels)


def test_long_labels_are_turned_and_have_room():
    points = [Point(f"a_rather_long_name_of_run_{k}", {}, 0.5 + k / 100) for k in range(12)]
    picture = drawn(points)
    turned = [text for text in svg_shapes.elements(picture, "text")
              if text.get("transform", "").startswith("rotate(-35")]
    [root] = svg_shapes.elements(picture, "svg")
    assert len(turned) == 12 and float(root.get("height")) > plot.HEIGHT + 60
