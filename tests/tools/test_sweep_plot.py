"""The plot of a sweep: what goes along its axis, and where the dots are."""

import itertools
import xml.etree.ElementTree as ElementTree

import pytest

from tools.sweep import plot
from tools.sweep.plot import Point

SVG = "{http://www.w3.org/2000/svg}"


def drawn(points, best=None):
    return ElementTree.fromstring(plot.draw(points, metric="a<b", best=best))


def dots(picture):
    """{tooltip: (x, y)}."""
    return {c[0].text: (float(c.get("cx")), float(c.get("cy")))
            for c in picture.iter(f"{SVG}circle") if len(c)}


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
    lines = [line.get("points").split() for line in picture.iter(f"{SVG}polyline")]
    assert [len(line) for line in lines] == [2, 2]
    found = dots(picture)
    assert len(found) == 8
    low, high = found["0.5 0.25 0: 0.75"], found["0.5 0.25 1: 0.85"]
    x, y = map(float, lines[0][0].split(","))
    assert low[0] == high[0] == x and high[1] < y < low[1]
    assert y == pytest.approx((low[1] + high[1]) / 2, abs=0.11)
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    assert {"dice=0.25", "dice=1", "loss.bce", "a<b"} <= set(texts)


def test_runs_without_numbers_on_the_axis_stand_side_by_side():
    points = [Point("published", {"trainable": (".*",)}, 0.5),
              Point("without_lora", {"trainable": ("a",)}, None),
              Point("broken", {"trainable": ("b",)}, float("nan"))]
    picture = drawn(points, best="published")
    assert not list(picture.iter(f"{SVG}polyline")) and list(dots(picture)) == ["published: 0.5"]
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    assert {"published", "without_lora", "broken"} <= set(texts)


@pytest.mark.parametrize("values", [[0.5], [0.0], [1e-6, 3e-6], [-2.0, 5.0], [123.4, 123.9],
                                    [0.7264, 0.7265]])
def test_ticks_enclose_the_values_and_differ(values):
    found = plot.ticks(values)
    places, labels = zip(*found, strict=True)
    assert places[0] <= min(values) + 1e-9 and places[-1] >= max(values) - 1e-9
    assert places[-1] - places[0] >= 0.05 * max(map(abs, values))
    assert 3 <= len(found) <= 7 and len(set(labels)) == len(labels)
