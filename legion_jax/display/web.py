"""What all HTML pages share: templates, numbers and pictures as text, ticks, whole files.

A page is one file that needs nothing beside it: styles and scripts inline, pictures as data.
"""

import base64
import contextlib
import io
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jinja2
import markupsafe
from etils import epath
from PIL import Image

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


def score(value: float | None) -> str:
    """0.813, or a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def share(value: float) -> str:
    """Percent of a number from 0 to 1: 97 %, but never 0 % or 100 % for less than certainty."""
    if 0 < value < 0.005:
        return "< 1 %"
    if 0.995 <= value < 1:
        return "> 99 %"
    return f"{100 * value:.0f} %"


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


class WholeFile:
    """A file being written, which counts its bytes."""

    def __init__(self, file: io.BufferedIOBase):
        """`file`: open for writing bytes."""
        self._file, self.num_bytes = file, 0

    def write(self, text: str) -> None:
        """Writes in UTF-8. A lone surrogate, which a file name may hold, becomes "?"."""
        content = text.encode("utf-8", "replace")
        self._file.write(content)
        self.num_bytes += len(content)


@contextlib.contextmanager
def whole_file(path: epath.PathLike) -> Iterator[WholeFile]:
    """Writes a file piece by piece: it is there once all is written, and never in part."""
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.writing"
    try:
        with temporary.open("wb") as file:
            yield WholeFile(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
