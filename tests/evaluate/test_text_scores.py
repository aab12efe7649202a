"""Scores of explanations: by hand, and with an encoder that counts letters."""

import sys
import types

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from made_rows import random_rows
from rouge_score import rouge_scorer

from input_pipeline.errors import UserError
from legion_jax.evaluate import summary, text_scores


@pytest.mark.parametrize(
    ("prediction", "reference_text", "expected"),
    [
        ("the hand has six fingers", "the hand has six fingers", 1.0),
        ("The Hand!", "the hand", 1.0),
        ("the hand has six fingers", "the left hand shows six blurred fingers", 2 * 4 / (5 + 7)),
        ("fingers six", "six fingers", 0.5),  # order matters
        ("finger", "fingers", 0.0),  # no stemming
        ("", "six fingers", 0.0),
        ("", "", 0.0),
    ],
)
def test_texts_by_hand(prediction, reference_text, expected):
    assert text_scores.rouge_l(prediction, reference_text) == pytest.approx(expected)


@pytest.mark.parametrize("text, words", [
    ("左手有6根手指，边缘模糊。", [*"左手有", "6", *"根手指边缘模糊"]),
    ("Рука ИМЕЕТ шесть пальцев.", ["рука", "имеет", "шесть", "пальцев"]),
    ("Die Größe ist naïve_x", ["die", "größe", "ist", "naïve", "x"]),
    ("nai\u0308ve ｆｉｎｇｅｒ", ["naïve", "finger"]),  # in its parts, and of double width
    ("हाथ में छह", ["हाथ", "में", "छह"]), ("มือ", ["มื", "อ"]),
    ("손가락이 여섯", ["손가락이", "여섯"]), ("🖐 … !", []), ("", [])])
def test_words_of_any_script(text, words):
    assert text_scores.words(text) == words
    assert text_scores.rouge_l(text, text) == bool(words)


def test_other_words_score_nothing():
    assert text_scores.rouge_l("图像是真的", "左手有六根") == 0
    assert text_scores.rouge_l("naïve café", "na ve caf") == 0
    half = text_scores.rouge_l("图像是真的 100", "左手有六根 100")
    assert half == pytest.approx(1 / 6)


@hypothesis.given(*2 * [st.text(st.characters(max_codepoint=127))])
def test_ascii_scores_are_those_of_google(prediction, reference):
    google = rouge_scorer.RougeScorer(["rougeL"]).score(reference, prediction)["rougeL"].fmeasure
    assert text_scores.rouge_l(prediction, reference) == google


def letters(texts_: list[str]) -> np.ndarray:
    """How often each letter is there: a sentence encoder of 26 dimensions."""
    return np.array([[text.count(chr(97 + n)) for n in range(26)] for text in texts_], np.float32)


def test_cosines_by_hand():
    cosines = text_scores.cosines(["aab", "a", "", "c"], ["ab", "b", "ab", "cc"], letters)
    assert cosines == pytest.approx([3 / np.sqrt(10), 0, 0, 1])
    assert text_scores.cosines([], [], letters) == []
    with pytest.raises(ValueError, match="2 predictions, but 1 references"):
        text_scores.cosines(["a", "b"], ["a"], letters)


def test_many_texts_are_encoded_in_batches(monkeypatch):
    sizes = []

    def counted(group):
        sizes.append(len(group))
        return letters(group)

    monkeypatch.setattr(text_scores, "PAIRS", 4)
    words = [chr(97 + n) * 2 for n in range(10)]
    assert text_scores.cosines(words, words, counted) == pytest.approx([1] * 10)
    assert sizes == [8, 8, 4]


def test_an_empty_text_scores_nothing_whatever_the_encoder_makes_of_it():
    assert text_scores.cosines([" "], ["x"], lambda group: np.ones((len(group), 3))) == [0.0]


def test_the_encoder_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"--css_model=mini: .*pip install -e '.\[css\]'"):
        text_scores.encoder("mini")


def test_the_encoder_is_asked_for_by_name(monkeypatch):
    class Model:
        def __init__(self, name):
            if name != "mini":
                raise OSError(f"{name} is not a local folder\nand not a model")

        def encode(self, group, *, batch_size, show_progress_bar, convert_to_numpy):
            assert batch_size and convert_to_numpy and not show_progress_bar
            return letters(group)

    monkeypatch.setitem(sys.modules, "sentence_transformers",
                        types.SimpleNamespace(SentenceTransformer=Model))
    assert text_scores.cosines(["ab"], ["ab"], text_scores.encoder("mini")) == pytest.approx([1])
    with pytest.raises(UserError, match="--css_model=large: large is not a local folder and not"):
        text_scores.encoder("large")


def test_an_encoder_adds_css():
    rows = random_rows(4, 30)
    text_scores.add_css(rows, lambda group: np.array([[len(text), 1.0] for text in group]))
    assert all((row["css"] is None) == (row["rouge_l"] is None) for row in rows)
    scored = [row["css"] for row in rows if row["css"] is not None]
    assert summary.summary(rows)["text"]["css"] == pytest.approx(np.mean(scored)) and scored
