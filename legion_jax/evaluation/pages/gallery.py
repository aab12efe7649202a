"""The photos of a page: their rows as JSON, their pictures, and the scripts that show them."""

import logging
import pathlib
from collections.abc import Iterable, Mapping

from input_pipeline import images
from legion_jax import web
from legion_jax.evaluation.pages import items, photos

LOG = logging.getLogger("legion_jax")
TEMPLATES = pathlib.Path(__file__).parents[1] / "templates"


def config(sorts: Mapping[str, tuple[str, bool]], marks: Mapping[str, str]) -> dict:
    """What the scripts of a page are told, see `items.SORTS` and `items.MARKS`."""
    return {"palette": items.palette(), "marks": marks,
            "sorts": [{"key": key, "words": words, "down": down}
                      for key, (words, down) in sorts.items()]}


def write_items(file: web.WholeFile, values: Iterable[dict]) -> None:
    """A script element `items` with an array, a value to a line, and the scripts of the page."""
    file.write('<script type="application/json" id="items">[')
    for number, value in enumerate(values):
        file.write(f"{',' if number else ''}\n{web.script_json(value)}")
    file.write("\n]</script>\n")
    file.write(web.environment(TEMPLATES).get_template("scripts.html").render())


def write_pictures(file: web.WholeFile,
                   found: Iterable[tuple[str, bytes | None, tuple[int, int] | None]]) -> None:
    """A script element `jpeg-N` for each photo, empty where none can be shown; ends the page.

    found: (id, encoded photo or None, (height, width) it must have or None), in the order of the
    items. Raises UserError for a photo of another size.
    """
    missing = 0
    for number, (name, content, size) in enumerate(found):
        code = ""
        if content is not None:
            try:
                code = photos.picture(content, name, size)
            except images.ImageError as error:
                LOG.warning("%s", error)
        missing += not code
        file.write(f'<script type="text/plain" id="jpeg-{number}">{code}</script>\n')
    file.write(web.environment(TEMPLATES).get_template("end.html").render(
        missing=missing, megabytes=file.num_bytes / 1e6, side=photos.SIDE))
