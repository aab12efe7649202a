"""What stands where on a chart, read from its SVG."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np


def elements(svg: str, name: str) -> list[ElementTree.Element]:
    """The elements of a name, in any namespace."""
    return [element for element in ElementTree.fromstring(svg).iter()
            if element.tag.rpartition("}")[2] == name]


def corners(path: ElementTree.Element) -> np.ndarray:
    """The points a path goes through, float[N, 2] px."""
    return np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)(?= [A-Za-z]|$)", path.get("d")), float)


def boxes(svg: str) -> dict[str, tuple[float, ...]]:
    """{label: (left, top, right, bottom) px} of every shape that carries one."""
    placed = {}
    for group in elements(svg, "g"):
        title, path = group
        points = corners(path)
        placed[title.text] = (*points.min(0).tolist(), *points.max(0).tolist())
    return placed


def middles(svg: str) -> dict[str, tuple[float, float]]:
    """{label: the middle (x, y) px of its shape}."""
    return {label: ((left + right) / 2, (top + bottom) / 2)
            for label, (left, top, right, bottom) in boxes(svg).items()}
