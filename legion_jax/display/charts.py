"""Charts as SVG, drawn by matplotlib: bars, lines and dots on two axes.

A chart is a value: what it shows, in the units of its axes. `draw` makes it a picture. Texts stay
texts, and the colours are the names of custom properties of the page's style sheet, so that a chart
follows the page into the dark.
"""

import dataclasses
import io
import math
import re
import threading
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import markupsafe

from legion_jax.display import numbers

# Names of colours of a page (templates/colours.css) and the light ones, in which matplotlib draws.
TONES = {"ink": "#1d2126", "soft": "#59616b", "line": "#dfdcd5", "card": "#ffffff",
         "accent": "#0b62a3", "blue": "#0072b2", "orange": "#c4560a", "green": "#00835f",
         "purple": "#a8467f", "amber": "#8f6400", "sky": "#2a7fb0"}
# Told apart by readers of every colour vision (after Okabe and Ito 2008).
SERIES = ("blue", "orange", "green", "purple", "amber", "sky", "ink")
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 24, 38  # px kept free around the axes, for ticks and titles
TITLED = 52  # px kept free above the axes where title and legend stand there
TEXT_SIZE = 10.5  # px
TURN = 35  # degrees by which long labels are turned
LEAST_BAR = 1.5  # px; few are not none, so one among thousands still shows
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "chart", "text.parse_math": False,
         "path.simplify": False, "font.size": TEXT_SIZE}
_LOCK = threading.Lock()  # matplotlib has one set of settings for all threads


@dataclasses.dataclass(frozen=True)
class Axis:
    """One side of a chart: values from `low` to `high`, with ticks (value, label).

    log: equal factors are equally far apart. turned: the labels are too long to stand side by side.
    """

    title: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False
    turned: bool = False


@dataclasses.dataclass(frozen=True)
class Bar:
    """A bar from 0 up to `value`; `label` is shown by the pointer on it."""

    left: float
    right: float
    value: float
    label: str
    tone: str = "blue"
    opacity: float = 0.6


@dataclasses.dataclass(frozen=True)
class Line:
    """A line through `points` (x, y); `dash`: lengths in px of strokes and gaps, () for none."""

    points: Sequence[tuple[float, float]]
    tone: str = "blue"
    width: float = 2.2
    opacity: float = 1.0
    dash: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Dot:
    """A dot of `radius` px; `label` is shown by the pointer on it. ring: one more circle around."""

    x: float
    y: float
    label: str
    tone: str = "blue"
    radius: float = 4
    opacity: float = 1.0
    ring: bool = False


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart of `size` (width, height) px.

    name, note: its title and what to know of it. legend: (tone, words). left, bottom: px kept free
    beside and below the axes.
    """

    name: str
    note: str
    x: Axis
    y: Axis
    bars: Sequence[Bar] = ()
    lines: Sequence[Line] = ()
    dots: Sequence[Dot] = ()
    legend: Sequence[tuple[str, str]] = ()
    size: tuple[int, int] = (340, 210)
    left: int = LEFT
    bottom: int = BOTTOM


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers 1, 2 or 5 times a power of ten apart, from at most `low` to at least `high`."""
    from matplotlib.ticker import MaxNLocator

    high = high if high > low else low + (abs(low) or 1.0)
    return MaxNLocator(4, steps=[1, 2, 5, 10], integer=whole).tick_values(low, high).tolist()


def value_axis(title: str, low: float, high: float, *, whole: bool = False) -> Axis:
    """An axis between the round numbers around `low` and `high`. `whole`: of whole numbers."""
    values = ticks(low, high, whole=whole)
    digits = max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9))
    largest = max(map(abs, values))
    plain = 1e-3 <= largest < 1e7
    return Axis(title, values[0], values[-1], [
        (value, f"{value:,.{digits}f}" if plain else numbers.compact(value)) for value in values])


def count_axis(title: str, bars: Sequence[Bar]) -> Axis:
    """An axis of whole numbers from 0 to at least the highest bar."""
    return value_axis(title, 0, max([1, *(bar.value for bar in bars)]), whole=True)


def log_axis(title: str, low: float, high: float) -> Axis:
    """A logarithmic axis from `low` to `high`, both above 0, with about two to seven ticks."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [n * 10.0 ** power for power in powers for n in (1, 2, 5)]
    values = [value for value in values if low <= value <= high]
    if len(values) > 6:
        values = [10.0 ** power for power in powers if low <= 10.0 ** power <= high]
        values = values[::math.ceil(len(values) / 7)]
    return Axis(title, low, high, [(value, numbers.compact(value)) for value in values], log=True)


def share_axis(title: str) -> Axis:
    """An axis from 0 to 1."""
    return Axis(title, 0, 1, [(float(label), label) for label in ("0", "0.25", "0.5", "0.75", "1")])


def draw(chart: Chart, *, standalone: bool = False) -> markupsafe.Markup:
    """The chart as SVG without ids; the same bytes for the same chart.

    Args:
        standalone: a file of its own, in fixed colours on white, with its title and legend inside;
            otherwise an element of a page, in the page's colours, both of which are the page's.
    """
    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    content = io.StringIO()
    with _LOCK, style.context(["default", STYLE]):
        figure, labels = _figure(chart, TITLED if standalone else TOP)
        if standalone:
            _add_title(figure, chart)
        FigureCanvasSVG(figure).print_svg(content, metadata=dict.fromkeys(
            ("Date", "Creator", "Format", "Type")))
    drawn = ElementTree.fromstring(content.getvalue())
    root = ElementTree.Element("svg", viewBox=drawn.get("viewBox"), role="img")
    root.set("aria-label", _description(chart))
    if standalone:
        root.attrib |= {"xmlns": "http://www.w3.org/2000/svg", "width": str(chart.size[0]),
                        "height": str(chart.size[1]), "font-family": "system-ui, sans-serif"}
    for child in drawn:
        root.extend(_cleaned(child, labels, themed=not standalone))
    return markupsafe.Markup(ElementTree.tostring(root, encoding="unicode"))


def _description(chart: Chart) -> str:
    axes = " over ".join(filter(None, (chart.y.title, chart.x.title)))
    return ": ".join(filter(None, (", ".join(filter(None, (chart.name, chart.note))), axes)))


def _figure(chart: Chart, top: int):
    """The matplotlib figure of a chart, and {name of a shape: what the pointer shows on it}."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle, Rectangle
    from matplotlib.transforms import IdentityTransform

    width, height = chart.size
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)  # a point is a pixel
    figure.patch.set_visible(False)
    wide, tall = width - chart.left - RIGHT, height - top - chart.bottom
    axes = figure.add_axes((chart.left / width, chart.bottom / height, wide / width,
                            tall / height))
    _set_axes(axes, chart, tall)
    labels: dict[str, str] = {}

    def add(artist, label: str = "", owner=axes) -> None:
        artist.set_clip_on(False)
        if label:
            artist.set_gid(f"label{len(labels)}")
            labels[artist.get_gid()] = label
        owner.add_artist(artist)

    for bar in chart.bars:
        if bar.value:
            least = LEAST_BAR / tall * (chart.y.high - chart.y.low)
            gap = min((chart.x.high - chart.x.low) / wide, (bar.right - bar.left) / 4)  # 1 px
            add(Rectangle((bar.left, 0), bar.right - bar.left - gap, max(bar.value, least),
                          facecolor=TONES[bar.tone], alpha=bar.opacity, linewidth=0), bar.label)
    for line in chart.lines:
        add(Line2D(*zip(*line.points, strict=True), color=TONES[line.tone], linewidth=line.width,
                   alpha=line.opacity, linestyle=(0, line.dash) if line.dash else "-",
                   solid_joinstyle="round"))
    for dot in chart.dots:
        middle = axes.transData.transform((dot.x, dot.y))
        shape = {"transform": IdentityTransform(), "alpha": dot.opacity}
        if dot.ring:
            add(Circle(middle, 2 * dot.radius, facecolor="none", edgecolor=TONES[dot.tone],
                       linewidth=1.5, **shape), owner=figure)
        add(Circle(middle, dot.radius, facecolor=TONES[dot.tone], edgecolor=TONES["card"],
                   linewidth=1, **shape), dot.label, owner=figure)
    return figure, labels


def _set_axes(axes, chart: Chart, tall: int) -> None:
    """Limits, grid, ticks and titles of both axes."""
    axes.patch.set_visible(False)
    axes.set_xlim(chart.x.low, chart.x.high)
    axes.set_yscale("log" if chart.y.log else "linear")
    axes.set_ylim(chart.y.low, chart.y.high)
    axes.minorticks_off()
    axes.set_axisbelow(True)
    turned = {"rotation": TURN, "ha": "right", "rotation_mode": "anchor"} if chart.x.turned else {}
    axes.set_xticks(*zip(*chart.x.ticks, strict=True), **turned)
    axes.set_yticks(*zip(*chart.y.ticks, strict=True))
    axes.tick_params(length=0, labelcolor=TONES["soft"], pad=7)
    axes.grid(axis="y", color=TONES["line"], linewidth=1, clip_on=False)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set(color=TONES["soft"], linewidth=1)
    for value, _ in chart.x.ticks:
        axes.plot([value, value], [0, -4 / tall], transform=axes.get_xaxis_transform(),
                  color=TONES["soft"], linewidth=1, clip_on=False)
    width, height = chart.size
    axes.figure.text((width + chart.left - RIGHT) / 2 / width, 5 / height, chart.x.title,
                     ha="center", color=TONES["soft"])
    axes.figure.text(4 / width, 1 - 12 / height, chart.y.title, color=TONES["soft"])


def _add_title(figure, chart: Chart) -> None:
    """The ground, the name of the chart and its legend, which a page would have around it."""
    from matplotlib.patches import Circle
    from matplotlib.transforms import IdentityTransform

    width, height = chart.size
    figure.patch.set(visible=True, facecolor=TONES["card"])
    figure.text(12 / width, 1 - 18 / height, chart.name, color=TONES["ink"], weight="bold", size=12)
    for number, (tone, words) in enumerate(chart.legend):
        left = LEFT + number * (width - LEFT - RIGHT) / len(chart.legend)
        figure.add_artist(Circle((left, height - 34), 4.5, color=TONES[tone],
                                 transform=IdentityTransform()))
        figure.text((left + 10) / width, 1 - 38 / height, words, color=TONES["ink"])


def _cleaned(element: ElementTree.Element, labels: Mapping[str, str], *,
             themed: bool) -> list[ElementTree.Element]:
    """A part of matplotlib's SVG without what a page has already or must not have twice: groups
    that only carry ids, fonts and definitions. Labels become titles.
    """
    name = element.tag.rpartition("}")[2]
    if name in ("defs", "metadata"):
        return []
    children = [part for child in element for part in _cleaned(child, labels, themed=themed)]
    if name == "g" and element.get("id") not in labels:
        return children
    clean = ElementTree.Element(name)
    if name == "g":
        clean.set("class", "mark")
        ElementTree.SubElement(clean, "title").text = labels[element.get("id")]
    elif name == "text":
        clean.text = element.text
    clean.extend(children)
    for key in ("d", "x", "y", "transform"):
        if value := element.get(key):
            value = re.sub(r"-?\d+\.\d+", _shorter, value).strip()
            if not value.startswith("rotate(-0 "):
                clean.set(key, " ".join(value.split()))
    if css := element.get("style"):
        clean.set("style", _style(css, themed=themed))
    return [clean]


def _style(css: str, *, themed: bool) -> str:
    """The style of a shape or text in the page's font and, if `themed`, in its colours."""
    css = re.sub(r"font: ((\d+) )?([\d.]+px)[^;]*", r"font-size: \3", css)  # of older releases
    css = re.sub(r"font-family: [^;]*;? ?", "", css)
    if not themed:
        return css
    names = {colour: f"var(--{tone})" for tone, colour in TONES.items()}
    return re.sub("#[0-9a-f]{6}", lambda match: names.get(match[0], match[0]), css)


def _shorter(match: re.Match) -> str:
    return f"{float(match[0]):.1f}".removesuffix(".0")
