"""What all HTML pages share: templates with their filters, and values as text inside a page.

A page is one file that needs nothing beside it: styles and scripts inline, pictures as data.
"""

import base64
import hashlib
import io
import json
import pathlib
from typing import Any

import jinja2
import markupsafe
from PIL import Image

from legion_jax.display import charts, numbers

# Scripts that run in pages, {block: its files}.
SCRIPTS = {"theme": ["theme.js"], "gallery": ["masks.js", "cards.js", "photo.js", "gallery.js"]}
POLICY = ("default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; base-uri 'none'; "
          "form-action 'none'")
TEMPLATES = pathlib.Path(__file__).parent / "templates"


def environment(*folders: pathlib.Path) -> jinja2.Environment:
    """Templates of `folders`, and those all pages share; every text put into one is escaped.

    `script` puts the scripts of a block into a page; `policy` is the content security policy that
    lets these blocks run and nothing else: no other script, no request.

    Filters: score, share, percent, count (numbers as text), svg (a chart), json (a value inside a
    script), raw (a file of the folders as it is, for scripts and styles).
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, TEMPLATES]), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    templates.filters |= {
        "score": numbers.score, "share": numbers.share, "percent": numbers.percent,
        "count": lambda number: f"{number:,}", "svg": charts.draw,
        "raw": lambda name: markupsafe.Markup(templates.loader.get_source(templates, name)[0]),
        "json": lambda value: markupsafe.Markup(script_json(value))}
    blocks = {block: "\n" + "\n".join(templates.loader.get_source(templates, name)[0]
                                      for name in names) + "\n"
              for block, names in SCRIPTS.items()}
    templates.globals |= {
        "script": lambda block: markupsafe.Markup(f"<script>{blocks[block]}</script>"),
        "policy": markupsafe.Markup(POLICY + "; script-src " + " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in blocks.values()))}
    return templates


def script_json(value: Any) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element.

    Raises ValueError for NaN and infinities, which JSON has not.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def base64_picture(picture: Image.Image, form: str, **options) -> str:
    """A picture encoded by PIL as `form` ("JPEG", "PNG") with its `options`, in base64."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def data_uri(picture: Image.Image, form: str, **options) -> markupsafe.Markup:
    """A picture encoded as by `base64_picture`, as a data URI for the `src` of an image."""
    return markupsafe.Markup(
        f"data:image/{form.lower()};base64,{base64_picture(picture, form, **options)}")
