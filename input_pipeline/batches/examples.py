"""One record -> one training example of fixed shape, in numpy.

An example is what the compiled train step reads:

| key           | type                       | meaning                                             |
|---------------|----------------------------|-----------------------------------------------------|
| vision_image  | uint8[S, S, 3]             | the vision tower's view, see `photos.views`         |
| sam_image *   | uint8[C, C, 3]             | longest side resized, zero-padded right and bottom  |
| resized_size *| int32[2]                   | rows and columns of sam_image that are photo        |
| original_size*| int32[2]                   | rows and columns of the frame the masks live in     |
| ids           | int32[T]                   | conversation; the image placeholder is -200         |
| valid         | bool[T]                    | False at padding                                    |
| loss_mask     | bool[T]                    | True where the token is a target; the whole of it   |
|               |                            | False where the answer says no caption              |
| masks *       | uint8[K, M, M / 8]         | ground truth, one bit per pixel, in [SEG] order;    |
|               | or uint8[K, M, M]          | 0 to 255 with `soft_masks`                          |
| mask_valid *  | bool[K]                    | which slots hold a mask                             |
| label         | int32                      | -1 unknown, 0 real, 1 fully synthetic, 2 tampered   |
| dropped       | int32                      | masks without slot, cut off, not there, or too      |
|               |                            | small to see                                        |
| bad           | int32                      | 1 where the row replaces an unusable record, else 0 |

Those with a star only where masks are drawn: nothing is prepared for a model without SAM.

What is said of a photo, and what of it is masked, is up to the dialogue. A record whose texts hold
a token of the tokenizer is unusable: it would be read as that token.
"""

import dataclasses
import functools
import operator
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from input_pipeline.errors import UserError
from input_pipeline.photos import images, regions
from input_pipeline.photos.views import CanvasView, Fields, View
from input_pipeline.records.record import LABELS, UNKNOWN, Record, Region
from input_pipeline.text import conversation
from input_pipeline.text.dialogue import LEGION, Dialogue
from input_pipeline.text.tokenizer import Tokenizer


class ExampleError(UserError):
    """A record that cannot become an example; the message names it."""


@dataclasses.dataclass(frozen=True)
class ExampleSpec:
    """Fixed shapes of a run, what its towers want to see, and the question that is asked.

    Attributes:
        vision, sam: views of the towers; without `sam` no masks are drawn.
        text_length: ids of a row; mask_slots, mask_canvas: masks of a photo, and the side of the
            frame they are compared in, px.
        dialogue: what is written around questions and answers.
        own_questions: ask what the record asks, where it asks something.
        learn_labels: learn answers that say the record's label alone, too.
        soft_masks: masks are grey, in the frame of the photo as SAM sees it, antialiased like it.
        reduced_decoding: decode large training JPEGs at 1/2, 1/4 or 1/8 (images.py).
    """

    vision: View
    sam: CanvasView | None
    text_length: int
    mask_slots: int
    mask_canvas: int
    instruction: str
    dialogue: Dialogue = LEGION
    own_questions: bool = False
    learn_labels: bool = False
    soft_masks: bool = False
    reduced_decoding: bool = False

    def __post_init__(self):
        if self.mask_canvas % 8:
            raise UserError(f"mask_canvas: a multiple of 8, got {self.mask_canvas}")
        if self.soft_masks and self.mask_canvas < self.sam_longest:
            raise UserError(f"mask_canvas: {self.mask_canvas} px, but with soft_masks the photo as "
                            f"SAM sees it is the frame, whose longer side is {self.sam_longest}")

    @property
    def views(self) -> tuple[View, ...]:
        """Of all towers."""
        return (self.vision,) if self.sam is None else (self.vision, self.sam)

    @property
    def sam_longest(self) -> int:
        """Longer side of a photo in SAM's view, px; 0 where there is none."""
        return 0 if self.sam is None else self.sam.longest

    @property
    def least(self) -> tuple[int, int]:
        """(short side, long side) in px that the views need of a photo."""
        short, long = zip(*(view.least for view in self.views), strict=True)
        return max(short), max(long)


def view_fields(spec: ExampleSpec) -> Fields:
    """{name: (shape, dtype)} of what a model sees of one photo; part of `fields`."""
    return functools.reduce(operator.or_, (view.fields for view in spec.views))


def fields(spec: ExampleSpec, length: int | None = None) -> Fields:
    """{name: (shape, dtype)} of one example, the one list of them; the module says what they mean.

    `length` of the text instead of `spec.text_length`.
    """
    T, K, M = length or spec.text_length, spec.mask_slots, spec.mask_canvas
    masks = {} if spec.sam is None else {
        "original_size": ((2,), np.int32), "mask_valid": ((K,), np.bool_),
        "masks": ((K, M, M if spec.soft_masks else M // 8), np.uint8)}
    return view_fields(spec) | {
        "ids": ((T,), np.int32), "valid": ((T,), np.bool_), "loss_mask": ((T,), np.bool_),
        "label": ((), np.int32), "dropped": ((), np.int32), "bad": ((), np.int32)} | masks


def image_fields(image: np.ndarray | Image.Image, spec: ExampleSpec) -> dict[str, np.ndarray]:
    """The views of a photo, uint8[H, W, 3] or PIL's."""
    return functools.reduce(operator.or_, (view.see(image) for view in spec.views))


def frame_size(height: int, width: int, canvas: int) -> tuple[int, int, float]:
    """Size of the frame masks are compared in, and its scale against the photo.

    That is the photo itself unless it is larger than the mask canvas.
    """
    scale = min(1.0, canvas / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale)), scale


@dataclasses.dataclass(frozen=True)
class Truth:
    """What of a photo is masked.

    Attributes:
        masks: one per [SEG], from left to right: uint8[h, ceil(w / 8)] of bits, uint8[h, w] with
            `soft_masks`.
        spans: of the phrases in the caption that have them; None where the photo is masked as one.
        size: the (h, w) of their frame.
        wanted: how many there would be if all were there and could be seen.
    """

    masks: Sequence[np.ndarray]
    spans: Sequence[tuple[int, int]] | None
    size: tuple[int, int]
    wanted: int

    def segs(self, slots: int) -> int:
        """How many [SEG]s there are in the answer."""
        return self.wanted if self.spans is None else len(self.spans[:slots])


def ground_truth(record: Record, spec: ExampleSpec, size: tuple[int, int]) -> Truth:
    """The masks that the answer to a photo of `size` (height, width) asks for.

    Raises RegionError for one that covers no pixel of the photo, UserError where the dialogue has
    no answer for the record's label.
    """
    number = spec.dialogue.photo_masks(LABELS[record.label]) if spec.sam else 0
    *frame, scale = frame_size(*size, spec.mask_canvas)
    if spec.sam and spec.soft_masks:
        frame, scale = images.sam_size(*size, spec.sam.longest), 1.0
    frame = tuple(frame)
    if number:
        return Truth(_of_photo(record, spec, size, frame) * number, None, frame, number)
    if not (spec.sam and spec.dialogue.masks_phrases):
        return Truth([], [], frame, 0)
    spans, masks = _of_phrases(record, spec, size, (frame, scale))
    return Truth(masks, spans, frame, len(record.regions))


def _of_phrases(record, spec, size, frame):
    """Spans and masks of the regions whose phrase is in the caption; `frame`: size and scale."""
    spans, masks = [], []
    for region in _explained(record):
        try:
            mask = (regions.softly_resized(255 * region.pixels(size), frame[0])
                    if spec.soft_masks else region.bits(*frame))
        except regions.RegionError:
            if frame[1] == 1:
                raise
            continue  # too small to be seen in the reduced frame; counted as dropped
        if not spec.soft_masks or mask.any():
            spans.append((region.start, region.end))
            masks.append(mask)
    return spans, masks


def _of_photo(record, spec, size, frame):
    """One mask of all that is marked, none where nothing is or nobody looked."""
    marked = record.graded(size) if spec.soft_masks else record.marked(size)
    if marked is None:
        return []
    mask = (regions.softly_resized if spec.soft_masks else regions.resized)(marked, frame)
    if not mask.any():
        return []
    return [mask if spec.soft_masks else regions.mask_to_bits(mask)]


def _explained(record: Record) -> list[Region]:
    """The regions whose phrase is in the caption, from left to right; only they have a [SEG]."""
    return sorted((region for region in record.regions if region.start >= 0),
                  key=lambda region: (region.start, region.end))


def answer_of(record: Record, spans: Sequence[tuple[int, int]], spec: ExampleSpec) -> str:
    """What the model is to say, by the dialogue; `spans`: phrases of the caption with a mask.

    Raises UserError where the dialogue has no answer for the record's label.
    """
    caption = conversation.tag_phrases(record.caption, spans, dialogue=spec.dialogue)
    return spec.dialogue.answer_to(LABELS[record.label], caption)


def _is_learned(record: Record, spec: ExampleSpec) -> bool:
    return spec.dialogue.describes(record.caption) or (
        spec.learn_labels and bool(spec.dialogue.openings))


def question_of(record: Record, spec: ExampleSpec) -> str:
    """What is asked about a record."""
    return spec.own_questions and record.question or spec.instruction


def training_example(tokenizer: Tokenizer, spec: ExampleSpec, record: Record,
                     length: int | None = None) -> dict[str, np.ndarray]:
    """The example of a record (see `fields`); `length` instead of `spec.text_length`.

    Phrases beyond `mask_slots` stay plain text and are counted in `dropped`, like masks whose
    [SEG] was cut off with the text, and a [SEG] for which the record has no mask.

    Raises:
        ExampleError: naming the record, when its image or a polygon is unusable, a text holds a
            token, or the dialogue has no answer for its label.
    """
    try:
        needed = spec.least if spec.reduced_decoding else None
        image, whole = images.read_photo(record.image, name=record.id, at_least=needed)
        truth = ground_truth(record, spec, whole)
        views = image_fields(image, spec)
        spans = (truth.spans or [])[:spec.mask_slots]
        question, answer = _texts(record, spans, spec, tokenizer)
    except UserError as error:
        raise ExampleError(f"record {record.id}: {error}") from error
    text = _encoded(tokenizer, spec, question, answer, length)
    segs = truth.segs(spec.mask_slots)
    if spec.sam and not text.truncated and text.num_segs != segs:
        raise ExampleError(f"record {record.id}: {text.num_segs} [SEG] tokens for {segs} masks")
    masks = truth.masks[:min(text.num_segs, spec.mask_slots)]
    return views | {
        "ids": text.ids, "valid": text.valid,
        "loss_mask": text.loss_mask & _is_learned(record, spec),
        "label": np.int32(record.label), "dropped": np.int32(0), "bad": np.int32(0)} | (
        _mask_fields(spec, truth, masks) if spec.sam else {})


def _texts(record: Record, spans: Sequence[tuple[int, int]], spec: ExampleSpec,
           tokenizer: Tokenizer) -> tuple[str, str]:
    """Question and answer. Raises UserError for one of the record's own that holds a token."""
    question = question_of(record, spec)
    own = {"question": question if question is not spec.instruction else "",
           "caption": record.caption * spec.dialogue.describes(record.caption)}
    for name, text in own.items():
        if held := [token for token in tokenizer.added if token in text]:
            raise UserError(f"its {name} holds {held[0]}, a token of {tokenizer.name}")
    return question, answer_of(record, spans, spec)


def _encoded(tokenizer: Tokenizer, spec: ExampleSpec, question: str, answer: str,
             length: int | None) -> conversation.Encoded:
    return conversation.encode_turns(tokenizer, [(question, answer)], dialogue=spec.dialogue,
                                     length=length or spec.text_length)


def _mask_fields(spec: ExampleSpec, truth: Truth,
                 masks: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    place = regions.place_values if spec.soft_masks else regions.place_bits
    placed, valid = place(masks, spec.mask_slots, spec.mask_canvas)
    return {"original_size": np.array(truth.size, np.int32), "masks": placed, "mask_valid": valid,
            "dropped": np.int32(truth.wanted - valid.sum())}


def text_length(record: Record, tokenizer: Tokenizer, spec: ExampleSpec) -> int:
    """Number of ids of a record's conversation if no region turns out to be unusable."""
    phrases = _explained(record) if spec.sam and spec.dialogue.masks_phrases else []
    spans = [(region.start, region.end) for region in phrases]
    text = conversation.build_conversation(
        question_of(record, spec), answer_of(record, spans[:spec.mask_slots], spec),
        dialogue=spec.dialogue)
    return len(tokenizer.encode_with_image(text))


def blank_example(tokenizer: Tokenizer, spec: ExampleSpec,
                  length: int | None = None) -> dict[str, np.ndarray]:
    """An example no loss counts: in place of a record that cannot be used."""
    text = _encoded(tokenizer, spec, spec.instruction, "", length)
    size = {} if spec.sam is None else {
        "original_size": np.full(2, min(spec.sam.longest, spec.mask_canvas), np.int32)}
    return _zeros(fields(spec, length)) | blank_views(spec) | size | {
        "ids": text.ids, "valid": text.valid, "label": np.int32(UNKNOWN), "bad": np.int32(1)}


def blank_views(spec: ExampleSpec) -> dict[str, np.ndarray]:
    """The views of a black square photo: in place of one that cannot be read."""
    return functools.reduce(operator.or_, (view.blank() for view in spec.views))


def _zeros(shapes: Mapping[str, tuple[tuple[int, ...], type]]) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
