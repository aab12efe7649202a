"""RichHF-18K (Liang et al., 2024): generated images with heat maps of artifacts and four scores.

    {train,dev,test}.tfrecord                      as published, images not included
    images/..., or images.zip or .tar beside       of Pick-a-Pic v1, found by their names

A tf.train.Example has filename, aesthetics_score, artifact_score, misalignment_score,
overall_score (0 to 1, the higher the better) and artifact_map, an encoded grey image of 512x512;
serialized tensors and plain bytes are read too. Not kept: misalignment_map and
prompt_misalignment_label, which are about the prompt.

`heatmap` is the map as it is, `union_mask` where it exceeds a limit, in the size of the image. The
maps cover the whole image, whatever its shape.
"""

import io
import math
import posixpath

import numpy as np
from PIL import Image

from input_pipeline.datasets import tfrecord
from input_pipeline.datasets.checks import hidden, say_left_out, says_image, shown_size
from input_pipeline.datasets.tfrecord import Frame
from input_pipeline.photos.images import ImageError, opened
from input_pipeline.photos.regions import mask_to_png, resized
from input_pipeline.records.dataset import DataSet, Item, Notes, image_hash
from input_pipeline.records.record import SYNTHETIC, DataError, Record, RecordError
from input_pipeline.records.tree import Tree

SIDE = 512
# LEGION's evaluation takes every value above 0 for an artifact.
LIMITS = {"published": 0, "marked": 0, "half": 127}
SCORES = {"aesthetic": "aesthetics_score", "artifact": "artifact_score",
          "misalignment": "misalignment_score", "overall": "overall_score"}


class RichHF(DataSet):
    name = "richhf"
    configs = {"published": "An artifact is where the heat map is above 0; it may be nowhere.",
               "marked": "The same without images on which nothing is marked.",
               "half": "An artifact is where the heat map is above 127 of 255."}

    def __init__(self, source: str, config: str):
        super().__init__(source, config)
        self._images = self.tree
        for name in ("images.zip", "images.tar"):
            if not self.tree.is_archive and self.tree.has(name):
                self._images = Tree(posixpath.join(self.source, name))
        self._held = "", b""  # the file read last; one has 150 MB

    def __getstate__(self):
        return self.__dict__ | {"_held": ("", b"")}

    def published(self):
        return {"train": 15_810, "dev": 995, "test": 955}

    def splits(self):
        names = self.tree.names()
        images = _Images(names if self._images is self.tree else self._images.names())
        splits = {}
        for split in ("train", "dev", "test"):
            for name in names:
                if posixpath.basename(name) == f"{split}.tfrecord":
                    splits[split] = self._items(name, images)
                    break
        if not splits:
            raise DataError(f"{self.source}: found no train.tfrecord, dev.tfrecord or "
                            f"test.tfrecord")
        say_left_out(self.source, (posixpath.basename(name) for name in names
                                   if name.endswith(".tfrecord")),
                     [f"{split}.tfrecord" for split in splits], ("train", "dev", "test"))
        return splits

    def _items(self, path: str, images: "_Images") -> list[Item]:
        content = self._content(path)
        if content.startswith(b"version https://git-lfs"):
            raise DataError(f"{self.source}/{path}: a pointer of Git LFS, not the file; run "
                            f"'git lfs pull'")
        items = []
        for position, frame in enumerate(tfrecord.frames(content)):
            file = ""
            if not frame.problem:
                file = _file_name(content[frame.start:frame.start + frame.length])
            items.append(Item(str(position), file, [path, *frame, images.find(file)]))
        return items

    def read(self, item: Item, notes: Notes) -> Record:
        path, *frame, image = item.data
        data = tfrecord.read_frame(self._content(path), Frame(*frame))
        example = tfrecord.parse_example(data)
        if not item.file:
            raise RecordError("malformed record", "no 'filename'")
        if not image:
            raise RecordError("file missing", item.file)
        content = self._images.read(image)
        size = shown_size(content, item.file)
        heat = read_map(example.get("artifact_map"))
        if self.config == "marked" and not heat.any():
            raise RecordError("nothing marked", item.file)
        buffer = io.BytesIO()
        Image.fromarray(heat).save(buffer, "PNG")
        union = resized((heat > LIMITS[self.config]).astype(np.uint8), size)
        return Record(
            dataset=self.name, file_name=item.file, image=content, label=SYNTHETIC,
            group_id=image_hash(content), has_masks=True, union_mask=mask_to_png(union),
            heatmap=buffer.getvalue(), scores=_read_scores(example, notes))

    def _content(self, path: str) -> bytes:
        held, content = self._held
        if held != path:
            content = self.read_annotations(path)
            self._held = path, content
        return content


class _Images:
    """Finds an image by the name a record gives it: full name, file name, or all but the suffix."""

    def __init__(self, names: list[str]):
        self._places = {}
        # Of two files whose names end differently the one that says image is meant.
        for name in sorted((name for name in names if not hidden(name)),
                           key=lambda name: not says_image(name)):
            base = posixpath.basename(name)
            for key in (name, base, posixpath.splitext(base)[0]):
                self._places.setdefault(key, name)

    def find(self, file: str) -> str:
        """Name in the tree, '' if there is none."""
        base = posixpath.basename(file)
        keys = (file, f"images/{file}", base, posixpath.splitext(base)[0])
        return next((self._places[key] for key in keys if key in self._places), "")


def read_map(values: list | None) -> np.ndarray:
    """The heat map uint8[512, 512] in a feature. Raises RecordError when it is not such a map."""
    if not values or not isinstance(values[0], bytes):
        raise RecordError("malformed record", "no 'artifact_map'")
    data = values[0]
    if len(data) == SIDE * SIDE:
        return np.frombuffer(data, np.uint8).reshape(SIDE, SIDE)
    try:
        with opened(data, "'artifact_map'") as image:
            shape = image.size[::-1]
            heat = np.asarray(image.convert("L")) if shape == (SIDE, SIDE) else None
    except ImageError as error:
        if not isinstance(error.__cause__, Image.UnidentifiedImageError):
            raise RecordError("malformed record", str(error)) from error
        heat = tfrecord.parse_tensor(data)
        heat = heat[..., 0] if heat.ndim == 3 and heat.shape[2] == 1 else heat
        shape = heat.shape
    if shape != (SIDE, SIDE):
        raise RecordError("heat map of another size", "x".join(map(str, shape)))
    return heat


def _file_name(data: bytes) -> str:
    """The name of the image, '' where a record has none; `read` says what is wrong with it."""
    try:
        return tfrecord.parse_example(data)["filename"][0].decode()
    except (RecordError, KeyError, IndexError, AttributeError, UnicodeDecodeError):
        return ""


def _read_scores(example: dict[str, list], notes: Notes) -> dict[str, float]:
    scores = {}
    for name, feature in SCORES.items():
        values = example.get(feature) or [math.nan]
        if isinstance(values[0], float) and 0 <= values[0] <= 1:
            scores[name] = values[0]
        else:
            notes.repaired("unusable score left out", f"{feature}: {values[0]}")
    return scores
