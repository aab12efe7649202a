"""Cards of a contact sheet: a record's photo, its masks as a layer on it, and its texts."""

import dataclasses
import io
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from input_pipeline.photos import images
from input_pipeline.photos.regions import RegionError, png_to_mask, union_of
from input_pipeline.records.record import LABELS, SCORES, Record
from legion_jax.display import overlay
from tools.inspect_data import thumbnails
from tools.inspect_data.bar_charts import percent
from tools.inspect_data.survey import describe

MAX_TEXT = 3000  # characters shown of one text
UNION_COLOUR = (70, 235, 150)  # of masks that tell no artifacts apart


@dataclasses.dataclass(frozen=True)
class Mark:
    """One mask of a card, or a region whose mask cannot be drawn (share None).

    number: as on the photo and in the caption, '' of the union. colour: of its layer, RGB. place:
    (left, top) of its number in percent of the photo, None without pixels. share: of the photo.
    """

    number: str
    colour: tuple[int, int, int]
    phrase: str
    explanation: str
    kind: str
    share: float | None
    place: tuple[float, float] | None

    @property
    def tone(self) -> str:
        """The colour for CSS: `213 94 0`."""
        return " ".join(map(str, self.colour))

    @property
    def listed(self) -> bool:
        """Whether there is anything to say of it; not of a union of nothing."""
        return bool(self.number or self.share)


@dataclasses.dataclass
class Card:
    """What the sheet shows of one record; with `problems` alone where nothing can be read.

    caption: (piece, index of its mark or None) in order. photo, layer, heat: data URIs or ''.
    layer: the marks, transparent elsewhere. ratio: width over height. pixelated: magnified.
    state: what is known of masks, in words.
    """

    index: int
    id: str = ""
    problems: list[str] = dataclasses.field(default_factory=list)
    label: str = ""
    photo: str = ""
    layer: str = ""
    heat: str = ""
    heat_text: str = ""
    ratio: float = 1.0
    pixelated: bool = False
    state: str = ""
    question: str = ""
    caption: list[tuple[str, int | None]] = dataclasses.field(default_factory=list)
    marks: list[Mark] = dataclasses.field(default_factory=list)
    dataset: str = ""
    facts: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    scores: list[tuple[str, float]] = dataclasses.field(default_factory=list)


def make_card(source: Sequence, index: int) -> Card:
    """The card of record `index`; what is wrong with it is on the card, not raised."""
    card = Card(index)
    try:
        record = source[index]
        card.id = record.id
        _fill(card, record)
    except Exception as error:  # whatever is wrong with a record, the sheet goes on
        card.problems.append(f"unusable record: {describe(error)}")
    return card


def _fill(card: Card, record: Record) -> None:
    card.label = LABELS.get(record.label, f"label {record.label}")
    card.dataset, card.question = record.dataset, _cut(record.question)
    stored = record.height, record.width
    card.facts = [(name, value) for name, value in (
        ("file", record.file_name), ("id", card.id), ("size", f"{stored[1]} × {stored[0]}"),
        ("category", record.category), ("generator", record.generator),
        ("group", _short(record.group_id))) if value]
    card.scores = [(name, record.scores[name]) for name in SCORES
                   if math.isfinite(record.scores[name])]
    try:
        photo = images.read_image(record.image, name="image")
        if photo.shape[:2] != stored:
            card.problems.append(f"the image is {photo.shape[1]} × {photo.shape[0]}, stored as "
                                 f"{stored[1]} × {stored[0]}")
        stored = photo.shape[:2]
        small = thumbnails.scaled(photo)
    except images.ImageError as error:
        card.problems.append(describe(error))
        small = None
    masks = _read_masks(card, record, stored)
    for number, mask in masks.items():
        card.marks.append(_mark(record, number, mask, [mark.place for mark in card.marks]))
    card.caption = _caption(card, record)
    card.state = _state(record, masks)
    if small is not None:
        _draw(card, small, photo, list(masks.values()))
        if record.heatmap:
            _add_heat(card, record.heatmap, small)


def _draw(card: Card, small: Image.Image, photo: np.ndarray, masks: list) -> None:
    card.photo = thumbnails.data_uri(small, "JPEG")
    card.ratio = round(small.width / small.height, 4)
    card.pixelated = max(photo.shape[:2]) < thumbnails.MIN_SIDE
    shown = [(thumbnails.reduced(mask, small.size), mark.colour)
             for mask, mark in zip(masks, card.marks, strict=True)
             if mask is not None and mask.any()]
    if shown:
        layers, colours = zip(*shown, strict=True)
        layer = thumbnails.marks_layer(layers, colours, small.size[::-1])
        card.layer = thumbnails.data_uri(layer, "WEBP")


def _read_masks(card: Card, record: Record, size: tuple[int, int]) -> dict:
    """{number of the region, None for the union: bool[H, W], or None where it is unusable}."""
    masks = {}
    for number, region in enumerate(record.regions):
        try:
            masks[number] = region.pixels(size).astype(bool)
        except (RegionError, ValueError, images.ImageError) as error:
            card.problems.append(f"region {number + 1}: {describe(error)}")
            masks[number] = None
    if record.union_mask:
        try:
            union = png_to_mask(record.union_mask).astype(bool)
            if union.shape != size:
                raise RegionError(f"{union.shape[1]} × {union.shape[0]} pixels on a photo of "
                                  f"{size[1]} × {size[0]}")
            masks[None] = union
        except RegionError as error:
            card.problems.append(f"mask: {describe(error)}")
    return masks


def _mark(record: Record, number: int | None, mask: np.ndarray | None, taken: list) -> Mark:
    share = None if mask is None else float(mask.mean())
    if number is None:
        return Mark("", UNION_COLOUR, "", "", "all artifacts together", share, None)
    place = _place(mask, [other for other in taken if other]) if share else None
    region = record.regions[number]
    phrase, explanation, kind = map(_cut, (
        region.phrase, region.explanation, region.artifact_type))
    return Mark(str(number + 1), overlay.colour(number), phrase, explanation, kind, share, place)


def _place(mask: np.ndarray, taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Above the middle of a mask's top row, in percent; within the photo, beside other numbers."""
    top = int(np.flatnonzero(mask.any(axis=1))[0])
    y = round(max(8.0, 100 * top / mask.shape[0]), 1)
    middle = 100 * (float(np.median(np.flatnonzero(mask[top]))) + 0.5) / mask.shape[1]
    spots = [x for shift in range(0, 100, 7) for x in (middle + shift, middle - shift)]
    free = [x for x in spots if 4 <= x <= 96
            and not any(abs(x - a) < 7 and abs(y - b) < 7 for a, b in taken)]
    return round(float(np.clip(free[0] if free else middle, 4, 96)), 1), y


def _caption(card: Card, record: Record) -> list[tuple[str, int | None]]:
    """The caption in pieces, each phrase with the index of its mark."""
    caption, spans = record.caption, []
    for k, region in enumerate(record.regions):
        start, end = region.start, region.end
        if start >= 0 and caption[start:end] != region.phrase:
            card.problems.append(f"region {k + 1}: its phrase is not at {start} of the caption")
        elif start >= 0:
            spans.append((start, end, k))
    pieces, done = [], 0
    for start, end, k in sorted(spans):
        if start >= done and end <= MAX_TEXT:
            pieces += [(caption[done:start], None), (caption[start:end], k)]
            done = end
    return [piece for piece in [*pieces, (_cut(caption, done), None)] if piece[0]]


def _state(record: Record, masks: Mapping) -> str:
    if not record.has_masks:
        return "no masks known"
    drawn = [mask for mask in masks.values() if mask is not None]
    if not any(mask.any() for mask in drawn):
        return "masks unusable" if len(drawn) < len(masks) else "checked, nothing marked"
    return f"{percent(float(union_of(drawn, drawn[0].shape).mean()))} of the photo marked"


def _add_heat(card: Card, content: bytes, small: Image.Image) -> None:
    try:
        with Image.open(io.BytesIO(content)) as image:
            heat = np.asarray(image.convert("L"))
    except Exception as error:  # broken files make PIL's decoders raise nearly anything
        card.problems.append(f"heat map: {describe(error)}")
        return
    card.heat = thumbnails.data_uri(thumbnails.heat_picture(small, heat), "JPEG")
    card.heat_text = (f"heat map: up to {heat.max()} of 255, above 0 on "
                      f"{percent(float((heat > 0).mean()))}" if heat.any() else "heat map: all 0")


def _short(group: str) -> str:
    """A group as it is, of the hash of an image as much as tells it apart."""
    return f"{group[:16]}…" if re.fullmatch("[0-9a-f]{64}", group) else group


def _cut(value: str, start: int = 0) -> str:
    shown = value[start:max(start, MAX_TEXT)]
    left = len(value) - start - len(shown)
    return f"{shown} … ({left:,} more characters)" if left else shown
