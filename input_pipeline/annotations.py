"""Reads SynthScars' annotation files record by record, and names whatever cannot be used.

A file is a list of one-key objects {id: {img_file_name, caption, refs: [{sentence, explanation,
segmentation}]}}. The published files have twisted spellings, missing images and broken polygons;
one bad record never stops the rest.
"""

import dataclasses
import functools
import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Iterator

from etils import epath

from input_pipeline.conversation import locate_phrases
from input_pipeline.errors import UserError
from input_pipeline.images import ImageError, read_image
from input_pipeline.regions import RegionError, polygons_to_mask

SPLITS = ("train", "test")
FOLDERS = ("annotations", "annoations")  # the published README spells the second
REAL, SYNTHETIC, TAMPERED = 0, 1, 2  # the labels; -1 would be unknown


class AnnotationError(UserError):
    """A whole source or annotation file cannot be used; the message names it and says why."""


class RecordError(ValueError):
    """One record cannot be used."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """Where one split lies: its annotation file and its folder of images."""

    name: str
    annotations: epath.Path
    images: epath.Path


class SkipLog:
    """What was left out of one split, entry by entry.

    Attributes:
        entries: dicts {split, id, file, ref, reason, detail}; `ref` is the number of a dropped ref
            in its record, None when the whole record was skipped.
    """

    def __init__(self, split: str):
        self.split = split
        self.entries: list[dict] = []

    def add(self, record_id: str, file: str, *, error: RecordError, ref: int | None = None) -> None:
        """Adds one entry."""
        entry = {"split": self.split, "id": record_id, "file": file, "ref": ref}
        self.entries.append(entry | {"reason": error.reason, "detail": error.detail})

    def counts(self, *, refs: bool) -> dict[str, int]:
        """Returns entries per reason, of dropped refs or of skipped records."""
        chosen = (e["reason"] for e in self.entries if (e["ref"] is not None) == refs)
        return dict(sorted(Counter(chosen).items()))


def find_splits(source: epath.PathLike) -> list[SplitFiles]:
    """Finds the annotation files of a data set folder.

    Both spellings of the annotations folder are accepted, and a test file beside the train file;
    the test split may be missing.

    Raises:
        AnnotationError: no such folder, or it has no train annotations.
    """
    root = epath.Path(source)
    if not root.is_dir():
        raise AnnotationError(f"{root}: no such folder")
    found = []
    for split in SPLITS:
        candidates = [root / home / f for home in dict.fromkeys((split, "train")) for f in FOLDERS]
        path = next(
            (c / f"{split}.json" for c in candidates if (c / f"{split}.json").exists()), None
        )
        if path is not None:
            homes = (root / split / "images", root / "train" / "images")
            images = next((home for home in homes if home.is_dir()), homes[0])
            found.append(SplitFiles(split, path, images))
    if not found or found[0].name != "train":
        expected = " or ".join(f"train/{folder}/train.json" for folder in FOLDERS)
        raise AnnotationError(f"{root}: found no {expected}")
    return found


def load_annotations(path: epath.Path) -> tuple[list, str]:
    """Reads an annotation file.

    Returns the list as it stands, its items unchecked, and the SHA-256 of the file. Raises
    AnnotationError naming the file and the place when it is not JSON, or not a list.
    """
    content = path.read_bytes()
    try:
        items = json.loads(content.decode("utf-8-sig"))
    except ValueError as error:
        raise AnnotationError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(items, list):
        raise AnnotationError(f"{path}: expected a list of records, found {type(items).__name__}")
    return items, hashlib.sha256(content).hexdigest()


def _is_text(value):
    """True for a string that can be stored; a lone surrogate, legal in JSON, cannot."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check_record(item):
    """Returns (id, record) of one list item; raises RecordError for a wrong shape."""
    if not isinstance(item, dict) or len(item) != 1:
        raise RecordError("malformed record", "not an object with one key")
    ((key, record),) = item.items()
    if not _is_text(key) or not isinstance(record, dict):
        raise RecordError("malformed record", "its value is not an object")
    for field in ("img_file_name", "caption"):
        if not _is_text(record.get(field)):
            raise RecordError("malformed record", f"'{field}' is not text")
    if not isinstance(record.get("refs"), list):
        raise RecordError("malformed record", "'refs' is not a list")
    return key, record


def _read_picture(images, name):
    """Returns (encoded bytes, height, width) of an image inside the folder."""
    clean = posixpath.normpath(name.replace("\\", "/"))
    # Judged by its words alone: following links would refuse the links of a download cache.
    if clean.startswith(("/", "../")) or clean in (".", "..") or "\0" in clean:
        raise RecordError("image name outside the images folder", name)
    path = images / clean
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError("image file missing", clean) from error
    try:
        height, width = read_image(content, name=clean).shape[:2]
    except ImageError as error:
        raise RecordError("unreadable image", str(error)) from error
    return content, height, width


def _check_ref(ref, height, width):
    """Returns (phrase, explanation, polygons); raises RecordError."""
    if not isinstance(ref, dict) or not _is_text(ref.get("sentence")):
        raise RecordError("malformed ref", "'sentence' is not text")
    explanation = ref.get("explanation")
    if explanation is not None and not _is_text(explanation):
        raise RecordError("malformed ref", "'explanation' is not text")
    polygons = ref.get("segmentation")
    if not isinstance(polygons, list):
        raise RecordError("malformed ref", "'segmentation' is not a list of polygons")
    if any(isinstance(v, str) for p in polygons if isinstance(p, list) for v in p):
        raise RecordError("unusable polygon", "coordinates are text, not numbers")
    try:
        polygons_to_mask(polygons, height, width)
    except RegionError as error:
        raise RecordError("unusable polygon", str(error)) from error
    return ref["sentence"], explanation or "", polygons


def _read_regions(refs, caption, *, size, drop):
    """Returns the usable refs as region dicts in caption order; calls drop(error=, ref=)."""
    checked = {}
    for number, ref in enumerate(refs):
        try:
            checked[number] = _check_ref(ref, *size)
        except RecordError as error:
            drop(error=error, ref=number)
    spans = locate_phrases(caption, [phrase for phrase, *_ in checked.values()])
    regions = []
    for (number, (phrase, explanation, polygons)), span in zip(checked.items(), spans, strict=True):
        if span is None:
            known = bool(phrase) and phrase in caption
            reason = "phrase overlaps another" if known else "phrase not in caption"
            drop(error=RecordError(reason, phrase), ref=number)
            continue
        region = {"phrase": phrase, "start": span[0], "end": span[1], "explanation": explanation}
        regions.append(region | {"polygons": json.dumps(polygons)})
    return sorted(regions, key=lambda region: region["start"])


def _group(content, file_name, *, photos):
    """Identity for leak-free splits: the source photo of a made image, else the very bytes."""
    if photos:
        return posixpath.splitext(posixpath.basename(file_name))[0].rpartition("_")[0] or file_name
    return hashlib.sha256(content).hexdigest()


def read_records(items: list, files: SplitFiles, *, photos: bool, log: SkipLog) -> Iterator[dict]:
    """Yields the usable records of a split.

    Args:
        items: the list from `load_annotations`.
        files: where the split lies.
        photos: the set has untouched photos: no refs means real, refs mean tampered. Otherwise
            every image is synthetic, and one without a usable ref is skipped.
        log: receives every skipped record and dropped ref.

    Yields:
        Dicts with the features of `input_pipeline.synthscars.SynthScars`, `id` unique.
    """
    seen = set()
    for position, item in enumerate(items):
        record_id, file_name = f"#{position}", ""
        try:
            record_id, record = _check_record(item)
            file_name = record["img_file_name"]
            if record_id in seen:
                raise RecordError("duplicate id", record_id)
            content, height, width = _read_picture(files.images, file_name)
            caption = record["caption"].strip('"').strip()
            drop = functools.partial(log.add, record_id, file_name)
            regions = _read_regions(record["refs"], caption, size=(height, width), drop=drop)
            refs = len(record["refs"])
            if not regions and (refs or not photos):
                raise RecordError("no usable ref", f"of {refs}")
        except RecordError as error:
            log.add(record_id, file_name, error=error)
            continue
        seen.add(record_id)
        label = (TAMPERED if regions else REAL) if photos else SYNTHETIC
        yield {
            "id": f"{files.name}_{record_id}",
            "image": content,
            "height": height,
            "width": width,
            "label": label,
            "group_id": _group(content, file_name, photos=photos),
            "file_name": file_name,
            "caption": caption,
            "regions": regions,
        }
