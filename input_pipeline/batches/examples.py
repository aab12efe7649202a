"""One record -> one training example of fixed shape, in numpy.

An example is what the compiled train step reads:

| key           | type                       | meaning                                             |
|---------------|----------------------------|-----------------------------------------------------|
| clip_image    | uint8[S, S, 3]             | short side resized to S, centre crop                |
| sam_image     | uint8[C, C, 3]             | longest side resized, zero-padded right and bottom  |
| resized_size  | int32[2]                   | rows and columns of sam_image that are photo        |
| original_size | int32[2]                   | rows and columns of the frame the masks live in     |
| ids           | int32[T]                   | conversation; the image placeholder is -200         |
| valid         | bool[T]                    | False at padding                                    |
| loss_mask     | bool[T]                    | True where the token is a target; the whole of it   |
|               |                            | False where the record has no caption               |
| masks         | uint8[K, M, M / 8]         | ground truth, one bit per pixel, in [SEG] order     |
| mask_valid    | bool[K]                    | which slots hold a mask                             |
| label         | int32                      | -1 unknown, 0 real, 1 fully synthetic, 2 tampered   |
| dropped       | int32                      | regions without slot, cut off, or too small to see  |
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from input_pipeline.errors import UserError
from input_pipeline.photos import images, regions
from input_pipeline.text import conversation
from input_pipeline.text.tokenizer import Tokenizer


class ExampleError(UserError):
    """A record that cannot become an example; the message names it."""


@dataclasses.dataclass(frozen=True)
class ExampleSpec:
    """Fixed shapes of a run and the question that is asked."""

    clip_size: int
    sam_canvas: int
    sam_longest: int
    text_length: int
    mask_slots: int
    mask_canvas: int
    instruction: str
    own_questions: bool = False  # ask what the record asks, where it asks something
    reduced_decoding: bool = False  # decode large training JPEGs at 1/2, 1/4 or 1/8 (images.py)

    def __post_init__(self):
        if not 0 < self.sam_longest <= self.sam_canvas:
            raise UserError(f"sam_longest: 1 to sam_canvas ({self.sam_canvas}), "
                            f"got {self.sam_longest}")
        if self.mask_canvas % 8:
            raise UserError(f"mask_canvas: a multiple of 8, got {self.mask_canvas}")


def record_id(record: Mapping) -> str:
    """Identifier of a record, for messages."""
    value = record["id"]
    return value.decode() if isinstance(value, bytes) else str(value)


def image_fields(image: np.ndarray | Image.Image, spec: ExampleSpec) -> dict[str, np.ndarray]:
    """Both resized views of a photo, uint8[H, W, 3] or PIL's, and the sizes that lead back."""
    size = image.size[::-1] if isinstance(image, Image.Image) else image.shape[:2]
    sam, resized = images.sam_image(image, spec.sam_longest, spec.sam_canvas)
    return {"clip_image": images.clip_image(image, spec.clip_size), "sam_image": sam,
            "resized_size": np.array(resized, np.int32),
            "original_size": np.array(size, np.int32)}


def frame_size(height: int, width: int, canvas: int) -> tuple[int, int, float]:
    """Size of the frame masks are compared in, and its scale against the photo.

    That is the photo itself unless it is larger than the mask canvas.
    """
    scale = min(1.0, canvas / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale)), scale


def region_mask(record: Mapping, number: int, size: tuple[int, int],
                scale: float = 1.0, *, rasteriser: str = "coco") -> np.ndarray:
    """Region `number` of a record in a frame of `size`, which is the photo times `scale`.

    Returns uint8[H, W]; `rasteriser`, of polygons, is one of `regions.RASTERISERS`. Raises
    RegionError when it covers no pixel there.
    """
    if content := record["regions"]["mask"][number]:
        mask = regions.png_to_mask(content)
        if mask.shape != size:
            mask = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
        if not mask.any():
            raise regions.RegionError("mask covers no pixel")
        return mask
    polygons = json.loads(record["regions"]["polygons"][number])
    return regions.polygons_to_mask([[v * scale for v in p] for p in polygons], *size,
                                    rasteriser=rasteriser)


def union_mask(record: Mapping, size: tuple[int, int]) -> np.ndarray | None:
    """All that is marked on a photo of `size`, bool[H, W]; None where nothing was looked for."""
    if not record["has_masks"]:
        return None
    union = np.zeros(size, bool)
    if record["union_mask"]:
        union |= regions.png_to_mask(record["union_mask"]).astype(bool)
    for number in range(len(record["regions"]["polygons"])):
        union |= region_mask(record, number, size).astype(bool)
    return union


def region_bits(record: Mapping, number: int, size: tuple[int, int], scale: float) -> np.ndarray:
    """`region_mask` with eight pixels to a byte: uint8[H, ceil(W / 8)]."""
    if record["regions"]["mask"][number]:
        return regions.mask_to_bits(region_mask(record, number, size, scale))
    polygons = json.loads(record["regions"]["polygons"][number])
    return regions.polygons_to_bits([[v * scale for v in p] for p in polygons], *size)


def ground_truth(record: Mapping, spec: ExampleSpec, size: tuple[int, int]):
    """Regions whose phrase is in the caption, in the order of their spans.

    Args:
        size: (height, width) of the photo.

    Returns:
        Spans, one mask uint8[h, ceil(w / 8)] for each, and the (h, w) of their frame.
    """
    height, width, scale = frame_size(*size, spec.mask_canvas)
    spans, masks = [], []
    for number, (start, end) in enumerate(zip(record["regions"]["start"],
                                              record["regions"]["end"], strict=True)):
        if start < 0:
            continue  # without a phrase there is no [SEG]; counted as dropped
        try:
            mask = region_bits(record, number, (height, width), scale)
        except regions.RegionError:
            if scale == 1:
                raise
            continue  # too small to be seen in the reduced frame; counted as dropped
        spans.append((int(start), int(end)))
        masks.append(mask)
    order = sorted(range(len(spans)), key=lambda i: spans[i])
    return [spans[i] for i in order], [masks[i] for i in order], (height, width)


def answer_of(record: Mapping, spans: Sequence[tuple[int, int]]) -> str:
    """What the model is to say: the caption, its phrases tagged."""
    return conversation.tag_phrases(_text(record["caption"]), spans)


def question_of(record: Mapping, spec: ExampleSpec) -> str:
    """What is asked about a record."""
    return spec.own_questions and _text(record["question"]) or spec.instruction


def training_example(record: Mapping, tokenizer: Tokenizer, spec: ExampleSpec,
                     length: int | None = None) -> dict:
    """The example of a record (see the module's table); `length` instead of `spec.text_length`.

    Phrases beyond `mask_slots` stay plain text and are counted in `dropped`, like masks whose
    [SEG] was cut off with the text.

    Raises:
        ExampleError: naming the record, when its image or a polygon is unusable.
    """
    name = record_id(record)
    try:
        needed = (spec.clip_size, spec.sam_longest) if spec.reduced_decoding else None
        image, whole = images.read_photo(record["image"], name=name, at_least=needed)
        spans, masks, size = ground_truth(record, spec, whole)
    except (images.ImageError, regions.RegionError, json.JSONDecodeError) as error:
        raise ExampleError(f"record {name}: {error}") from error
    used = spans[:spec.mask_slots]
    text = conversation.encode_example(tokenizer, question_of(record, spec),
                                       answer_of(record, used), length=length or spec.text_length)
    if not text.truncated and text.num_segs != len(used):
        raise ExampleError(f"record {name}: {text.num_segs} [SEG] tokens for {len(used)} masks")
    packed, valid = regions.place_bits(masks[:text.num_segs], spec.mask_slots, spec.mask_canvas)
    return image_fields(image, spec) | {
        "original_size": np.array(size, np.int32), "ids": text.ids, "valid": text.valid,
        "loss_mask": text.loss_mask & bool(record["caption"]),
        "masks": packed, "mask_valid": valid,
        "label": np.int32(record["label"]),
        "dropped": np.int32(len(record["regions"]["start"]) - valid.sum())}


def text_length(record: Mapping, tokenizer: Tokenizer, spec: ExampleSpec) -> int:
    """Number of ids of a record's conversation if no region turns out to be unusable."""
    spans = sorted((int(start), int(end)) for start, end in zip(
        record["regions"]["start"], record["regions"]["end"], strict=True) if start >= 0)
    text = conversation.build_conversation(
        question_of(record, spec), answer_of(record, spans[:spec.mask_slots]))
    return len(tokenizer.encode_with_image(text))


def blank_example(tokenizer: Tokenizer, spec: ExampleSpec, length: int | None = None) -> dict:
    """An example no loss counts: in place of a record that cannot be used."""
    length, canvas = length or spec.text_length, spec.mask_canvas
    text = conversation.encode_example(tokenizer, spec.instruction, "", length=length)
    black = np.zeros((spec.sam_longest, spec.sam_longest, 3), np.uint8)
    return image_fields(black, spec) | {
        "original_size": np.full(2, min(spec.sam_longest, canvas), np.int32), "ids": text.ids,
        "valid": text.valid, "loss_mask": np.zeros(length, bool),
        "masks": np.zeros((spec.mask_slots, canvas, canvas // 8), np.uint8),
        "mask_valid": np.zeros(spec.mask_slots, bool), "label": np.int32(-1),
        "dropped": np.int32(0)}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
