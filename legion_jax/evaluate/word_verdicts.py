"""What decides the verdict on a photo: a head, or a rule that reads it from the answer's words.

A system without a verdict head is judged by its words. By our rule an answer may say neither real
nor fake; it then has no verdict, which is counted and scored as a wrong one. By FakeVLM's published
rule it gets one by lot.
"""

import dataclasses

from input_pipeline.errors import UserError
from input_pipeline.text import verdict_words
from legion_jax.predict.prediction import Prediction, probability_of

HEAD, WORDS, FAKEVLM = "head", "words", "fakevlm"


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The verdict on a photo and where it comes from.

    Attributes:
        verdict, probability: as of `Prediction`.
        by: HEAD, WORDS or FAKEVLM; None of a system that does not judge.
        drawn: by lot.
        words_agree: whether the words, by our rule, say what the verdict says; None where they say
            nothing, where there is no verdict, and where they are the verdict.
    """

    verdict: str | None
    probability: float | None
    by: str | None
    drawn: bool = False
    words_agree: bool | None = None


def judge(prediction: Prediction, rule: str | None, *, photo: str, question: str) -> Judgement:
    """The judgement on a photo.

    Args:
        rule: None, the system's own: its head, or our reading of its words; or FAKEVLM.
        photo: its id, which decides what is drawn; question: as it was asked.

    Raises:
        UserError: FAKEVLM of a system that does not judge by words.
    """
    if rule is None:
        judges = prediction.verdict is not None or prediction.classes
        by = WORDS if prediction.by_words else HEAD if judges else None
        return Judgement(prediction.verdict, prediction.probability, by,
                         words_agree=prediction.words_agree)
    if not prediction.by_words:
        raise UserError(f"photo {photo}: its verdict cannot be read by the rule {rule}, as it is "
                        f"not the words that judge in this system")
    response = verdict_words.published_response(question + prediction.answer)
    verdict = verdict_words.published_verdict(response, verdict_words.draw_of(photo))
    return Judgement(
        verdict.word, probability_of(verdict.word, prediction.fake_probability), FAKEVLM,
        drawn=verdict.drawn,
        words_agree=None if prediction.words is None else prediction.words == verdict.word)


def source_of(rows: list[dict]) -> str | None:
    """What judged the photos of these rows, as of `Judgement.by`; rows of older evaluations, which
    do not tell, were judged by a head or not at all.
    """
    return next((row["verdict_by"] for row in rows if row.get("verdict_by")), None)


def lacks_verdict(row: dict) -> bool:
    """Whether what was to judge the photo of this row found no verdict in the answer: words that
    say neither real nor fake, or no [CLS] for a head to read.
    """
    return row.get("verdict_by") is not None and row["verdict"] is None


def is_by_words(row: dict) -> bool:
    """Whether a rule read the verdict of this row from words, or found none in them."""
    return row.get("verdict_by") in (WORDS, FAKEVLM)
