"""SID-Set (SIDA; Huang et al., 2025): real, fully synthetic and tampered images of social media.

    {train,validation,test}/{real,full_synthetic,tampered}/FILE, .../masks/NAME_mask.png
    (val, valid and dev are validation)
    or Hugging Face's *.parquet: img_id, image, mask, width, height, label 0, 1 or 2
    text_label_images/{split}/description/{real,full_synthetic,tampered}_GT.json: {FILE: text}

A tampered image's mask is white where it was changed; of grey pixels, which the published files
have, those from 128 on are, or none with the configs `..._white`, as SIDA's own code validates. It
trains with value / 255 as a soft target: a mask with greys is also kept as the record's heatmap,
for runs with config.data.soft_masks. A mask that is missing, empty, no image or of other
proportions than its image is dropped and the image kept as one whose artifacts are not marked; one
of another size is resized. Real images are marked as clean, synthetic ones are not marked.
Descriptions are optional; one whose image is not there is an item without a file.
"""

import posixpath
import re

from input_pipeline.datasets.checks import (
    check_image,
    fit_mask,
    grey_levels,
    home,
    note_size,
    say_left_out,
    shown_size,
)
from input_pipeline.datasets.parquet import Rows
from input_pipeline.records.dataset import DataSet, Item, Notes, image_hash
from input_pipeline.records.record import (
    REAL,
    SYNTHETIC,
    TAMPERED,
    DataError,
    Record,
    RecordError,
    check_text,
)

SPLITS = ("train", "validation", "test")
ALSO = {"val": "validation", "valid": "validation", "dev": "validation"}  # other names of splits
KINDS = {"real": REAL, "full_synthetic": SYNTHETIC, "tampered": TAMPERED}


class SidSet(DataSet):
    name = "sid_set"
    configs = {"folders": "Images and masks in folders.",
               "parquet": "Parquet files of Hugging Face.",
               "folders_white": "As folders; of a mask only what is 255.",
               "parquet_white": "As parquet; of a mask only what is 255."}

    def __init__(self, source: str, config: str):
        """As of DataSet; also raises DataError when "parquet" lacks pyarrow or is an archive."""
        super().__init__(source, config)
        self._home = home(self.tree, *SPLITS, *ALSO)
        self._rows = None
        if config.startswith("parquet"):
            if self.tree.is_archive:
                raise DataError(f"{source}: parquet files are read from a folder; unpack it first")
            self._rows = Rows(self.source)

    def published(self):
        return {"train": 210_000, "validation": 30_000, "test": 60_000}

    def splits(self):
        splits = self._row_items() if self._rows else self._file_items()
        if not splits:
            wanted = "NAME.parquet" if self._rows else "train/{real,full_synthetic,tampered}/FILE"
            raise DataError(f"{self.source}: found no {wanted}")
        return {split: splits[split] for split in SPLITS if splits.get(split)}

    def _file_items(self) -> dict[str, list[Item]]:
        splits, names = {}, (*SPLITS, *ALSO)
        folders = [folder for folder in self.tree.folders(self._home.removesuffix("/"))
                   if set(KINDS) & set(self.tree.folders(f"{self._home}{folder}"))]
        say_left_out(self.source, folders, names, names)
        for folder in filter(names.__contains__, folders):
            split = ALSO.get(folder, folder)
            if split in splits:
                raise DataError(f"{self.source}: several folders are its {split} split, among "
                                f"them {folder}; leave one")
            splits[split] = self._items_of(split, f"{self._home}{folder}")
        return splits

    def _items_of(self, split: str, folder: str) -> list[Item]:
        items = []
        for kind in KINDS:
            texts = self._descriptions(posixpath.basename(folder), kind)
            if not texts:
                texts = self._descriptions(split, kind)
            for name in self.tree.names(f"{folder}/{kind}"):
                stem = posixpath.splitext(posixpath.basename(name))[0]
                text = _take(texts, posixpath.basename(name), stem)
                mask = f"{folder}/masks/{stem}_mask.png"
                items.append(Item(name.removeprefix(f"{folder}/"), name,
                                  [kind, mask if kind == "tampered" else "", text]))
            items += [Item(f"{kind}/{name}", f"{folder}/{kind}/{name}", [kind, "", text])
                      for name, text in texts.items()]
        return items

    def _descriptions(self, split: str, kind: str) -> dict[str, str]:
        path = f"{self._home}text_label_images/{split}/description/{kind}_GT.json"
        return self.read_json(path, dict) if self.tree.has(path) else {}

    def _row_items(self) -> dict[str, list[Item]]:
        splits, texts = {}, {}
        for name in self.tree.names():
            if not name.endswith(".parquet"):
                continue
            words = re.split(r"[^a-z]+", name.lower())
            split = next((ALSO.get(word, word) for word in words if word in (*SPLITS, *ALSO)), None)
            if split is None:
                raise DataError(f"{self.source}/{name}: its name tells no split: "
                                f"{', '.join(SPLITS)}")
            if split not in texts:
                texts[split] = {kind: self._descriptions(split, kind) for kind in KINDS}
            items = splits.setdefault(split, [])
            for group, row, cells in self._rows.index(name, ["img_id", "label"]):
                key, label = cells["img_id"], cells["label"]
                kind = next((k for k in KINDS if KINDS[k] == label), "")
                stem = posixpath.splitext(str(key))[0]
                text = _take(texts[split].get(kind, {}), str(key), stem)
                items.append(Item(str(key) if key else f"#{len(items)}", f"{name}#{group}:{row}",
                                  [name, group, row, text]))
        return splits

    def read(self, item: Item, notes: Notes) -> Record:
        return (self._read_row if self._rows else self._read_file)(item, notes)

    def _read_file(self, item: Item, notes: Notes) -> Record:
        kind, mask_name, text = item.data
        check_text(item.file, "file_name")
        image, mask = self.tree.read(item.file), None
        check_image(item.file, image)
        if mask_name:
            try:
                mask = self.tree.read(mask_name)
            except RecordError as error:
                mask = RecordError("mask missing", error.detail)
        return self._record(item.file, image, KINDS[kind], mask, text, notes)

    def _read_row(self, item: Item, notes: Notes) -> Record:
        name, group, row, text = item.data
        cells = self._rows.read(name, group, row)
        label = cells.get("label")
        if label not in KINDS.values():
            raise RecordError("unknown label", repr(label))
        image, path = _image_cell(cells.get("image"))
        if image is None:
            raise RecordError("file missing", "the row has no image")
        mask = _image_cell(cells.get("mask"))[0] or RecordError("mask missing", item.id)
        note_size(shown_size(image, item.id), cells.get("height"), cells.get("width"), notes)
        return self._record(path or item.id, image, label, mask,
                            text or cells.get("description") or "", notes)

    def _record(self, name: str, image: bytes, label: int, mask: bytes | RecordError | None,
                text: str, notes: Notes) -> Record:
        union, heatmap, marked = b"", b"", label == REAL
        options = {"background_may_be_masked": True,
                   "white_alone": self.config.endswith("_white")}
        if label == TAMPERED:
            try:
                if isinstance(mask, RecordError):
                    raise mask
                union = fit_mask(mask, shown_size(image, name), notes, **options)
                heatmap, marked = grey_levels(mask, **options), True
            except RecordError as error:
                notes.dropped(error, 0)
        return Record(dataset=self.name, file_name=name, image=image, label=label,
                      group_id=image_hash(image), caption=check_text(text, "description").strip(),
                      has_masks=marked, union_mask=union, heatmap=heatmap)


def _take(texts: dict[str, str], *names: str) -> str:
    """Takes the description of the first of the names that has one; '' where none has."""
    return next((texts.pop(name) for name in names if name in texts), "")


def _image_cell(cell) -> tuple[bytes | None, str]:
    """(encoded image, its name) of a cell: {bytes, path}, bytes alone, or nothing."""
    if isinstance(cell, dict):
        return cell.get("bytes"), cell.get("path") or ""
    return cell, ""
