"""What the words of an answer say of a photo: real, fake, or nothing.

Two rules: ours, `verdict_of_words`, and the one that FakeVLM's published numbers were counted by.
"""

import dataclasses
import random
import re
from collections.abc import Sequence

from input_pipeline.text.conversation import AnswerRegion

REAL, FAKE = "real", "fake"
_WORDS = {
    REAL: {"real", "authentic", "genuine", "unaltered", "unedited"},
    FAKE: {"fake", "synthetic", "generated", "artificial", "manipulated", "tampered", "edited",
           "altered", "forged", "deepfake", "artifact", "artifacts", "artefact", "artefacts",
           "anomaly", "anomalies"}}
_NOT = {"not", "no", "without", "never", "neither", "nor", "isn't", "doesn't", "wasn't", "aren't",
        "cannot", "can't", "hardly", "free"}
_REACH = 4  # words that a negation reaches back over


def verdict_of_words(explanation: str, regions: Sequence[AnswerRegion] = ()) -> str | None:
    """REAL, FAKE or None where the words do not say.

    An answer that names an artifact says fake. In any other the first word of either meaning
    counts, whole words only ("unrealistic" says nothing); a negation up to four words before it,
    in the same sentence, turns it around.
    """
    if regions:
        return FAKE
    for sentence in re.split(r"[.!?;\n]", explanation.lower().replace("’", "'")):
        words = re.findall(r"[a-z']+", sentence)
        for position, word in enumerate(words):
            for meaning, other in ((REAL, FAKE), (FAKE, REAL)):
                if word in _WORDS[meaning]:
                    before = words[max(0, position - _REACH):position]
                    return other if _NOT.intersection(before) else meaning
    return None


@dataclasses.dataclass(frozen=True)
class PublishedVerdict:
    """A verdict by FakeVLM's rule: REAL or FAKE; `drawn`: by lot, as the words say neither."""

    word: str
    drawn: bool


def published_verdict(response: str, draw: random.Random) -> PublishedVerdict:
    """The verdict that FakeVLM's evaluation reads from a response (see `published_response`).

    The text up to the first full stop decides, or else that up to the second. Wherever the letters
    "real" are in it, it says real, also in "unreal", "not real" and "fake or real"; else "fake"
    anywhere says fake. Where neither piece says anything, or there is no second, `draw` decides:
    the published code has no seed, `draw_of` makes the draw a matter of the photo alone.
    """
    for piece in response.lower().split(".")[:2]:
        for word in (REAL, FAKE):
            if word in piece:
                return PublishedVerdict(word, drawn=False)
    return PublishedVerdict(draw.choice((FAKE, REAL)), drawn=True)


def published_response(text: str) -> str:
    """What FakeVLM's evaluation takes for the response in a decoded text, question and answer.

    It is what stands behind the last question mark, so an answer that asks something is cut too,
    and without any question mark the question itself is judged.
    """
    return text.rpartition("?")[2]


def draw_of(photo: str, *, seed: int = 0) -> random.Random:
    """The draw of the photo with this id, whatever else is drawn, in any order, on any host."""
    return random.Random(f"{seed} {photo}")
