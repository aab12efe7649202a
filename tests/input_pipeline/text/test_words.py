"""Words, and places of phrases as whole words, in several scripts."""

import random
import re

import pytest

from input_pipeline.text.conversation import locate_phrases
from input_pipeline.text.words import splits_word, wholeness


@pytest.mark.parametrize("caption, phrase, place", [
    ("The handle looks fine, but the hand has six fingers.", "hand", 31),
    ("The texture appears smeared near the ear of the dog.", "ear", 37),
    ("Eyebrows and eyelids are fine; the left eye is not round.", "eye", 40),
    ("The design is odd and the sign is unreadable.", "sign", 26),
    ("A left-hand glove beside a hand.", "hand", 27),  # tied words come second
    ("The handle and the hands.", "hand", 19),  # a plural before the inside of a word
    ("The handle and the left-hand side.", "hand", 24),
    ("The dog's ear and the dog.", "dog", 22),
    ("The handle is bent.", "hand", 4),  # where nothing else is left
    ("Größe und Gr.", "Gr", 10), ("Рукав и рука, рука", "рука", 8),
    ("naïve na", "na", 6), ("nai\u0308ve nai", "nai", 7),  # an accent of its own is no end
    ("左手有六根手指", "手", 1), ("มือซ้าย", "ซ้าย", 3), ("snake_case case", "case", 11),
    ("hand", "hand", 0), ("(hand)", "hand", 1), ("hand- or foot", "hand", 0)])
def test_a_phrase_stands_at_whole_words_first(caption, phrase, place):
    assert locate_phrases(caption, [phrase]) == [(place, place + len(phrase))]


def test_equal_phrases_take_the_better_places_first():
    assert locate_phrases("hand, handle, hands, hand", 5 * ["hand"]) == [
        (0, 4), (21, 25), (14, 18), (6, 10), None]


@pytest.mark.parametrize("caption, span, kind", [
    ("a hand.", (2, 6), 0), ("a handle", (2, 6), 2), ("hands", (0, 4), 1), ("boxes", (0, 3), 1),
    ("left-hand", (5, 9), 1), ("left - hand", (7, 11), 0), ("unhand", (2, 6), 2),
    ("六根手指", (2, 4), 0), ("handsome", (0, 4), 2)])
def test_wholeness(caption, span, kind):
    assert wholeness(caption, *span) == kind


@pytest.mark.parametrize("seed", range(200))
def test_places_are_those_of_a_plain_pattern(seed):
    """Of ASCII, against the word boundaries of Python's own patterns."""
    rng = random.Random(seed)
    caption = "".join(rng.choices("aab .,9", k=60))
    phrase = "".join(rng.choices("ab", k=rng.randint(1, 3)))
    whole = re.search(rf"\b{phrase}\b", caption)
    plain = caption.find(phrase)
    place = whole.start() if whole else plain
    found, = locate_phrases(caption, [phrase])
    assert found == (None if plain < 0 else (place, place + len(phrase)))
    for number in range(len(caption) + 1):
        assert splits_word(caption, number) == bool(re.compile(r"\B").match(
            caption, number) and 0 < number < len(caption) and caption[number].isalnum())
