"""What the words of an answer say of a photo: real, fake, or nothing."""

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
    in the same sentence, turns it around. (The sub-string test of FakeVLM's parser takes "not
    real" for real and draws lots where it finds nothing.)
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
