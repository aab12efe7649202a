"""Charts as SVG: every value at its place, in the page's colours, the same bytes every time."""

import concurrent.futures
import dataclasses
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from svg_shapes import boxes, elements, middles

from legion_jax.display import charts
from legion_jax.display.charts import Axis, Bar, Chart, Dot, Line

EVIL = "</svg><script>alert('&')</script> $x_y$"
CHART = Chart(
    "name", "note", Axis("across", 0, 10, [(0, "none"), (10, "all")]), charts.share_axis("up"),
    bars=[Bar(0, 2, 0.5, "half"), Bar(2, 4, 0.00001, "few"), Bar(4, 6, 0, "nobody")],
    lines=[Line([(0, 0), (5, 1), (10, 0.25)], "orange")],
    dots=[Dot(10, 1, "corner", "ink"), Dot(0, 0, "origin", ring=True)],
    legend=[("blue", "bars")], size=(300, 200))
WIDE, TALL = 300 - charts.LEFT - charts.RIGHT, 200 - charts.TOP - charts.BOTTOM


def test_values_stand_at_their_places():
    drawn = boxes(charts.draw(CHART))
    assert list(drawn) == ["half", "few", "corner", "origin"]  # in order, and no bar of nobody
    floor = 200 - charts.BOTTOM
    left, top, right, bottom = drawn["half"]
    assert (left, top, bottom) == (charts.LEFT, floor - TALL / 2, floor)
    assert right == pytest.approx(charts.LEFT + WIDE / 5 - 1, abs=0.1)
    assert drawn["few"][3] - drawn["few"][1] == pytest.approx(charts.LEAST_BAR, abs=0.1)
    for name, place in (("corner", (300 - charts.RIGHT, charts.TOP)),
                        ("origin", (charts.LEFT, floor))):
        assert middles(charts.draw(CHART))[name] == pytest.approx(place, abs=0.1)
    line = next(path for path in elements(charts.draw(CHART), "path")
                if "--orange" in path.get("style"))
    assert line.get("d") == (f"M {charts.LEFT} {floor} L {charts.LEFT + WIDE / 2:g} {charts.TOP} "
                             f"L {300 - charts.RIGHT} {floor - TALL / 4:g}")


def test_a_chart_on_a_page_has_its_colours_its_font_and_no_ids():
    text = charts.draw(CHART)
    [root] = elements(text, "svg")
    assert root.attrib == {"viewBox": "0 0 300 200", "role": "img",
                           "aria-label": "name, note: up over across"}
    assert not re.search(r"#|font-family|url\(|https?:| id=|<style", text)
    assert set(re.findall(r"var\(--(\w+)\)", text)) == {
        "ink", "soft", "line", "card", "blue", "orange"}
    words = [element.text for element in root.iter("text")]
    assert {"none", "all", "0.25", "across", "up"} <= set(words) and "name" not in words


def test_a_chart_of_its_own_has_everything_inside():
    text = charts.draw(CHART, standalone=True)
    assert "var(" not in text and charts.TONES["blue"] in text
    words = [element.text for element in elements(text, "text")]
    [root] = elements(text, "svg")
    assert {"name", "bars", "across", "none"} <= set(words)
    assert (root.get("width"), root.get("height")) == ("300", "200")


def test_texts_are_escaped_and_no_formulas():
    chart = dataclasses.replace(CHART, name=EVIL, dots=[Dot(1, 1, EVIL)],
                                x=Axis(EVIL, 0, 10, [(0, EVIL)]), legend=[("blue", EVIL)])
    for standalone in (False, True):
        text = charts.draw(chart, standalone=standalone)
        assert "<script" not in text
        assert sum(element.text == EVIL for element in ElementTree.fromstring(text).iter()) >= 3


def test_the_same_bytes_in_every_thread_and_nothing_of_matplotlib_is_changed():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(charts.draw, [CHART] * 8))) == 1
    assert dict(matplotlib.rcParams) == before


def test_matplotlib_comes_with_the_first_chart_and_never_its_pyplot():
    code = """import sys
from legion_jax.display import charts, web
assert "matplotlib" not in sys.modules
axis = charts.share_axis("")
charts.draw(charts.Chart("a", "b", axis, axis))
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("low", "high", "whole", "wanted"),
    [(0, 1, False, [0, 0.5, 1]), (0, 7, True, [0, 2, 4, 6, 8]), (0, 1, True, [0, 1]),
     (0, 0, True, [0, 1])],
)
def test_ticks_are_round_and_reach_both_ends(low, high, whole, wanted):
    assert charts.ticks(low, high, whole=whole) == pytest.approx(wanted)


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (1e-6, 3e-6), (-2.0, 5.0), (123.4, 123.9),
                                           (0.7264, 0.7265), (0, 5e8)])
def test_value_axes_enclose_the_values_and_their_labels_differ(low, high):
    axis = charts.value_axis("", low, high)
    values, labels = zip(*axis.ticks, strict=True)
    assert axis.low == values[0] <= low and axis.high == values[-1] >= high
    assert 3 <= len(values) <= 7 and len(set(labels)) == len(labels)


def test_logarithmic_axes_have_few_ticks():
    assert [label for _, label in charts.log_axis("", 0.3, 4).ticks] == ["0.5", "1", "2"]
    assert [label for _, label in charts.log_axis("", 0.003, 5).ticks] == ["0.01", "0.1", "1"]
    assert len(charts.log_axis("", 1e-9, 1e9).ticks) <= 7
    chart = dataclasses.replace(CHART, y=charts.log_axis("", 0.01, 1), bars=(),
                                dots=[Dot(0, 0.1, "middle")])
    assert middles(charts.draw(chart))["middle"][1] == pytest.approx(charts.TOP + TALL / 2, abs=0.1)
