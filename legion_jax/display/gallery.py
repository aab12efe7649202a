"""The photos of a page: their items as JSON, their pictures, and the scripts that show them.

An item is what the browser knows of a photo: `truth_item` gives what is true of it; what models
answered, and what photos are sorted and filtered by, is added by those who make the page.
"""

from collections.abc import Iterable, Mapping, Sequence

from PIL import Image

from input_pipeline import files
from input_pipeline.errors import UserError
from input_pipeline.photos import images
from input_pipeline.records.record import LABELS
from legion_jax.display import overlay, web

SIDE = 640  # px of a picture's longer side, at most
SMALL = 128  # px; smaller photos are shown magnified, so their pixels are kept as they are


def config(sorts: Mapping[str, tuple[str, bool]], marks: Mapping[str, str], *,
           truth: str = "Truth", reference: str = "Reference") -> dict:
    """What the scripts of a page are told.

    Args:
        sorts: {key of an item's `keys`: (words, whether the largest comes first)}, as offered.
        marks: {one of an item's `marks`: words}, by which photos can be filtered.
        truth, reference: titles of the true masks and of the text that goes with them.
    """
    return {"palette": [_css(tone) for tone in overlay.PALETTE], "union": _css(overlay.UNION),
            "marks": marks, "truth": truth, "reference": reference,
            "sorts": [{"key": key, "words": words, "down": down}
                      for key, (words, down) in sorts.items()]}


def _css(tone: tuple[int, int, int]) -> str:
    return ",".join(map(str, tone))


def truth_item(number: int, name: str, *, label: int, size: Sequence[int] | None,
               reference: list[list], regions: Sequence[Mapping], **more) -> dict:
    """What is true of a photo, as JSON, with no answer, mark or key to sort by yet.

    Args:
        number: names the photo within the page, from 0.
        name: id of the photo.
        label: a key of `LABELS`.
        size: (height, width) in pixels of the photo and its masks, None where it is not known.
        reference: a text in `pieces`, coloured by the numbers of `regions`.
        regions: {"phrase", "rle"} and optionally "detail", "kind" of each artifact.
        more: other values: category, generator, union (the run lengths of a mask of all artifacts
            together, or None), marked (whether anybody looked for artifacts).
    """
    return {"n": number, "id": name, "label": LABELS[label], "category": "", "generator": "",
            "size": size, "reference": reference, "truth": list(regions), "union": None,
            "marked": True, "keys": {}, "marks": [], "answers": []} | more


def pieces(text: str, spans: Sequence[Sequence[int] | None]) -> list[list]:
    """A text in pieces [words, number of the span or None]; spans that overlap others are left out.

    spans: [start, end) in characters, None for one that is nowhere in the text.
    """
    parts, done = [], 0
    known = sorted((span[0], span[1], k) for k, span in enumerate(spans) if span is not None)
    for start, end, k in known:
        if done <= start < end <= len(text):
            parts += [[text[done:start], None], [text[start:end], k]]
            done = end
    return [part for part in [*parts, [text[done:], None]] if part[0]]


def picture(content: bytes, name: str, size: Sequence[int] | None = None) -> str:
    """A photo as a JPEG in base64, its longer side at most SIDE pixels.

    Args:
        content: the encoded file.
        name: id of the photo, for errors.
        size: (height, width) that masks of it have; None where nothing tells.

    Raises:
        ImageError: not readable as a photo.
        UserError: the photo has another size.
    """
    needed = None if size is None else tuple(sorted(_reduced(size)))
    photo, actual = images.read_photo(content, name=f"photo {name}", at_least=needed)
    if size is not None and tuple(size) != tuple(actual):
        raise UserError(f"photo {name}: {actual[1]}x{actual[0]} pixels, but rows.jsonl tells "
                        f"{size[1]}x{size[0]}; are these photos of another data set?")
    return jpeg(photo, actual)


def jpeg(photo: Image.Image, size: Sequence[int]) -> str:
    """A photo, whose whole is of `size` (height, width), as a JPEG in base64 of at most SIDE px."""
    sides = _reduced(size)
    small = photo if photo.size == sides else photo.resize(sides, Image.Resampling.LANCZOS)
    options = {"quality": 95, "subsampling": 0} if max(size) < SMALL else {"quality": 75}
    return web.base64_picture(small, "JPEG", optimize=True, **options)


def _reduced(size: Sequence[int]) -> tuple[int, int]:
    """(width, height) of the picture of a photo of `size` (height, width)."""
    scale = min(1.0, SIDE / max(size))
    return max(1, round(scale * size[1])), max(1, round(scale * size[0]))


def write_items(file: files.WholeFile, items: Iterable[dict]) -> None:
    """A script element `items` with an array, an item to a line, and the scripts of the page."""
    file.write('<script type="application/json" id="items">[')
    for number, item in enumerate(items):
        file.write(f"{',' if number else ''}\n{web.script_json(item)}")
    file.write("\n]</script>\n")
    file.write(web.environment().get_template("scripts.html").render() + "\n")


def write_pictures(file: files.WholeFile, pictures: Iterable[str]) -> None:
    """A script element `jpeg-N` for each JPEG in base64, in the order of the items; ends the page.

    One that is "" is missing, and the page says how many are.
    """
    missing = 0
    for number, code in enumerate(pictures):
        missing += not code
        file.write(f'<script type="text/plain" id="jpeg-{number}">{code}</script>\n')
    file.write(web.environment().get_template("end.html").render(
        missing=missing, megabytes=file.num_bytes / 1e6, side=SIDE))
