"""The common record: what every data set becomes, field by field.

| field | stored as | meaning |
|---|---|---|
| id | text | unique in the prepared data set; begins with the split |
| dataset | text | name of the data set, `synthscars`, `sid_set`, ... |
| group_id | text | what may not be in two splits: source photo, video, or hash of the image |
| file_name | text | name of the image in the source |
| image | bytes | the encoded file, as published |
| height, width | int32 | size in pixels as a viewer shows it, EXIF orientation applied |
| label | int32 | -1 unknown, 0 real, 1 fully synthetic, 2 tampered; above 0 means fake |
| category | text | what is to be seen: human, animal, object, scene, ..., '' if not told |
| generator | text | what made or changed it: progan, ldm_200, ..., '' if not told |
| caption | text | the whole explanation, '' if there is none |
| question | text | the data set's own question, '' for the run's instruction |
| has_masks | bool | whether artifacts are marked; True with nothing marked means clean |
| regions | list of | the marked artifacts, in the order of their phrases: |
| .phrase | text | what is wrong |
| .start, .end | int32 | its characters in the caption; -1 where the caption does not have it |
| .explanation | text | why, '' if not told |
| .artifact_type | text | physics, structure, distortion, '' if not told |
| .box | float32[4] | x1, y1, x2, y2 in pixels; NaN if there is none |
| .polygons | text | JSON [[x1, y1, x2, y2, ...], ...] in pixels; '[]' where `mask` is given |
| .mask | bytes | PNG, not zero where the artifact is; empty where polygons are given |
| union_mask | bytes | PNG of all artifacts together, of sets that mark them so; empty otherwise |
| heatmap | bytes | 8-bit grey PNG of how bad each place is, or how far it is marked, of sets that |
|         |       | say so (RichHF, grey masks of SID-Set); of any size; empty otherwise |
| scores | 4 x float32 | aesthetic, artifact, misalignment, overall, 0 to 1 (RichHF); else NaN |

Polygons stay polygons: which pixels they cover is the reader's choice of rasteriser.

A text may not hold a word that a tokenizer takes for a token. RESERVED are those of LEGION, which
every data set is refused; what has a meaning in another system alone ([CLS], [END], <pad>) is plain
text to the rest, and refused where such a system is trained, see `batches.examples`.
"""

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.errors import UserError
from input_pipeline.photos.images import ImageError, read_image
from input_pipeline.photos.regions import (
    RegionError,
    mask_to_bits,
    png_to_grey,
    png_to_mask,
    polygons_to_bits,
    polygons_to_mask,
    resized,
    union_of,
)
from input_pipeline.text.tokenizer import ADDED_TOKENS, IMAGE_TOKEN

UNKNOWN, REAL, SYNTHETIC, TAMPERED = -1, 0, 1, 2
LABELS = {UNKNOWN: "unknown", REAL: "real", SYNTHETIC: "synthetic", TAMPERED: "tampered"}
SCORES = ("aesthetic", "artifact", "misalignment", "overall")
TEXTS = ("id", "dataset", "group_id", "file_name", "category", "generator", "caption", "question")
REGION_TEXTS = ("phrase", "explanation", "artifact_type")
NO_BOX = (math.nan,) * 4
RESERVED = (*ADDED_TOKENS, IMAGE_TOKEN, "<s>", "</s>")  # a tokenizer takes them for its own
# PIL names unreadable bytes by their address, which would make any two manifests differ.
ADDRESS = re.compile(r" ?<[\w.]+ object at 0x[0-9a-f]+>")


class RecordError(ValueError):
    """One record, or one of its regions, that cannot be used."""

    def __init__(self, reason: str, detail: str = ""):
        """`reason` is what summaries count by, `detail` is about this one."""
        detail = ADDRESS.sub("", detail)
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True)
class Region:
    """One marked artifact; see the module's table."""

    phrase: str
    start: int = -1
    end: int = -1
    explanation: str = ""
    artifact_type: str = ""
    box: tuple[float, float, float, float] = NO_BOX
    polygons: Sequence[Sequence[float]] = ()
    mask: bytes = b""

    def check(self, height: int, width: int) -> None:
        """Raises RecordError when the artifact covers no pixel or its texts cannot be stored."""
        for name in REGION_TEXTS:
            check_text(getattr(self, name), name)
        try:
            if self.mask:
                mask = png_to_mask(self.mask)
                if mask.shape != (height, width):
                    raise RegionError(f"mask of {mask.shape[1]}x{mask.shape[0]} for an image of "
                                      f"{width}x{height}")
                if not mask.any():
                    raise RegionError("mask covers no pixel")
            else:
                polygons_to_mask(self.polygons, height, width)
        except (RegionError, ImageError) as error:
            raise RecordError("unusable region", str(error)) from error

    def pixels(self, size: tuple[int, int], scale: float = 1.0, *,
               rasteriser: str = "coco") -> np.ndarray:
        """The artifact in a frame of `size` (height, width), which is the photo times `scale`.

        Returns uint8[H, W], 1 where the artifact is; `rasteriser`, of polygons, is one of
        `regions.RASTERISERS`. Raises RegionError when it covers no pixel of the frame.
        """
        if not self.mask:
            return polygons_to_mask(self._scaled(scale), *size, rasteriser=rasteriser)
        mask = png_to_mask(self.mask)
        if mask.shape != size:
            mask = resized(mask, size)
        if not mask.any():
            raise RegionError("mask covers no pixel")
        return mask

    def bits(self, size: tuple[int, int], scale: float) -> np.ndarray:
        """`pixels` with eight of them to a byte: uint8[H, ceil(W / 8)]."""
        if self.mask:
            return mask_to_bits(self.pixels(size, scale))
        return polygons_to_bits(self._scaled(scale), *size)

    def _scaled(self, scale: float) -> list[list[float]]:
        return [[value * scale for value in polygon] for polygon in self.polygons]

    def as_feature(self) -> dict:
        """What TFDS stores of the artifact."""
        return dataclasses.asdict(self) | {
            "box": np.asarray(self.box, np.float32),
            "polygons": json.dumps([list(map(float, p)) for p in self.polygons])}

    @classmethod
    def from_feature(cls, feature: Mapping) -> "Region":
        """The artifact that TFDS stored as `feature`."""
        return cls(**feature | {name: feature[name].decode() for name in REGION_TEXTS} | {
            "start": int(feature["start"]), "end": int(feature["end"]),
            "box": tuple(map(float, feature["box"])), "polygons": json.loads(feature["polygons"])})


@dataclasses.dataclass(frozen=True)
class Record:
    """One image with all that is known of it; see the module's table.

    A data set leaves out `id`, `height` and `width`, which are told when the record is stored.
    Regions must be checked (`Region.check`) before.
    """

    dataset: str
    file_name: str
    image: bytes
    label: int
    group_id: str
    category: str = ""
    generator: str = ""
    caption: str = ""
    question: str = ""
    has_masks: bool = False
    regions: Sequence[Region] = ()
    union_mask: bytes = b""
    heatmap: bytes = b""
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    id: str = ""
    height: int = 0
    width: int = 0

    def marked(self, size: tuple[int, int], *, rasteriser: str = "coco") -> np.ndarray | None:
        """All that is marked on a photo of `size` (height, width), bool[H, W].

        None where nobody looked for artifacts. Raises RegionError when a region covers no pixel of
        the photo or `union_mask` is of another size.
        """
        if not self.has_masks:
            return None
        masks = (region.pixels(size, rasteriser=rasteriser) for region in self.regions)
        return union_of(itertools.chain(masks, self._union_mask(size)), size)

    def graded(self, size: tuple[int, int]) -> np.ndarray | None:
        """How far each place of a photo of `size` (height, width) is marked, uint8[h, w].

        That is its heatmap, whatever size that has, else 255 where it is `marked`; None where
        nobody looked. Raises RegionError as `marked` does.
        """
        if not self.has_masks:
            return None
        if self.heatmap:
            return png_to_grey(self.heatmap)
        return 255 * self.marked(size).astype(np.uint8)

    def _union_mask(self, size: tuple[int, int]) -> Iterator[np.ndarray]:
        if self.union_mask:
            mask = png_to_mask(self.union_mask)
            if mask.shape != tuple(size):
                raise RegionError(f"a mask of {mask.shape} for a photo of {tuple(size)}")
            yield mask

    def as_features(self) -> dict:
        """What TFDS stores. Raises RecordError when something is not as the table says."""
        for name in TEXTS:
            check_text(getattr(self, name), name)
        for name in ("caption", "question"):
            if reserved := [token for token in RESERVED if token in getattr(self, name)]:
                raise RecordError("reserved word in a text", f"'{name}' holds {reserved[0]}")
        if self.label not in LABELS:
            raise RecordError("unknown label", repr(self.label))
        if not self.group_id:
            raise RecordError("no group", self.file_name)
        if unknown := self.scores.keys() - set(SCORES):
            raise RecordError("unknown score", str(sorted(unknown)))
        regions = sorted(self.regions, key=lambda r: (r.start < 0, r.start))
        _check_spans(self.caption, regions)
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {
            "regions": [region.as_feature() for region in regions],
            "scores": {name: np.float32(self.scores.get(name, math.nan)) for name in SCORES}}

    @classmethod
    def from_features(cls, features: Mapping) -> "Record":
        """The record that TFDS stored as `features`: texts in UTF-8, regions in parallel lists."""
        columns = features["regions"]
        return cls(**features | {name: features[name].decode() for name in TEXTS} | {
            "regions": [Region.from_feature(dict(zip(columns, values, strict=True)))
                        for values in zip(*columns.values(), strict=True)]})


def image_size(content: bytes, name: str) -> tuple[int, int]:
    """(height, width) of a decoded image. Raises RecordError when it cannot be decoded."""
    try:
        return read_image(content, name=name).shape[:2]
    except ImageError as error:
        raise RecordError("unreadable image", str(error)) from error


def check_text(value, name: str) -> str:
    """The value, if it is text that can be stored; a lone surrogate, legal in JSON, cannot."""
    if not isinstance(value, str):
        raise RecordError("malformed record", f"'{name}' is not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RecordError("malformed record", f"'{name}' cannot be encoded") from error
    return value


def _check_spans(caption: str, regions: Sequence[Region]) -> None:
    done = 0
    for region in regions:
        if region.start < 0:
            continue
        if (not region.phrase or region.start < done
                or caption[region.start:region.end] != region.phrase):
            raise RecordError("misplaced phrase", f"{region.phrase!r} at {region.start}")
        done = region.end


def features() -> tfds.features.FeaturesDict:
    """The record as TFDS features."""
    text, number = tfds.features.Text, tfds.features.Scalar

    def raw():
        # The bytes as they are: an image feature would decode and encode them again.
        return tfds.features.Tensor(shape=(), dtype=np.object_)

    return tfds.features.FeaturesDict({
        **{name: text() for name in TEXTS},
        **{name: raw() for name in ("image", "union_mask", "heatmap")},
        **{name: number(np.int32) for name in ("height", "width", "label")},
        "has_masks": number(np.bool_),
        "scores": {name: number(np.float32) for name in SCORES},
        "regions": tfds.features.Sequence({
            **{name: text() for name in REGION_TEXTS},
            "start": number(np.int32), "end": number(np.int32),
            "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            "polygons": text(), "mask": raw()})})


class DataError(UserError):
    """A source or a prepared data set that cannot be used; the message names it and says why."""
