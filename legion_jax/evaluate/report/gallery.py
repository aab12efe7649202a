"""The photos of a page: their rows as JSON, their pictures, and the scripts that show them."""

import pathlib
from collections.abc import Iterable, Mapping

from input_pipeline import files
from legion_jax.display import web
from legion_jax.evaluate.report import items, photos

TEMPLATES = pathlib.Path(__file__).parent / "templates"


def config(sorts: Mapping[str, tuple[str, bool]], marks: Mapping[str, str]) -> dict:
    """What the scripts of a page are told, see `items.SORTS` and `items.MARKS`."""
    return {"palette": items.palette(), "marks": marks,
            "sorts": [{"key": key, "words": words, "down": down}
                      for key, (words, down) in sorts.items()]}


def write_items(file: files.WholeFile, values: Iterable[dict]) -> None:
    """A script element `items` with an array, a value to a line, and the scripts of the page."""
    file.write('<script type="application/json" id="items">[')
    for number, value in enumerate(values):
        file.write(f"{',' if number else ''}\n{web.script_json(value)}")
    file.write("\n]</script>\n")
    file.write(web.environment(TEMPLATES).get_template("scripts.html").render() + "\n")


def write_pictures(file: files.WholeFile, pictures: Iterable[str]) -> None:
    """A script element `jpeg-N` for each JPEG in base64, in the order of the items; ends the page.

    One that is "" is missing, and the page says how many are.
    """
    missing = 0
    for number, code in enumerate(pictures):
        missing += not code
        file.write(f'<script type="text/plain" id="jpeg-{number}">{code}</script>\n')
    file.write(web.environment(TEMPLATES).get_template("end.html").render(
        missing=missing, megabytes=file.num_bytes / 1e6, side=photos.SIDE))
