"""Images of one's own, described in `manifest.jsonl`: a JSON object per line.

Its fields are those of the record (`records.record`) by name; only `image` is required.

| field | value | without it |
|---|---|---|
| image, union_mask, heatmap | path in the source | no mask, no heatmap |
| id | text, unique in its split | number of the line |
| split | letters, digits, underscores | train |
| label | -1, 0, 1, 2 or unknown, real, synthetic, tampered | unknown |
| group_id | text: source photo, video, ... | hash of the image |
| dataset, file_name, category, generator, caption, question | text | jsonl, image, '' |
| height, width | size as a viewer shows it; checked | not checked |
| has_masks | true or false | true if there are regions (even []) or a union_mask |
| regions | list of {phrase, start, end, explanation, artifact_type, box, polygons, mask} | none |
| scores | {aesthetic, artifact, misalignment, overall: 0 to 1} | none |

A region is outlined by `polygons` [[x1, y1, x2, y2, ...], ...], else by `mask`, the path of an
image that is not zero there, else by its `box` [x1, y1, x2, y2]. A phrase without `start` and `end`
is looked for in the caption and kept without a place where that has it not.

What is wrong with a line (no JSON, unknown field, wrong type) stops everything and is named with
line and field; what is wrong with a file costs its record or region.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from input_pipeline import strict_json
from input_pipeline.datasets.checks import fit_mask, note_size, read_mask, shown_size
from input_pipeline.photos.regions import RegionError, mask_to_png
from input_pipeline.records.dataset import DataSet, Item, Notes, image_hash
from input_pipeline.records.record import (
    LABELS,
    NO_BOX,
    SCORES,
    UNKNOWN,
    DataError,
    Record,
    RecordError,
    Region,
)
from input_pipeline.text.conversation import locate_phrases

MANIFEST = "manifest.jsonl"
NUMBERS = {name: number for number, name in LABELS.items()}


class Jsonl(DataSet):
    name = "jsonl"
    configs = {"records": "Images described in a manifest.jsonl."}

    def splits(self):
        if not self.tree.has(MANIFEST):
            raise DataError(f"{self.source}: found no {MANIFEST}")
        splits = {}
        lines = self.read_annotations(MANIFEST).removeprefix(b"\xef\xbb\xbf").split(b"\n")
        for number, line in enumerate(lines, 1):
            if line.strip():
                fields = _parse(line, f"{self.source}/{MANIFEST} line {number}")
                items = splits.setdefault(fields.get("split", "train"), [])
                items.append(Item(fields.get("id", str(number)), fields["image"], fields))
        if not splits:
            raise DataError(f"{self.source}/{MANIFEST}: holds no records")
        return splits

    def read(self, item: Item, notes: Notes) -> Record:
        fields = item.data
        content = self.tree.read(item.file)
        size = shown_size(content, item.file)
        note_size(size, fields.get("height"), fields.get("width"), notes)
        caption = fields.get("caption", "")
        given = fields.get("regions", [])
        regions = notes.keep_usable([self._region(region, notes) for region in given], size)
        union = b""
        if path := fields.get("union_mask", ""):
            union = fit_mask(self.tree.read(path), size, notes)
        if given and not regions and not union:  # without any it would pass for clean
            raise RecordError("no usable region", f"of {len(given)}")
        texts = {name: fields[name] for name in ("category", "generator", "question")
                 if name in fields}
        return Record(
            dataset=fields.get("dataset", self.name), image=content, caption=caption,
            file_name=fields.get("file_name", item.file), label=fields.get("label", UNKNOWN),
            group_id=fields.get("group_id") or image_hash(content),
            has_masks=fields.get("has_masks", "regions" in fields or bool(union)),
            regions=_place(regions, caption, notes), union_mask=union,
            heatmap=self._heatmap(fields.get("heatmap", ""), size),
            scores=fields.get("scores", {}), **texts)

    def _region(self, fields: Mapping, notes: Notes) -> Region | RecordError:
        values = {k: v for k, v in fields.items() if k not in ("polygons", "mask", "box")}
        box = tuple(map(float, fields["box"])) if "box" in fields else NO_BOX
        polygons, mask = fields.get("polygons", ()), b""
        if not polygons and "mask" in fields:
            try:
                mask = mask_to_png(read_mask(self.tree.read(fields["mask"]), notes))
            except (RecordError, RegionError) as error:
                return RecordError("unusable region", str(error))
        elif not polygons and "box" in fields:
            x1, y1, x2, y2 = box
            polygons = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        return Region(**{"phrase": ""} | values, box=box, polygons=polygons, mask=mask)

    def _heatmap(self, path: str, size: tuple[int, int]) -> bytes:
        if not path:
            return b""
        content = self.tree.read(path)
        # A PNG says in its head what it is: 8 bits a sample, and of grey.
        if content[:8] != b"\x89PNG\r\n\x1a\n" or content[24:26] != b"\x08\x00":
            raise RecordError("unusable heatmap", f"{path}: not an 8-bit grey PNG")
        if shown_size(content, path) != size:
            raise RecordError("unusable heatmap", f"{path}: not of the image's size")
        return content


def _place(regions: dict[int, Region], caption: str, notes: Notes) -> list[Region]:
    """The regions, those without a place given one in the caption if it has their phrase."""
    free = [n for n, region in regions.items() if region.start < 0]
    spans = locate_phrases(caption, [regions[n].phrase for n in free])
    placed = dict(regions)
    for number, span in zip(free, spans, strict=True):
        region = regions[number]
        if span:
            notes.place_found(caption, region.phrase, span)
            placed[number] = Region(**vars(region) | {"start": span[0], "end": span[1]})
        elif caption and region.phrase:
            notes.repaired("phrase without a place in the caption", region.phrase)
    return list(placed.values())


def _parse(line: bytes, subject: str) -> dict[str, Any]:
    """The checked fields of a line, the label as its number; raises DataError."""
    fields = strict_json.parse(line, subject, object, error=DataError, lone_surrogates=True)
    _check(fields, FIELDS, subject)
    if not fields.get("image"):
        raise DataError(f"{subject}: field 'image' is missing")
    for number, region in enumerate(fields.get("regions", [])):
        _check(region, REGION_FIELDS, f"{subject}: region {number}")
        if ("start" in region) != ("end" in region):
            raise DataError(f"{subject}: region {number}: field 'start' without 'end', or 'end' "
                            f"without 'start'")
    if fields.get("has_masks") is False and (fields.get("regions") or fields.get("union_mask")):
        raise DataError(f"{subject}: field 'has_masks' is false beside masks")
    if "label" in fields:
        fields["label"] = NUMBERS.get(fields["label"], fields["label"])
    return fields


def _check(fields, known: Mapping[str, tuple[Callable[[Any], bool], str]], subject: str) -> None:
    if not isinstance(fields, dict):
        raise DataError(f"{subject}: expected an object, found {type(fields).__name__}")
    for name, value in fields.items():
        if name not in known:
            raise DataError(f"{subject}: unknown field {name!r}; known: {', '.join(known)}")
        fits, wanted = known[name]
        if not fits(value):
            raise DataError(f"{subject}: field {name!r}: expected {wanted}, found "
                            f"{json.dumps(value)[:60]}")


LARGEST = 1 << 31  # of coordinates


def _is_number(value) -> bool:
    return type(value) in (int, float) and -LARGEST < value < LARGEST  # no NaN either


def _is_text(value) -> bool:
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _is_label(value) -> bool:
    return value in NUMBERS if isinstance(value, str) else type(value) is int and value in LABELS


def _are_numbers(value) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


_TEXT = (_is_text, "text")
_SIDE = (lambda v: type(v) is int and v > 0, "a number of pixels")
_PLACE = (lambda v: type(v) is int and 0 <= v < LARGEST, "a position in the caption")
REGION_FIELDS = {
    **dict.fromkeys(("phrase", "explanation", "artifact_type", "mask"), _TEXT),
    "start": _PLACE, "end": _PLACE,
    "box": (lambda v: _are_numbers(v) and len(v) == 4 and v[0] <= v[2] and v[1] <= v[3],
            "[x1, y1, x2, y2] with x1 <= x2 and y1 <= y2"),
    "polygons": (lambda v: isinstance(v, list) and all(map(_are_numbers, v)),
                 "[[x1, y1, x2, y2, ...], ...]")}
FIELDS = {
    **dict.fromkeys(("id", "dataset", "group_id", "file_name", "image", "category", "generator",
                     "caption", "question", "union_mask", "heatmap"), _TEXT),
    "split": (lambda v: _is_text(v) and bool(re.fullmatch(r"[A-Za-z0-9]\w{0,63}", v, re.ASCII))
              and v != "all", "a letter or digit and up to 63 more or underscores, not 'all'"),
    "label": (_is_label, f"one of {', '.join(map(str, LABELS))}, {', '.join(NUMBERS)}"),
    "height": _SIDE, "width": _SIDE, "has_masks": (lambda v: isinstance(v, bool), "true or false"),
    "regions": (lambda v: isinstance(v, list), "a list"),
    "scores": (lambda v: isinstance(v, dict) and v.keys() <= set(SCORES) and all(
        _is_number(s) and 0 <= s <= 1 for s in v.values()), f"0 to 1 for {', '.join(SCORES)}")}
