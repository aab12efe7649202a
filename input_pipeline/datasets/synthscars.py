"""SynthScars (Kang et al., 2025): synthetic images with explained and outlined artifacts.

    {train,test}/images/..., {train,test}/annotations/{train,test}.json

An annotation file is a list of one-key objects {id: {img_file_name, caption, refs: [{sentence,
explanation, segmentation}]}}. The published files have twisted spellings, missing images and broken
polygons; one bad record never stops the rest.
"""

import hashlib
import posixpath
from collections.abc import Sequence

from input_pipeline.datasets.checks import say_left_out
from input_pipeline.records.dataset import DataSet, Item, Notes, image_hash
from input_pipeline.records.record import (
    REAL,
    SYNTHETIC,
    TAMPERED,
    DataError,
    Record,
    RecordError,
    Region,
    check_text,
    image_size,
)
from input_pipeline.records.tree import clean
from input_pipeline.text.conversation import locate_phrases

DIGESTS = {"train": "94100c0b", "test": "3bb55380"}  # of the published files' SHA-256 the begin
FOLDERS = ("annotations", "annoations")  # the published README spells the second
CATEGORIES = "categories.json"  # optional: {image name: content category}, which the set lacks


class SynthScars(DataSet):
    name = "synthscars"
    configs = {"published": "Synthetic images, every one scarred.",
               "photos": "Real photos, some tampered: no refs means real."}

    def __init__(self, source: str, config: str):
        """As of DataSet."""
        super().__init__(source, config)
        self._annotations: dict[str, str] = {}

    def published(self):
        return {"train": 11_236, "test": 1_000} if self.config == "published" else {}

    def unlike_published(self, split, items):
        if reason := super().unlike_published(split, items):
            return reason
        digest = hashlib.sha256(self.read_annotations(self._annotations[split])).hexdigest()
        return "" if digest.startswith(DIGESTS[split]) else (
            f"the annotations of {split} are not the published file")

    def splits(self):
        root = "SynthScars/" if "SynthScars" in self.tree.folders() else ""
        splits = {}
        for split in ("train", "test"):
            # A test file may lie beside the train file.
            places = [f"{root}{home}/{folder}/{split}.json"
                      for home in dict.fromkeys((split, "train")) for folder in FOLDERS]
            if path := next((p for p in places if self.tree.has(p)), None):
                splits[split] = self._items(root, split, path)
                self._annotations[split] = path
        if "train" not in splits:
            expected = " or ".join(f"train/{folder}/train.json" for folder in FOLDERS)
            raise DataError(f"{self.source}: found no {expected}")
        there = [folder for folder in self.tree.folders(root.removesuffix("/"))
                 if {"images", *FOLDERS} & set(self.tree.folders(f"{root}{folder}"))]
        say_left_out(self.source, there, ("train", "test"), ("train", "test"))
        return splits

    def _items(self, root: str, split: str, path: str) -> list[Item]:
        records = self.read_json(path, list)
        homes = [f"{root}{home}/images" for home in (split, "train")]
        images = next((h for h in homes if self.tree.names(h)), homes[0])
        has_categories = self.tree.has(root + CATEGORIES)
        categories = self.read_json(root + CATEGORIES, dict) if has_categories else {}
        items = []
        for position, record in enumerate(records):
            key, file = f"#{position}", ""
            if isinstance(record, dict) and len(record) == 1:
                ((key, record),) = record.items()
                name = record.get("img_file_name") if isinstance(record, dict) else None
                file = name if isinstance(name, str) else ""
            items.append(Item(key, file, [images, record, categories.get(file, "")]))
        return items

    def read(self, item: Item, notes: Notes) -> Record:
        images, record, category = item.data
        check_text(item.id, "id")
        if not isinstance(record, dict) or not isinstance(record.get("refs"), list):
            raise RecordError("malformed record", "not an object with 'refs'")
        for field in ("img_file_name", "caption"):
            check_text(record.get(field), field)
        content = self.tree.read(f"{images}/{clean(item.file)}")
        caption = record["caption"].strip('"').strip()
        size = image_size(content, item.file)
        regions = place_phrases(
            caption, notes.keep_usable([_region(ref) for ref in record["refs"]], size), notes)
        photos = self.config == "photos"
        if not regions and (record["refs"] or not photos):
            raise RecordError("no usable ref", f"of {len(record['refs'])}")
        label = (TAMPERED if regions else REAL) if photos else SYNTHETIC
        return Record(
            dataset=self.name, file_name=item.file, image=content, label=label, caption=caption,
            group_id=_source_photo(item.file) if photos else image_hash(content),
            category=category, has_masks=True, regions=regions)


def _region(ref) -> Region | RecordError:
    """A ref as a region without its place, or why it is none."""
    try:
        if not isinstance(ref, dict):
            raise RecordError("malformed ref", "not an object")
        explanation = ref.get("explanation")
        phrase = check_text(ref.get("sentence"), "sentence")
        explanation = "" if explanation is None else check_text(explanation, "explanation")
    except RecordError as error:
        return RecordError("malformed ref", error.detail)
    polygons = ref.get("segmentation")
    if not isinstance(polygons, list):
        return RecordError("malformed ref", "'segmentation' is not a list of polygons")
    if any(isinstance(v, str) for p in polygons if isinstance(p, list) for v in p):
        return RecordError("unusable region", "coordinates are text, not numbers")
    return Region(phrase, explanation=explanation, polygons=polygons)


def place_phrases(caption: str, regions: dict[int, Region], notes: Notes) -> Sequence[Region]:
    """The regions whose phrase has a place of its own in the caption; notes the others."""
    placed = []
    spans = locate_phrases(caption, [region.phrase for region in regions.values()])
    for (number, region), span in zip(regions.items(), spans, strict=True):
        if span is None:
            known = bool(region.phrase) and region.phrase in caption
            reason = "phrase overlaps another" if known else "phrase not in caption"
            notes.dropped(RecordError(reason, region.phrase), number)
        else:
            notes.place_found(caption, region.phrase, span)
            placed.append(Region(region.phrase, *span, region.explanation,
                                 polygons=region.polygons))
    return placed


def _source_photo(file_name: str) -> str:
    """Identity of a made image: the photo it was made of, `PHOTO_NUMBER.png`."""
    stem = posixpath.splitext(posixpath.basename(file_name))[0]
    return stem.rpartition("_")[0] or file_name
