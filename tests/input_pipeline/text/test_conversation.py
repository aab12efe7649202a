"""input_pipeline/text/conversation.py: prompt, tagging, training targets, and answers read back."""

import random

import numpy as np
import pytest

from input_pipeline.text.conversation import (
    INSTRUCTION,
    SYSTEM,
    AnswerRegion,
    build_conversation,
    build_prompt,
    encode_example,
    encode_prompt,
    image_index,
    locate_phrases,
    parse_answer,
    tag_phrases,
)
from input_pipeline.text.tokenizer import IMAGE_ID, train_tokenizer

ANSWER = "<p> The left ear </p> [SEG]:It merges. <p> the wall </p> [SEG]:It bends."


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conversation") / "tokenizer"
    return train_tokenizer([build_prompt(), ANSWER], 400, folder)


def test_prompt_text():
    assert build_prompt("Why?") == (
        f"{SYSTEM} USER: The <im_start><image><im_end> provides an overview of the picture.\n"
        "Why? ASSISTANT:"
    )
    assert build_conversation("Why?", "So.") == build_prompt("Why?") + " So.</s>"


@pytest.mark.parametrize(
    "caption, phrases, spans",
    [
        ("the ear and the eye", ["the eye", "the ear"], [(12, 19), (0, 7)]),
        ("an ear, an ear", ["an ear", "an ear", "an ear"], [(0, 6), (8, 14), None]),
        ("left ear is an ear", ["ear", "left ear"], [(15, 18), (0, 8)]),
        ("left ear", ["ear", "left ear"], [None, (0, 8)]),
        ("aaa", ["aa", "a"], [(0, 2), (2, 3)]),
        ("the ear", ["", "The ear", "nose"], [None, None, None]),
        ("", ["ear"], [None]),
        ("the ear", [], []),
    ],
)
def test_locate_phrases(caption, phrases, spans):
    assert locate_phrases(caption, phrases) == spans


def test_located_phrases_never_overlap_and_are_the_phrases():
    rng = random.Random(1)
    for _ in range(300):
        caption = "".join(rng.choices("ab ", k=rng.randrange(20)))
        phrases = ["".join(rng.choices("ab ", k=rng.randrange(4))) for _ in range(5)]
        spans = locate_phrases(caption, phrases)
        located = [span for span in spans if span]
        for phrase, span in zip(phrases, spans, strict=True):
            assert span is None or caption[slice(*span)] == phrase
        tagged = tag_phrases(caption, rng.sample(located, len(located)))  # raises on overlap
        assert tagged.count("[SEG]") == len(located)
        assert tagged.replace("<p> ", "").replace(" </p> [SEG]", "") == caption


def test_tag_phrases_changes_nothing_else():
    text = "An ear.\nThe eye  is bent."
    assert tag_phrases(text, [(8, 15), (0, 6)]) == (
        "<p> An ear </p> [SEG].\n<p> The eye </p> [SEG]  is bent."
    )
    assert tag_phrases(text, []) == text


@pytest.mark.parametrize(
    "spans, message",
    [
        ([(0, 4), (3, 6)], r"span \(3, 6\) overlaps the one that ends at 4"),
        ([(3, 6), (3, 6)], "overlaps"),
        ([(2, 2)], r"span \(2, 2\) is not inside 0 to 7"),
        ([(5, 8)], "not inside 0 to 7"),
        ([(-1, 3)], "not inside 0 to 7"),
    ],
)
def test_tag_phrases_refuses_bad_spans(spans, message):
    with pytest.raises(ValueError, match=message):
        tag_phrases("the ear", spans)


def test_image_index_wants_exactly_one():
    assert image_index([1, 5, IMAGE_ID, 6]) == 2
    with pytest.raises(ValueError, match="expected one image in 2 ids, found 0"):
        image_index(np.array([1, 5]))
    with pytest.raises(ValueError, match="found 2"):
        image_index([IMAGE_ID, IMAGE_ID])


def test_example_targets_are_the_answer(tokenizer):
    prompt = encode_prompt(tokenizer)
    assert prompt.dtype == np.int32
    full = tokenizer.encode_with_image(build_conversation(INSTRUCTION, ANSWER))
    example = encode_example(tokenizer, INSTRUCTION, ANSWER, length=len(full) + 3)
    assert (example.ids.dtype, example.valid.dtype, example.loss_mask.dtype) == (
        np.int32, np.bool_, np.bool_
    )
    np.testing.assert_array_equal(example.ids, [*full, 0, 0, 0])
    np.testing.assert_array_equal(example.valid, [True] * len(full) + [False] * 3)
    targets = example.ids[example.loss_mask].tolist()
    assert targets == full[len(prompt):]
    assert targets[0] == tokenizer.phrase_start_id
    assert targets[-1] == tokenizer.eos_id
    assert (example.truncated, example.num_segs) == (False, 2)


def test_example_is_cut_at_its_length(tokenizer):
    full = tokenizer.encode_with_image(build_conversation(INSTRUCTION, ANSWER))
    assert not encode_example(tokenizer, INSTRUCTION, ANSWER, length=len(full)).truncated
    second = len(full) - 1 - full[::-1].index(tokenizer.seg_id)
    for length, segs in ((second + 1, 2), (second, 1)):
        example = encode_example(tokenizer, INSTRUCTION, ANSWER, length=length)
        assert example.ids.tolist() == full[:length]
        assert example.valid.all() and example.truncated
        assert example.num_segs == segs


def test_answers_may_start_with_anything(tokenizer):
    prompt = encode_prompt(tokenizer)
    for answer in ("", "It", " It", "3 ears", "\nIt", ":", "<p> a </p>", "[SEG]", "日"):
        example = encode_example(tokenizer, INSTRUCTION, answer, length=len(prompt) + 40)
        assert not example.loss_mask[: len(prompt)].any(), answer
        assert example.loss_mask[len(prompt)], answer


def test_example_errors(tokenizer):
    size = len(encode_prompt(tokenizer))
    with pytest.raises(ValueError, match=f"prompt takes {size} ids, only {size} are allowed"):
        encode_example(tokenizer, INSTRUCTION, ANSWER, length=size)
    with pytest.raises(ValueError, match="expected one image in .* ids, found 2"):
        encode_example(tokenizer, INSTRUCTION, "an <image> here", length=900)
    with pytest.raises(ValueError, match="expected one image"):
        encode_prompt(tokenizer, "What is <image>?")


def test_parse_answer_reads_phrases_and_details():
    parsed = parse_answer(
        "I found:\nthese. <p> noisy patch </p> [SEG] :The grain  changes. <p> man's ear </p> "
        "[SEG] :It is\nbent.</s>"
    )
    text = "I found: these. noisy patch :The grain changes. man's ear :It is bent."
    assert parsed.explanation == text
    assert parsed.regions == [
        AnswerRegion("noisy patch", 16, 27, "The grain changes.", 0),
        AnswerRegion("man's ear", 48, 57, "It is bent.", 1),
    ]


@pytest.mark.parametrize(
    "text, explanation, regions",
    [
        ("", "", []),
        ("</s>", "", []),
        ("All is well.</s>", "All is well.", []),
        ("a < b and c > d", "a < b and c > d", []),
        ("<p> an ear </p> bent", "an ear bent", [("an ear", 0, "bent", None)]),
        ("[SEG] x", "x", [("", 0, "x", 0)]),
        ("a [SEG] [SEG] b", "a b", [("", 1, "b", 0), ("", 1, "b", 1)]),
        ("<p> [SEG] x", "x", [("", 0, "x", 0)]),
        ("<p> </p> [SEG] <p> x", "x", [("", 0, "", 0)]),
        ("<p> ear [SEG] :x", "ear :x", [("ear", 0, "x", 0)]),
        ("<p> ear bent", "ear bent", []),
        ("ear </p> [SEG] x", "ear x", [("", 3, "x", 0)]),
        ("ear </p> </p> x", "ear x", []),
        ("<p> a <p> b </p> [SEG] x", "a b x", [("b", 2, "x", 0)]),
        (
            "<p> a <p> b </p> [SEG] </p> [SEG] x",
            "a b x",
            [("b", 2, "x", 0), ("", 3, "x", 1)],
        ),
        (
            "<p> a </p> and <p> b </p> [SEG] x",
            "a and b x",
            [("a", 0, "and", None), ("b", 6, "x", 0)],
        ),
        ("<p> a </p> is [SEG] x", "a is x", [("a", 0, "x", 0)]),
        ("<p> a </p> [SEG]<p> b </p> [SEG]", "a b", [("a", 0, "", 0), ("b", 2, "", 1)]),
        ("<s> x <im_start> <im_end> y <unk>", "x y", []),
    ],
)
def test_parse_answer_accepts_anything(text, explanation, regions):
    parsed = parse_answer(text)
    assert parsed.explanation == explanation
    assert [(r.phrase, r.start, r.detail, r.seg_index) for r in parsed.regions] == regions


def test_parse_answer_keeps_its_promises_on_random_tags():
    rng = random.Random(2)
    tokens = ["<p>", "</p>", "[SEG]", "</s>", " ", "\n", ":", "ear", " the wall ", "<", "p>"]
    for _ in range(2000):
        text = "".join(rng.choices(tokens, k=rng.randrange(12)))
        parsed = parse_answer(text)
        assert parsed.explanation == " ".join(parsed.explanation.split())
        for region in parsed.regions:
            assert parsed.explanation[region.start : region.end] == region.phrase
            assert region.phrase or region.seg_index is not None
            assert region.detail in parsed.explanation
        segs = [r.seg_index for r in parsed.regions if r.seg_index is not None]
        assert segs == list(range(text.count("[SEG]"))), text


def test_tagged_caption_reads_back(tokenizer):
    caption = "I found: An ear. It merges. the wall bends."
    phrases = ["the wall", "An ear"]
    tagged = tag_phrases(caption, locate_phrases(caption, phrases))
    direct = parse_answer(tagged)
    decoded = tokenizer.decode(tokenizer.encode(tagged + "</s>", bos=False))
    assert parse_answer(decoded) == direct
    assert [(r.phrase, r.seg_index) for r in direct.regions] == [("An ear", 0), ("the wall", 1)]
    assert direct.explanation == "I found: An ear . It merges. the wall bends."
