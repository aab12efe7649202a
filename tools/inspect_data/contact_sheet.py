"""A record as the gallery shows it: its photo, masks, texts, and what is wrong with it."""

import math
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from input_pipeline.photos import images
from input_pipeline.photos.regions import RegionError, mask_to_rle, png_to_mask, union_of
from input_pipeline.records.record import LABELS, SCORES, UNKNOWN, Record, Region
from legion_jax.display import gallery, web
from legion_jax.display.numbers import percent
from tools.inspect_data.survey import describe

SQUARE = 96  # px of the pictures on the index
# Order of the records: name -> (words, whether the largest comes first).
SORTS = {"order": ("as chosen", False), "area": ("largest mask first", True),
         "regions": ("most regions first", True), "characters": ("longest caption first", True),
         "id": ("id", False)}
MARKS = {"problem": "something is wrong"}
# How bad a place of a heat map is, from not at all to very.
HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)])


def record_item(source: Sequence, index: int, number: int, problem: str = "") -> tuple[dict, str]:
    """Record `index` as item `number` of a page, and its picture, a JPEG in base64 or "".

    What is wrong with the record is in the item's `problems`, and not raised; `problem` is already
    known of it. The item has more than those of evaluations: problems, state (what is known of its
    masks, in words), facts ([name, value]), question and heat ({"words", "jpeg"} or None).
    """
    problems = []
    item, code = gallery.truth_item(number, f"record {index}", label=UNKNOWN, size=None,
                                    reference=[], regions=[], state="unusable", marked=False), ""
    try:
        record = source[index]
        item["id"] = record.id
        content, code = _content(record, problems)
        item |= content
    except Exception as error:  # whatever is wrong with a record, the sheet goes on
        problems.append(f"unusable record: {describe(error)}")
    if problem and not problems:
        problems.append(problem)
    item["keys"] |= {"order": number, "id": item["id"]}
    item["facts"] = [*item.get("facts", ()), ("record", f"{index:,}")]
    return item | {"record": index, "problems": problems,
                   "marks": ["problem"] if problems else []}, code


def _content(record: Record, problems: list[str]) -> tuple[dict, str]:
    """The values of a readable record's item, and its picture."""
    size = record.height, record.width
    photo, code = None, ""
    try:
        photo, actual = images.read_photo(record.image, name="image")
        code = gallery.jpeg(photo, actual)
        if actual != size:
            problems.append(f"the image is {actual[1]} × {actual[0]}, stored as "
                            f"{size[1]} × {size[0]}")
        size = actual
    except images.ImageError as error:
        problems.append(describe(error))
    masks = [_region_mask(region, number, size, problems)
             for number, region in enumerate(record.regions, 1)]
    union = _union_mask(record, size, problems)
    drawn = [mask for mask in [*masks, union] if mask is not None]
    area = float(union_of(drawn, size).mean()) if drawn else None
    return {
        "label": LABELS.get(record.label, f"label {record.label}"), "size": list(size),
        "category": record.category, "generator": record.generator,
        "question": record.question,
        "reference": gallery.pieces(record.caption, _spans(record, problems)),
        "truth": [{"phrase": region.phrase, "detail": region.explanation,
                   "kind": region.artifact_type,
                   "rle": None if mask is None else mask_to_rle(mask)}
                  for region, mask in zip(record.regions, masks, strict=True)],
        "union": None if union is None or not union.any() else mask_to_rle(union),
        "marked": record.has_masks, "facts": _facts(record),
        "state": _state(record, area, len(masks) + bool(record.union_mask) > len(drawn)),
        "keys": {"area": area, "regions": len(masks), "characters": len(record.caption)},
        "heat": _heat(record, photo, problems)}, code


def _region_mask(region: Region, number: int, size: tuple[int, int],
                 problems: list[str]) -> np.ndarray | None:
    """bool[H, W] of region `number`, None where it is unusable."""
    try:
        return region.pixels(size).astype(bool)
    except (RegionError, ValueError, images.ImageError) as error:
        problems.append(f"region {number}: {describe(error)}")
        return None


def _union_mask(record: Record, size: tuple[int, int], problems: list[str]) -> np.ndarray | None:
    """bool[H, W] of all artifacts together, None where there is none or it is unusable."""
    if not record.union_mask:
        return None
    try:
        union = png_to_mask(record.union_mask).astype(bool)
        if union.shape != size:
            raise RegionError(f"{union.shape[1]} × {union.shape[0]} pixels on a photo of "
                              f"{size[1]} × {size[0]}")
        return union
    except RegionError as error:
        problems.append(f"mask: {describe(error)}")
        return None


def _spans(record: Record, problems: list[str]) -> list[tuple[int, int] | None]:
    """Where the phrase of each region stands in the caption, None where it does not."""
    spans = []
    for number, region in enumerate(record.regions, 1):
        is_placed = region.start >= 0
        fits = is_placed and record.caption[region.start:region.end] == region.phrase
        if is_placed and not fits:
            problems.append(f"region {number}: its phrase is not at {region.start} of the caption")
        spans.append((region.start, region.end) if fits else None)
    return spans


def _facts(record: Record) -> list[tuple[str, str]]:
    """(name, value) of where a record comes from, and of its scores."""
    group = record.group_id
    if re.fullmatch("[0-9a-f]{64}", group):
        group = f"{group[:16]}…"  # of the hash of an image as much as tells it apart
    facts = [(name, value) for name, value in (
        ("data set", record.dataset), ("file", record.file_name), ("group", group)) if value]
    return facts + [(f"score, {name}", f"{record.scores[name]:.2f}") for name in SCORES
                    if math.isfinite(record.scores[name])]


def _state(record: Record, area: float | None, unusable: bool) -> str:
    """What is known of the masks, in words.

    area: the share of the photo that is marked. unusable: whether a mask could not be read.
    """
    if not record.has_masks:
        return "no masks known"
    if not area:
        return "masks unusable" if unusable else "checked, nothing marked"
    return f"{percent(area)} of the photo marked"


def _heat(record: Record, photo: Image.Image | None, problems: list[str]) -> dict | None:
    """The heat map of a record on its photo, None without one."""
    if photo is None or not record.heatmap:
        return None
    try:
        with images.opened(record.heatmap, "heat map") as image:
            heat = np.asarray(image.convert("L"))
    except images.ImageError as error:
        problems.append(describe(error))
        return None
    small = photo.copy()
    small.thumbnail((gallery.SIDE, gallery.SIDE))
    words = (f"up to {heat.max()} of 255, above 0 on {percent(float((heat > 0).mean()))}"
             if heat.any() else "all 0")
    return {"words": words, "jpeg": web.base64_picture(_heat_picture(small, heat), "JPEG",
                                                       quality=82)}


def _heat_picture(photo: Image.Image, heat: np.ndarray) -> Image.Image:
    """The photo, dim and grey, under the colours of its heat map uint8[H, W] of any size."""
    values = np.asarray(Image.fromarray(heat).resize(photo.size, Image.Resampling.BILINEAR))
    values = values.astype(np.float32)[..., None] / 255
    steps = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(values[..., 0], steps, channel) for channel in HEAT.T], -1)
    grey = np.asarray(photo.convert("L"), np.float32)[..., None] * 0.5
    cover = np.minimum(1, 1.2 * np.sqrt(values)) * 0.85
    return Image.fromarray(np.rint(grey + cover * (colours - grey)).astype(np.uint8))


def thumbnail(source: Sequence, index: int) -> str:
    """A small square picture of a record as a data URI; "" where there is none."""
    try:
        photo = images.read_photo(source[index].image)[0]
        side = min(photo.size)
        left, top = (photo.width - side) // 2, (photo.height - side) // 2
        small = photo.resize((SQUARE, SQUARE), Image.Resampling.LANCZOS,
                             box=(left, top, left + side, top + side))
        return web.data_uri(small, "JPEG", quality=82)
    except Exception:  # the record's item says what is wrong
        return ""
