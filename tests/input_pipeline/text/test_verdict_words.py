"""What words say of a photo, by our rule and by FakeVLM's."""

import collections

import family_golden
import pytest

from input_pipeline.text.conversation import AnswerRegion
from input_pipeline.text.verdict_words import (
    FAKE,
    REAL,
    PublishedVerdict,
    draw_of,
    published_response,
    published_verdict,
    verdict_of_words,
)

WORDS = {1: REAL, 0: FAKE}  # the numbers of the published labels


class NoDraw:
    """A draw that nobody may ask for."""

    def choice(self, options):
        raise AssertionError(f"drawn from {options}")


def said(text):
    """A verdict that must not be drawn."""
    return published_verdict(text, NoDraw())


def check(text, wanted, photo="a"):
    """`wanted`: as the published code says it, 1, 0 or "random"."""
    verdict = published_verdict(text, draw_of(photo))
    assert verdict.drawn == (wanted == "random"), text
    if not verdict.drawn:
        assert verdict == PublishedVerdict(WORDS[wanted], drawn=False) == said(text), text


@pytest.mark.parametrize(("text", "ours", "published"), [
    ("This is a real image. The light is even.", REAL, REAL),
    ("This is a fake image. The hand has six fingers.", FAKE, FAKE),
    ("It is not real.", FAKE, REAL), ("It is not fake.", REAL, FAKE),
    ("The scene is unrealistic. It is fake.", FAKE, REAL), ("Surreal.", None, REAL),
    ("A dog. A cat. It is fake.", FAKE, None), ("The image v1.5 is fake.", FAKE, FAKE),
    ("", None, None), ("...real", REAL, None), ("FAKE", FAKE, FAKE), ("fakery", None, FAKE)])
def test_the_two_rules_differ_where_they_should(text, ours, published):
    assert verdict_of_words(text) == ours
    if published:
        assert said(text) == PublishedVerdict(published, drawn=False)
    else:
        assert published_verdict(text, draw_of("a")).drawn


def test_an_answer_that_names_an_artifact_says_fake():
    assert verdict_of_words("It is real.", [AnswerRegion("hand", 0, 4, "", None)]) == FAKE


def test_a_response_begins_behind_the_last_question_mark():
    assert published_response("Real or fake? It is fake.") == " It is fake."
    assert published_response("Is it real? Fake. Is it? I guess") == " I guess"
    assert published_response("Real or fake? Fake?") == ""
    assert published_response("Say real or fake: fake") == "Say real or fake: fake"


def test_a_draw_depends_on_photo_and_seed_alone():
    photos = [f"test_{number}.png" for number in range(400)]
    words = {photo: published_verdict("", draw_of(photo)).word for photo in photos}
    again = {photo: published_verdict("No word", draw_of(photo)).word for photo in photos[::-1]}
    assert words == again
    assert 150 < collections.Counter(words.values())[REAL] < 250
    other = {photo: published_verdict("", draw_of(photo, seed=1)).word for photo in photos}
    assert 100 < sum(words[photo] != other[photo] for photo in photos) < 300
    drawn = "".join(published_verdict("", draw_of(photo)).word[0] for photo in "abcdefghijkl")
    assert drawn == "rrfrrrrrrrrf"  # as drawn once, or runs of other days would differ


def test_verdicts_of_the_published_code():
    rows = family_golden.read(family_golden.folder("F"), "meta.json")["verdicts"]
    assert len(rows) > 20 and any(row["verdict"] == "random" for row in rows)
    for row in rows:
        check(row["text"], row["verdict"])
        check(published_response(row["text"]), row["verdict_after_last_question_mark"])


@pytest.mark.parametrize("asked", ["eval_raw_old_processor", "eval_raw", "eval_chat"])
def test_responses_of_the_published_code(asked):
    answers = family_golden.read(family_golden.folder("F"), "meta.json")["eval"][asked]
    for decoded, response, verdict in zip(
            answers["decoded"], answers["response"], answers["verdict"], strict=True):
        assert published_response(decoded) == response
        check(response, verdict)
