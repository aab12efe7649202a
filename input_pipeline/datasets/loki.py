"""LOKI (Ye et al., 2024), its images: real or generated, some with explained boxes; for testing.

    image/{open_ended_vqa,true_or_false,multi_choice}.json     also below data_json/
    media_data/image/...                                       also image/... or beside each other

The first file is published in UTF-16, the others in UTF-8; either is read.

* regions: `problems` of open-ended questions, {global: [{desc}], regional: [{region: [x, y, w, h],
  desc}]}. The caption, reference of explanations, is all descriptions in this order. Each box is a
  region explained by its own; it has no phrase, as none of them names the object alone.
* tf: `question_type` is image_tf_image_{real,fake}_ask_{real,fake}_CATEGORY. Two questions are
  asked of each image, one record is made.
* mc: `question_type` is image_mc_{real_from_fake,fake_from_real}_CATEGORY, `answer` says which of
  two images is meant. Each question makes two records, ID_A and ID_B, as images are compared.
"""

import math
import posixpath
import re

from input_pipeline.datasets.checks import shown_size
from input_pipeline.records.dataset import DataSet, Item, Notes, image_hash, unlike_names
from input_pipeline.records.record import (
    REAL,
    SYNTHETIC,
    DataError,
    Record,
    RecordError,
    Region,
    check_text,
)
from input_pipeline.records.tree import LONGEST_NAME

FILES = {"regions": "open_ended_vqa.json", "tf": "true_or_false.json", "mc": "multi_choice.json"}
CATEGORIES = {"animals": "animal", "doc": "document", "medicine": "medicine", "object": "object",
              "person": "human", "satellite": "satellite", "sence": "scene", "scene": "scene"}
NAMES = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.(png|jpg)$", re.I)
_TF = re.compile(r"image_tf_image_(real|fake)_ask_(?:real|fake)_(\w+)")
_MC = re.compile(r"image_mc_(real|fake)_from_(?:real|fake)_(\w+)")


class Loki(DataSet):
    name = "loki"
    configs = {"regions": "Generated images with explained boxes.",
               "tf": "Images that are real or generated.",
               "mc": "Pairs of a real and a generated image."}

    def published(self):
        return {"test": {"regions": 229, "tf": 2_217, "mc": 2 * 2_634}[self.config]}

    def unlike_published(self, split, items):
        return super().unlike_published(split, items) or unlike_names(split, items, NAMES)

    def splits(self):
        file = FILES[self.config]
        roots = ("", "LOKI/")
        places = [(root, f"{root}{home}{file}") for root in roots
                  for home in ("image/", "data_json/image/", "")]
        root, path = next((p for p in places if self.tree.has(p[1])), ("", ""))
        if not path:
            raise DataError(f"{self.source}: found no image/{file}")
        entries = self.read_json(path, list)
        make = {"regions": _region_items, "tf": _tf_items, "mc": _mc_items}[self.config]
        return {"test": [Item(i.id, i.file, [root, i.data]) for i in make(entries)]}

    def read(self, item: Item, notes: Notes) -> Record:
        root, data = item.data
        check_text(item.id, "id")
        if data is None:
            raise RecordError("malformed record", "a name, a type or an answer is missing")
        if self.config == "regions":
            return self._read_regions(item, root, data, notes)
        truths, category = data
        if len(truths) > 1:
            raise RecordError("contradictory truth", f"{item.file} is said to be real and fake")
        content = self._image(root, item.file)
        return Record(dataset=self.name, file_name=item.file, image=content,
                      label=SYNTHETIC if truths == ["fake"] else REAL,
                      group_id=image_hash(content), category=category)

    def _read_regions(self, item: Item, root: str, entry: dict, notes: Notes) -> Record:
        problems = entry.get("problems")
        if not isinstance(problems, dict):
            raise RecordError("malformed record", "no 'problems'")
        whole, parts = (problems.get(name) or [] for name in ("global", "regional"))
        if not isinstance(whole, list) or not isinstance(parts, list):
            raise RecordError("malformed record", "'global' or 'regional' is not a list")
        question = check_text(entry.get("question", ""), "question")
        content = self._image(root, item.file)
        size = shown_size(content, item.file)
        regions = notes.keep_usable([_region(p, size, notes, n) for n, p in enumerate(parts)], size)
        if parts and not regions:
            raise RecordError("no usable region", f"of {len(parts)}")
        return Record(
            dataset=self.name, file_name=item.file, image=content, label=SYNTHETIC,
            group_id=image_hash(content), category=_category(entry.get("question_type")),
            question=question.replace("<image>", "").strip(),
            caption=" ".join(filter(None, map(_description, [*whole, *parts]))),
            has_masks=bool(regions), regions=list(regions.values()))

    def _image(self, root: str, file: str) -> bytes:
        """The image, below the folders of its name or below some of them."""
        if len(file) > LONGEST_NAME:
            raise RecordError("name outside the source", f"{file[:100]}...: {len(file)} characters")
        parts = posixpath.normpath(file).split("/")
        names = [root + "/".join(parts[start:]) for start in range(len(parts))]
        for name in names[:-1]:
            try:
                return self.tree.read(name)
            except RecordError as error:
                if error.reason != "file missing":
                    raise
        try:
            return self.tree.read(names[-1])
        except RecordError as error:
            raise RecordError(error.reason, file) from error


def _region_items(entries: list) -> list[Item]:
    items = []
    for position, entry in enumerate(entries):
        file = entry.get("image_path") if isinstance(entry, dict) else None
        if isinstance(file, str) and file:
            items.append(Item(posixpath.basename(file), file, entry))
        else:
            items.append(Item(f"#{position}", "", None))
    return items


def _tf_items(entries: list) -> list[Item]:
    items, images = [], {}
    for position, entry in enumerate(entries):
        entry = entry if isinstance(entry, dict) else {}
        file, kind = entry.get("image_path"), _match(_TF, entry.get("question_type"))
        if not isinstance(file, str) or not file or not kind:
            items.append(Item(f"#{position}", file if isinstance(file, str) else "", None))
            continue
        if file not in images:
            images[file] = [[], _category(kind[2])]
            items.append(Item(posixpath.basename(file), file, images[file]))
        if kind[1] not in images[file][0]:
            images[file][0].append(kind[1])
    return items


def _mc_items(entries: list) -> list[Item]:
    items, truths = [], {}
    for position, entry in enumerate(entries):
        entry = entry if isinstance(entry, dict) else {}
        files, kind = entry.get("image_path"), _match(_MC, entry.get("question_type"))
        answer, name = entry.get("answer"), entry.get("id", f"#{position}")
        pair = isinstance(files, list) and len(files) == 2
        if not pair or not all(isinstance(file, str) and file for file in files) or not kind \
                or answer not in ("A", "B") or not isinstance(name, str):
            items.append(Item(f"#{position}", "", None))
            continue
        other = {"real": "fake", "fake": "real"}[kind[1]]
        for letter, file in zip("AB", files, strict=True):
            truth = kind[1] if letter == answer else other
            known = truths.setdefault(file, [])
            if truth not in known:
                known.append(truth)
            items.append(Item(f"{name}_{letter}", file, [known, _category(kind[2])]))
    return items


def _match(pattern: re.Pattern, text) -> re.Match | None:
    return pattern.fullmatch(text) if isinstance(text, str) else None


def _category(kind) -> str:
    """Common word for the last word of a question type; '' for one that is no category."""
    return CATEGORIES.get(kind.rpartition("_")[2], "") if isinstance(kind, str) else ""


def _description(part) -> str:
    text = part.get("desc") if isinstance(part, dict) else None
    return text.strip() if isinstance(text, str) else ""


def _region(part, size: tuple[int, int], notes: Notes, number: int) -> Region | RecordError:
    """A box within the image, or why it is none."""
    box = part.get("region") if isinstance(part, dict) else None
    if not isinstance(box, list) or len(box) != 4 or any(
            isinstance(v, bool) or not isinstance(v, int | float) for v in box):
        return RecordError("malformed region", "'region' is not [x, y, w, h]")
    if not isinstance(part.get("desc", ""), str):
        return RecordError("malformed region", "'desc' is not text")
    # Integers of JSON may be too large for a float.
    x, y, width, height = (float(v) if abs(v) < 1e9 else math.inf for v in box)
    if math.inf in (x, y, width, height) or width <= 0 or height <= 0:
        return RecordError("unusable region", f"box {box} has no area")
    corners = x, y, x + width, y + height
    left, right = (min(max(v, 0), size[1]) for v in corners[::2])
    top, bottom = (min(max(v, 0), size[0]) for v in corners[1::2])
    if left >= right or top >= bottom:
        return RecordError("unusable region", f"box {box} lies wholly outside the "
                                              f"{size[1]}x{size[0]} image")
    if corners != (left, top, right, bottom):
        notes.repaired("box clipped to the image", f"region {number}: {box}")
    return Region("", explanation=_description(part), box=(left, top, right, bottom),
                  polygons=[[left, top, right, top, right, bottom, left, bottom]])
