"""The words around an image: prompt, tagged answer, training targets, and the answer read back.

One conversation has one image, one instruction and one answer. In the answer every explained
artifact is written `<p> phrase </p> [SEG]`, and each `[SEG]` becomes one mask (LEGION paper,
following GLaMM's grounded conversations).
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from input_pipeline.errors import UserError
from input_pipeline.text import words
from input_pipeline.text.tokenizer import ADDED_TOKENS, IMAGE_ID, IMAGE_TOKEN, Tokenizer

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
INSTRUCTION = (
    "Please provide a detailed analysis of artifacts in this photo, considering physical "
    "artifacts (e.g., optical display issues, violations of physical laws, and "
    "spatial/perspective errors), structural artifacts (e.g., deformed objects, asymmetry, or "
    "distorted text), and distortion artifacts (e.g., color/texture distortion, noise/blur, "
    "artistic style errors, and material misrepresentation). Output with interleaved "
    "segmentation masks for the corresponding parts of the answer."
)

_TAGS = (*ADDED_TOKENS, IMAGE_TOKEN, "<s>", "</s>", "<unk>")
_TAG = re.compile("(" + "|".join(map(re.escape, _TAGS)) + ")")


def build_prompt(instruction: str = INSTRUCTION) -> str:
    """Returns the text the answer follows: system, user message with image, `ASSISTANT:`."""
    picture = f"The <im_start>{IMAGE_TOKEN}<im_end> provides an overview of the picture."
    return f"{SYSTEM} USER: {picture}\n{instruction} ASSISTANT:"


def build_conversation(instruction: str, answer: str) -> str:
    """Returns the whole training text: prompt, a space, the answer and its `</s>`."""
    return f"{build_prompt(instruction)} {answer}</s>"


MOST_TRIES = 100_000


def locate_phrases(caption: str, phrases: Sequence[str]) -> list[tuple[int, int] | None]:
    """Finds one place for each phrase, no two sharing a character.

    Longer phrases choose first, so a phrase that also occurs inside a longer one gets another
    place of its own. Places as whole words come first, those inside of words ("hand" in "handle")
    last; among alike ones equal phrases take their occurrences in the order given.

    Returns:
        Per phrase its (start, end) in characters of `caption`, or None where no free place is
        left; empty phrases have none.
    """
    spans: list[tuple[int, int] | None] = [None] * len(phrases)
    places = FreePlaces(caption)
    for index in sorted(range(len(phrases)), key=lambda i: -len(phrases[i])):
        spans[index] = places.take(phrases[index])
    return spans


class FreePlaces:
    """Places of phrases in a text, none of which shares a character with one taken before."""

    def __init__(self, text: str):
        self._text, self._tries = text, MOST_TRIES
        self._taken = np.zeros(len(text), bool)
        self._left: dict[str, list[int]] = {}  # of each phrase that was asked for, the best last

    def take(self, phrase: str) -> tuple[int, int] | None:
        """(start, end) of the best free place, which is then taken; None where there is none.

        The best is the first as whole words, see `words.wholeness`. A text has MOST_TRIES places
        for all phrases together; only a hostile one has more.
        """
        if phrase not in self._left:
            self._left[phrase] = sorted(self._places(phrase), key=lambda start: (
                -words.wholeness(self._text, start, start + len(phrase)), -start))
        while left := self._left[phrase]:
            start = left.pop()
            end = start + len(phrase)
            if not self._taken[start:end].any():
                self._taken[start:end] = True
                return start, end
        return None

    def _places(self, phrase: str) -> Iterator[int]:
        start = self._text.find(phrase) if phrase else -1
        while start >= 0 and self._tries > 0:
            self._tries -= 1
            yield start
            start = self._text.find(phrase, start + 1)


def tag_phrases(caption: str, spans: Sequence[tuple[int, int]]) -> str:
    """Rewrites every span of `caption` as `<p> phrase </p> [SEG]`, everything else untouched.

    `spans` are (start, end) in characters, in any order; the k-th `[SEG]` belongs to the k-th
    span from the left. Raises ValueError naming a span that is empty, out of range or overlaps.
    """
    parts, done = [], 0
    for start, end in sorted(spans):
        if not 0 <= start < end <= len(caption):
            raise UserError(f"span ({start}, {end}) is not inside 0 to {len(caption)}")
        if start < done:
            raise UserError(f"span ({start}, {end}) overlaps the one that ends at {done}")
        parts += [caption[done:start], f"<p> {caption[start:end]} </p> [SEG]"]
        done = end
    return "".join([*parts, caption[done:]])


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One training text of fixed length N.

    ids int32[N]: right-padded with the tokenizer's `pad_id`; IMAGE_ID once.
    valid bool[N]: True on real ids, False on padding.
    loss_mask bool[N]: True where the id itself is a target, so `logits[n - 1]` is scored
        against `ids[n]`: the answer and its `</s>`.
    truncated: ids were cut off at the end; the last `[SEG]`s and `</s>` may be gone.
    num_segs: `[SEG]`s that are left.
    """

    ids: np.ndarray
    valid: np.ndarray
    loss_mask: np.ndarray
    truncated: bool
    num_segs: int


def encode_prompt(tokenizer: Tokenizer, instruction: str = INSTRUCTION) -> np.ndarray:
    """Returns the prompt's ids, int32[T], `<s>` first and IMAGE_ID once."""
    return np.array(_prompt_ids(tokenizer, instruction), np.int32)


@functools.lru_cache(64)
def _prompt_ids(tokenizer: Tokenizer, instruction: str) -> tuple[int, ...]:
    ids = tokenizer.encode_with_image(build_prompt(instruction))
    image_index(ids)
    return tuple(ids)


def image_index(ids: np.ndarray | Sequence[int]) -> int:
    """Returns the place of the one IMAGE_ID in `ids`; ValueError when there is not exactly one."""
    places = np.flatnonzero(np.asarray(ids) == IMAGE_ID)
    if len(places) != 1:
        raise UserError(f"expected one image in {len(ids)} ids, found {len(places)}")
    return int(places[0])


def encode_example(tokenizer: Tokenizer, instruction: str, answer: str, *, length: int) -> Encoded:
    """Encodes a conversation for training; fields and shapes as in `Encoded`.

    What exceeds `length` is cut off without regard to meaning, as the published code does.
    Raises ValueError when the prompt alone fills `length`, or an image is hidden in the texts.
    """
    prompt = encode_prompt(tokenizer, instruction)
    text = build_conversation(instruction, answer)
    ids = np.asarray(tokenizer.encode_with_image(text), np.int32)
    image_index(ids)
    if length <= len(prompt):
        raise UserError(f"the prompt takes {len(prompt)} ids, only {length} are allowed in all")
    if not np.array_equal(ids[: len(prompt)], prompt):
        raise UserError(f"{tokenizer.name}: the answer changes the ids of the prompt before it")
    used = ids[:length]
    padded = np.full(length, tokenizer.pad_id, np.int32)
    padded[: len(used)] = used
    position = np.arange(length)
    valid = position < len(used)
    return Encoded(
        ids=padded,
        valid=valid,
        loss_mask=valid & (position >= len(prompt)),
        truncated=len(ids) > length,
        num_segs=int(np.count_nonzero(used == tokenizer.seg_id)),
    )


@dataclasses.dataclass(frozen=True)
class AnswerRegion:
    """One artifact of an answer.

    `explanation[start:end] == phrase`, in characters; a `[SEG]` without a phrase has an empty
    one. `detail` is what the answer says after this `[SEG]` (or `</p>`, where none follows) and
    before the next `<p>`. `seg_index` counts the answer's `[SEG]`s from 0; None: no mask.
    """

    phrase: str
    start: int
    end: int
    detail: str
    seg_index: int | None


@dataclasses.dataclass(frozen=True)
class ParsedAnswer:
    """An answer for people: clean text, and its regions in the order of the text."""

    explanation: str
    regions: list[AnswerRegion]


def parse_answer(text: str) -> ParsedAnswer:
    """Reads a decoded answer (generated ids only); accepts any text and never raises.

    Tags are removed and every run of white space becomes one space, newlines included (the
    published code deletes newlines and joins the words around them). A `[SEG]` goes to the
    phrase before it, closing its `<p>` if need be; a `<p>` that nothing closes is forgotten.
    """
    clean = ""
    regions: list[AnswerRegion] = []
    details: list[tuple[int, int]] = []  # per region: where its detail starts, `<p>`s before that
    openings: list[int] = []  # where each `<p>` stands
    opened = False
    segs = 0
    for part in _TAG.split(text):
        end = len(clean)
        if part == "<p>":
            openings.append(end)
            opened = True
        elif part in ("</p>", "[SEG]"):
            phrase = clean[openings[-1] :].strip() if opened else ""
            opened = False
            if phrase:
                regions.append(AnswerRegion(phrase, end - len(phrase), end, "", None))
                details.append((end, len(openings)))
            if part == "[SEG]":
                if not regions or regions[-1].seg_index is not None:
                    regions.append(AnswerRegion("", end, end, "", None))
                    details.append((end, len(openings)))
                regions[-1] = dataclasses.replace(regions[-1], seg_index=segs)
                details[-1] = (end, len(openings))
                segs += 1
        elif part not in _TAGS:
            clean = " ".join([clean, *part.split()]).strip()
    openings.append(len(clean))  # the last detail ends with the text
    for number, (start, before) in enumerate(details):
        detail = clean[start : openings[before]].strip().lstrip(": ")
        regions[number] = dataclasses.replace(regions[number], detail=detail)
    return ParsedAnswer(clean, regions)
