"""What is asked of a photo and what is answered."""

import dataclasses

import numpy as np
from absl import flags

from input_pipeline.errors import UserError
from input_pipeline.photos.regions import union_of
from input_pipeline.records import verdict_classes
from input_pipeline.text import conversation, verdict_words
from input_pipeline.text.dialogue import DIALOGUES, LEGION, dialogue_named
from legion_jax.weights.legion_json import Meta

# Which photos get their explanation and masks: those not judged real, all, none.
# `fakes` lets the language model answer for every photo, so that its words can be compared with
# the verdict, and withholds what it says of a real one; `skim` leaves it out for those.
EXPLAIN = ("fakes", "always", "skim", "never")


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked and how much may be answered.

    Attributes:
        instruction: the user's question.
        sam_longest: longest side of the photo on SAM's canvas, in pixels; 0: the whole canvas.
        max_new_tokens: length of an answer; mask_slots: masks per answer.
        dialogue: name of what is written around the question.
    """

    instruction: str = conversation.INSTRUCTION
    sam_longest: int = 0
    max_new_tokens: int = 512
    mask_slots: int = 16
    dialogue: str = LEGION.name

    @classmethod
    def of(cls, meta: Meta, dialogue: str = "") -> "Question":
        """What a checkpoint was trained to be asked, by its legion.json.

        `dialogue`: the name of another one to ask it in, as a flag of `define_dialogue_flag`.
        """
        usual = {"dialogue": meta.dialogue,
                 "instruction": dialogue_named(meta.dialogue).instruction}
        other = {"dialogue": dialogue_named(dialogue, "--dialogue").name} if dialogue else {}
        return cls(**usual | meta.question | other)


@dataclasses.dataclass(frozen=True)
class Region:
    """An artifact named in an explanation.

    Attributes:
        phrase: what is wrong; start, end: where the explanation says so, in characters.
        detail: the explanation's words about it.
        mask: bool[H, W], or None when the model gave no [SEG] or had no slot left for it.
        score: mean mask probability inside the mask, 0 without one.
    """

    phrase: str
    start: int
    end: int
    detail: str
    mask: np.ndarray | None
    score: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Result for one photo.

    The verdict head decides, or the words where there is none; explanation, answer and regions are
    empty where they are withheld.

    Attributes:
        verdict: a class's name: the most probable one, or what the words say. None where photos
            are not judged, the answer has no [CLS] for the head, or the words say neither.
        probability: of that class, calibrated where the checkpoint was; None where nothing tells.
        fake_probability: 1 - probability of the class that means real, or None.
        words: "real" or "fake" by the language model's words; None where they say neither, or
            where it was not asked.
        explanation: readable text; answer: the text as decoded, tags included.
        finished: False when the answer was cut at the length limit.
        size: (height, width) of the photo.
        withheld: explanation and masks are left out, because the verdict means real or because
            none were asked for.
        by_words: the system has no head, so that its verdict is `words`; it may have a
            fake_probability, of the words for real and fake, and then a probability.
        classes: names of what the verdict may be; none where photos are not judged.
    """

    verdict: str | None
    probability: float | None
    fake_probability: float | None
    words: str | None
    explanation: str
    answer: str
    finished: bool
    size: tuple[int, int]
    regions: list[Region]
    withheld: bool = False
    by_words: bool = False
    classes: tuple[str, ...] = ()

    @property
    def words_agree(self) -> bool | None:
        """Whether the language model's words say what the verdict says; None where either is None,
        and where they are the verdict.
        """
        if self.verdict is None or self.words is None or self.by_words:
            return None
        return (self.words == verdict_words.REAL) == verdict_classes.means_real(self.verdict)

    @property
    def mask(self) -> np.ndarray:
        """Union of all masks, bool[H, W]."""
        return union_of((region.mask for region in self.regions if region.mask is not None),
                        self.size)


def probability_of(verdict: str | None, fake_probability: float | None) -> float | None:
    """Of a verdict, real or not, by the probability of fake; None where either is None."""
    if verdict is None or fake_probability is None:
        return None
    return 1 - fake_probability if verdict_classes.means_real(verdict) else fake_probability


def define_dialogue_flag() -> None:
    """The flag of commands that ask a model: --dialogue."""
    flags.DEFINE_string("dialogue", "", f"What is written around the question, one of "
                        f"{', '.join(DIALOGUES)}; by default what the model was trained with.")


def check_explain(explain: str) -> None:
    """Raises UserError for a word that is not one of EXPLAIN."""
    if explain not in EXPLAIN:
        raise UserError(f"explain: {', '.join(EXPLAIN)}, not {explain!r}")
