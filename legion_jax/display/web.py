"""What all HTML pages share: templates, numbers and pictures as text, ticks, whole files.

A page is one file that needs nothing beside it: styles and scripts inline, pictures as data.
"""

import base64
import io
import json
import math
import pathlib
from typing import Any

import jinja2
import markupsafe
from PIL import Image

from legion_jax.display.numbers import score, share

_SHARED = pathlib.Path(__file__).parent / "templates"


def environment(folder: pathlib.Path) -> jinja2.Environment:
    """Templates of `folder`, and those all pages share; every text put into one is escaped.

    Filters: score, share, count, raw (a file of the folder as it is, for scripts).
    """
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, _SHARED]), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {
        "score": score, "share": share, "count": lambda number: f"{number:,}",
        "raw": lambda name: markupsafe.Markup((folder / name).read_text(encoding="utf-8")),
        "json": lambda value: markupsafe.Markup(script_json(value))}
    return made


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers 1, 2 or 5 times a power of ten apart, from at most `low` to at least `high`."""
    rough = (high - low) / 4 or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    distance = next(n * power for n in (1, 2, 5, 10) if n * power >= rough * 0.999)
    if whole:
        distance = max(1.0, distance)
    first, last = math.floor(low / distance + 1e-9), math.ceil(high / distance - 1e-9)
    return [index * distance for index in range(first, max(last, first + 1) + 1)]


def script_json(value: Any) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element.

    Raises ValueError for NaN and infinities, which JSON has not.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def base64_picture(picture: Image.Image, form: str, **options) -> str:
    """A picture encoded by PIL as `form` ("JPEG", "WEBP") with its `options`, in base64."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def data_uri(picture: Image.Image, form: str, **options) -> markupsafe.Markup:
    """The same as a data URI."""
    return markupsafe.Markup(
        f"data:image/{form.lower()};base64,{base64_picture(picture, form, **options)}")


