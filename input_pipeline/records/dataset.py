"""What a data set of the field has to say of itself; `builder` turns any of them into records.

A data set is a small class in `input_pipeline/datasets`: it lists its items and reads one of them.
Everything else (progress, skipping, manifest, counts, cluster jobs, files) is the builder's.
"""

import abc
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from input_pipeline import strict_json
from input_pipeline.photos.regions import sound_rings
from input_pipeline.records.record import DataError, Record, RecordError, Region, image_size
from input_pipeline.records.tree import LARGEST, Tree
from input_pipeline.text.words import wholeness

LIKE = 0.95  # share of the names of files by which a published set is known


@dataclasses.dataclass(frozen=True)
class Item:
    """One image to be read: light enough for millions, and to travel to workers.

    Attributes:
        id: unique in its split.
        file: name of the image in the source.
        data: whatever `read` needs beside it; plain values only.
    """

    id: str
    file: str
    data: Any = None


class Notes:
    """Repairs and dropped regions of one record; `read` adds to it."""

    def __init__(self):
        self.entries: list[dict] = []

    def repaired(self, reason: str, detail: str = "") -> None:
        """Something was put right; the record is whole."""
        self.entries.append({"kind": "repaired", "reason": reason, "detail": detail})

    def place_found(self, caption: str, phrase: str, span: tuple[int, int]) -> None:
        """A phrase got its place in the caption, perhaps inside of a word for want of a better."""
        if wholeness(caption, *span) == 2:
            start = max(0, span[0] - 20)
            self.repaired("phrase inside a word", f"{phrase} in {caption[start:span[1] + 20]}")

    def dropped(self, error: RecordError, region: int) -> None:
        """Region number `region` of the source was left out."""
        self.entries.append({"kind": "dropped", "reason": error.reason, "detail": error.detail,
                             "region": region})

    def keep_usable(self, regions: Sequence[Region | RecordError],
                    size: tuple[int, int]) -> dict[int, Region]:
        """{number: region} of those that cover pixels of an image of this size; notes the rest.

        Of a region in several pieces the bad ones are left out, and noted.
        """
        usable = {}
        for number, region in enumerate(regions):
            try:
                if isinstance(region, RecordError):
                    raise region
                if len(region.polygons) > 1:
                    region = self._in_sound_pieces(region, size, number)
                region.check(*size)
                usable[number] = region
            except RecordError as error:
                self.dropped(error, number)
        return usable

    def _in_sound_pieces(self, region: Region, size: tuple[int, int], number: int) -> Region:
        rings, problems = sound_rings(region.polygons, *size)
        if not rings:
            return region  # its check says why
        for ring, problem in problems.items():
            self.repaired("polygon left out", f"{ring} of region {number}: {problem}")
        return dataclasses.replace(region, polygons=rings)


def unlike_names(split: str, items: Sequence[Item], published: re.Pattern) -> str:
    """What `DataSet.unlike_published` says where too few files are named as `published`."""
    share = sum(bool(published.search(item.file)) for item in items) / max(len(items), 1)
    return "" if share >= LIKE else (
        f"{share:.0%} of the files of {split} are named as the published ones")


class DataSet(abc.ABC):
    """One data set as downloaded. Picklable: workers of a cluster read with copies of it.

    Attributes:
        name: of the data set.
        configs: {flavour: what it is}; the first is the default.
        source: path the user gave.
    """

    name: ClassVar[str]
    configs: ClassVar[Mapping[str, str]]

    def __init__(self, source: str, config: str):
        """Raises DataError when the source is not there or the flavour is unknown."""
        if config not in self.configs:
            raise DataError(f"no config {config!r} of {self.name}; known: "
                            f"{', '.join(self.configs)}")
        self.source, self.config, self.tree = str(source), config, Tree(source)

    @abc.abstractmethod
    def splits(self) -> dict[str, list[Item]]:
        """{split: its items in their own order}. Raises DataError naming what is missing."""

    @abc.abstractmethod
    def read(self, item: Item, notes: Notes) -> Record:
        """The record of an item. Raises RecordError when it cannot be used."""

    def published(self) -> dict[str, int]:
        """{split: number of items as published}; {} where nothing was published."""
        return {}

    def unlike_published(self, split: str, items: Sequence[Item]) -> str:
        """Why a split is not the one that published results are of; "" where it seems to be.

        Their number decides, and what a data set knows of names and contents as published.
        """
        wanted = self.published().get(split)
        if wanted is None:
            return f"nothing was published of {split} of {self.name}/{self.config}"
        if len(items) != wanted:
            return f"{split} has {len(items):,} items, as published {wanted:,}"
        return ""

    def read_annotations(self, name: str) -> bytes:
        """Content of an annotation file, whose absence is an error of the whole source."""
        try:
            return self.tree.read(name, LARGEST)
        except RecordError as error:
            raise DataError(f"{self.source}/{name}: {error}") from error

    def read_json(self, name: str, kind: type) -> Any:
        """JSON of an annotation file, in UTF-8 or UTF-16; NaN (LOKI has some) and half characters
        are left to the record that has them.

        Raises DataError naming the file when its value is not of type `kind`.
        """
        return strict_json.parse(self.read_annotations(name), f"{self.source}/{name}", kind,
                                 error=DataError, lone_surrogates=True, not_finite=float)

    def digest(self, splits: dict[str, list[Item]]) -> str:
        """Hash that changes when the items do."""
        sha = hashlib.sha256()
        for split, items in splits.items():
            for item in items:
                line = [split, item.id, item.file, item.data]
                sha.update(json.dumps(line, sort_keys=True).encode("utf-8", "surrogatepass"))
        return sha.hexdigest()


def image_hash(content: bytes) -> str:
    """Group of an image of which nothing is known but itself."""
    return hashlib.sha256(content).hexdigest()


def read_item(dataset: DataSet, split: str, item: Item) -> tuple[dict, dict | None]:
    """(line of the manifest, features of the record or None when it is skipped)."""
    notes = Notes()
    entry = {"split": split, "id": item.id, "file": item.file}
    try:
        record = dataset.read(item, notes)
        height, width = image_size(record.image, record.file_name)
        record = dataclasses.replace(record, id=f"{split}_{item.id}", height=height, width=width)
        features = record.as_features()
    except RecordError as error:
        return entry | {"status": "skipped", "reason": error.reason, "detail": error.detail,
                        "notes": notes.entries}, None
    return entry | {"status": "kept", "label": record.label, "category": record.category,
                    "generator": record.generator, "group_id": record.group_id,
                    "image": image_hash(record.image), "regions": len(record.regions),
                    "notes": notes.entries}, features
