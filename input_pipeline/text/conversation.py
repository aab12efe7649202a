"""The words around an image: prompt, tagged answer, training targets, and the answer read back.

What is written around them is a `Dialogue`, by default LEGION's: one image, one instruction and
one answer, in which every explained artifact is written `<p> phrase </p> [SEG]`, and each `[SEG]`
becomes one mask (LEGION paper, following GLaMM's grounded conversations).
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from input_pipeline.errors import UserError
from input_pipeline.text import words
from input_pipeline.text.dialogue import LEGION, Dialogue, Part
from input_pipeline.text.tokenizer import IMAGE_ID, IMAGE_TOKEN, Tokenizer

SYSTEM = LEGION.system
INSTRUCTION = LEGION.instruction

_CONTROL = (IMAGE_TOKEN, "<s>", "</s>", "<unk>")


@functools.cache
def _tags(dialogue: Dialogue) -> re.Pattern:
    """What is no text for people in an answer; the pattern has one group."""
    return re.compile("(" + "|".join(map(re.escape, {*dialogue.tokens, *_CONTROL})) + ")")


def build_prompt(instruction: str = INSTRUCTION) -> str:
    """Returns the text the answer follows: system, user message with image, `ASSISTANT:`."""
    return LEGION.prompt(instruction)


def build_conversation(instruction: str, answer: str, *, dialogue: Dialogue = LEGION) -> str:
    """Returns the whole training text: in LEGION prompt, a space, the answer and its `</s>`."""
    return _text(dialogue.parts([(instruction, answer)]))


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


def tag_phrases(caption: str, spans: Sequence[tuple[int, int]], *,
                dialogue: Dialogue = LEGION) -> str:
    """Rewrites every span of `caption` as the dialogue's `region`, everything else untouched.

    `spans` are (start, end) in characters, in any order; the k-th `[SEG]` belongs to the k-th
    span from the left. Raises ValueError naming a span that is empty, out of range or overlaps.
    """
    parts, done = [], 0
    for start, end in sorted(spans):
        if not 0 <= start < end <= len(caption):
            raise UserError(f"span ({start}, {end}) is not inside 0 to {len(caption)}")
        if start < done:
            raise UserError(f"span ({start}, {end}) overlaps the one that ends at {done}")
        parts += [caption[done:start], dialogue.region.format(phrase=caption[start:end])]
        done = end
    return "".join([*parts, caption[done:]])


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One training text of fixed length N.

    ids int32[N]: right-padded with the tokenizer's `pad_id`; IMAGE_ID once for each image.
    valid bool[N]: True on real ids, False on padding.
    loss_mask bool[N]: True where the id itself is a target, so `logits[n - 1]` is scored
        against `ids[n]`: what the dialogue lets be learned, in LEGION the answer and its `</s>`.
    truncated: ids were cut off at the end; the last `[SEG]`s and `</s>` may be gone.
    num_segs: `[SEG]`s that are left.
    """

    ids: np.ndarray
    valid: np.ndarray
    loss_mask: np.ndarray
    truncated: bool
    num_segs: int


def encode_prompt(tokenizer: Tokenizer, instruction: str = INSTRUCTION, *,
                  dialogue: Dialogue = LEGION) -> np.ndarray:
    """Returns the prompt's ids, int32[T], `<s>` first and IMAGE_ID once.

    Raises UserError when an image is hidden in the instruction, or the tokenizer is not one for
    the dialogue.
    """
    ids = _prompt_ids(tokenizer, dialogue, dialogue.prompt(instruction))
    image_index(ids)
    return np.array(ids, np.int32)


@functools.lru_cache(64)
def _prompt_ids(tokenizer: Tokenizer, dialogue: Dialogue, text: str) -> tuple[int, ...]:
    dialogue.check_tokenizer(tokenizer)
    return tuple(tokenizer.encode_with_image(text))


def image_index(ids: np.ndarray | Sequence[int]) -> int:
    """Returns the place of the one IMAGE_ID in `ids`; ValueError when there is not exactly one."""
    return int(_image_places(ids, 1)[0])


def _image_places(ids: np.ndarray | Sequence[int], number: int) -> np.ndarray:
    places = np.flatnonzero(np.asarray(ids) == IMAGE_ID)
    if len(places) != number:
        wanted = "one image" if number == 1 else f"{number} images"
        raise UserError(f"expected {wanted} in {len(ids)} ids, found {len(places)}")
    return places


def encode_example(tokenizer: Tokenizer, instruction: str, answer: str, *, length: int) -> Encoded:
    """Encodes LEGION's conversation for training, see `encode_turns`."""
    return encode_turns(tokenizer, [(instruction, answer)], length=length)


def encode_turns(tokenizer: Tokenizer, turns: Sequence[tuple[str, str]], *, length: int,
                 dialogue: Dialogue = LEGION, patches: int = 1,
                 learned: Literal["answers", "all", "nothing"] = "answers") -> Encoded:
    """Encodes a conversation for training; fields and shapes as in `Encoded`.

    What exceeds `length` is cut off without regard to meaning, as the published code does.

    Args:
        turns: (question, answer) of each.
        length: positions of a row, of which an image takes `patches`; rows of one image have
            N = length - patches + 1 ids.
        learned: "all" with questions, images and `<s>`; "nothing" of a sample that lacks what is
            to be learned.

    Raises:
        UserError: when the prompt alone fills `length`, an image is cut off or hidden in the
            texts, or the tokenizer is not one for the dialogue.
    """
    parts = dialogue.parts(turns)
    prompt = _prompt_ids(tokenizer, dialogue, parts[0].text)
    ids, ends = tokenizer.encode_with_ends(_text(parts))
    places = _image_places(ids, sum(part.images for part in parts))
    before = len(prompt) + (patches - 1) * parts[0].images
    if length <= before:
        raise UserError(f"the prompt takes {before} ids, only {length} are allowed in all")
    if not np.array_equal(ids[: len(prompt)], prompt):
        raise UserError(f"{tokenizer.name}: the answer changes the ids of the prompt before it")
    size = length - (patches - 1) * len(places)
    if places[-1] >= size:
        raise UserError(f"{length} positions cut off the last of {len(places)} images")
    used = ids[:size]
    padded = np.full(size, tokenizer.pad_id, np.int32)
    padded[: len(used)] = used
    valid = np.arange(size) < len(used)
    targets = {"all": valid, "nothing": np.zeros(size, bool)}.get(learned)
    if targets is None:
        targets = np.zeros(size, bool)
        targets[: len(used)] = _learned(ends, parts)[:size]
    return Encoded(
        ids=padded,
        valid=valid,
        loss_mask=targets,
        truncated=len(ids) > size,
        num_segs=int(np.count_nonzero(used == tokenizer.seg_id)),
    )


def _text(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts)


def _learned(ends: np.ndarray, parts: Sequence[Part]) -> np.ndarray:
    """Which tokens are targets, bool[T]; `ends` are the characters they end at, int[T].

    Of every learned part: from the token its first character belongs to up to the one its last
    character belongs to, each whole, even where it also holds characters of a part beside it.
    """
    targets, start = np.zeros(len(ends), bool), 0
    for part in parts:
        end = start + len(part.text)
        if part.learned:
            first, last = np.searchsorted(ends, (start, end - 1), side="right")
            targets[first:last + 1] = True
        start = end
    return targets


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


def parse_answer(text: str, *, dialogue: Dialogue = LEGION) -> ParsedAnswer:
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
    for number, part in enumerate(_tags(dialogue).split(text)):
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
        elif not number % 2:
            clean = " ".join([clean, *part.split()]).strip()
    openings.append(len(clean))  # the last detail ends with the text
    for number, (start, before) in enumerate(details):
        detail = clean[start : openings[before]].strip().lstrip(": ")
        regions[number] = dataclasses.replace(regions[number], detail=detail)
    return ParsedAnswer(clean, regions)
