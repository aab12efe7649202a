"""input_pipeline/text/dialogue.py: what each system is told, and what it learns of an answer."""

import dataclasses

import numpy as np
import pytest

from input_pipeline.errors import UserError
from input_pipeline.text.conversation import INSTRUCTION, encode_prompt, encode_turns, image_index
from input_pipeline.text.dialogue import (
    DIALOGUES,
    LEGION,
    LLAVA15_CHAT,
    RAW,
    SIDA,
    SYSTEM,
    dialogue_named,
)
from input_pipeline.text.fast_tokenizer import FastTokenizer
from input_pipeline.text.tokenizer import IMAGE_ID, TokenizerError, train_tokenizer
from input_pipeline.text.tokenizer_files import ADDED_FILE, MODEL_FILE, as_json

TURNS = [("<image>Is it real?", "It is fake."), ("Why?", "The ear.")]


@pytest.fixture(scope="session")
def slow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dialogue") / "slow"
    return train_tokenizer([SYSTEM, INSTRUCTION, "USER: Is it real? ASSISTANT: It is fake."] * 9,
                           500, folder)


@pytest.fixture(scope="session")
def fast(slow):
    return with_tokens(FastTokenizer, slow.files[MODEL_FILE], "<image>", "<pad>")


def with_tokens(kind, model, *tokens):
    """A tokenizer of the pieces `model` and these added tokens."""
    pieces = kind({MODEL_FILE: model, ADDED_FILE: b"{}"}, name="made").vocab_size
    added = {token: pieces + number for number, token in enumerate(tokens)}
    return kind({MODEL_FILE: model, ADDED_FILE: as_json(added)}, name="made")


def text_of(dialogue, turns):
    return "".join(part.text for part in dialogue.parts(turns))


def learned_of(dialogue, turns):
    return [part.text for part in dialogue.parts(turns) if part.learned]


def test_names():
    assert list(DIALOGUES) == ["legion", "llava15_chat", "raw", "sida", "sida_described", "lisa"]
    assert dialogue_named("sida") is SIDA
    with pytest.raises(UserError, match="dialogue: legion, .*, lisa, not 'Sida'"):
        dialogue_named("Sida")


def test_texts():
    photo = "The <im_start><image><im_end> provides an overview of the picture.\n"
    assert text_of(LEGION, [("Why?", "So."), ("{x}?", "{y}")]) == (
        f"{SYSTEM} USER: {photo}Why? ASSISTANT: So.</s>USER: {{x}}? ASSISTANT: {{y}}</s>")
    assert text_of(SIDA, [("Which?", "[CLS] It is [SEG]")]) == (
        f"{SYSTEM} USER: <im_start><image><im_end>\nWhich? ASSISTANT: [CLS] It is [SEG]</s>")
    assert text_of(LLAVA15_CHAT, TURNS) == (
        "USER: <image>\nIs it real? ASSISTANT: It is fake. USER: Why? ASSISTANT: The ear. </s>")
    assert RAW.prompt(" Real?\n<image> ") == " Real?\n<image> "


def test_what_is_learned():
    assert learned_of(LEGION, TURNS) == [" It is fake.</s>", " The ear.</s>"]
    assert learned_of(LLAVA15_CHAT, TURNS) == ["It is fake. ", "The ear. ", "</s>"]
    with pytest.raises(UserError, match="dialogue raw: only asks, it has no form for answers"):
        RAW.parts(TURNS)


@pytest.mark.parametrize("question, prompt", [
    ("Real?", "USER: <image>\nReal? ASSISTANT:"),
    (" <image>\n Real? \t", "USER: <image>\nReal? ASSISTANT:"),
    ("Is  <image> real", "USER: <image>\nIs   real ASSISTANT:"),
    ("<image><image>Which", "USER: <image>\n<image>\nWhich ASSISTANT:")])
def test_images_come_first_in_a_turn_of_llava(question, prompt):
    assert LLAVA15_CHAT.prompt(question) == prompt


def test_an_image_stands_in_the_turn_that_names_it():
    parts = LLAVA15_CHAT.parts([("a", "b"), ("see <image>", "c"), ("<image><image>", "d")])
    assert [part.images for part in parts[::3]] == [0, 1, 2, 0]
    assert parts[3].text == "USER: <image>\nsee ASSISTANT:"
    assert RAW.prompt("a") == "<image>a"


def test_what_is_said_and_masked_of_a_photo():
    for dialogue in (LEGION, LLAVA15_CHAT):
        assert dialogue.answer_to("unknown", "A <p> dog </p> [SEG].") == "A <p> dog </p> [SEG]."
        assert dialogue.photo_masks("tampered") == 0
    assert LEGION.masks_phrases and not (LLAVA15_CHAT.masks_phrases or SIDA.masks_phrases)
    described = dialogue_named("sida_described")
    assert SIDA.answer_to("real", "A dog.") == "[CLS] The image is real"
    assert described.answer_to("real", "") == "[CLS] The image is real [END]"
    assert described.answer_to("tampered", "A dog.") == (
        "[CLS] The image is tampered [SEG] A dog. [END]")
    assert [SIDA.photo_masks(label) for label in ("real", "synthetic", "tampered")] == [0, 0, 1]
    assert SIDA.says("[CLS]") and not SIDA.says("[END]") and described.says("[END]")
    assert LEGION.says("[SEG]") and not LLAVA15_CHAT.says("[SEG]")
    assert described.describes("A dog.") and not (SIDA.describes("A") or described.describes(""))
    for asked in (SIDA.photo_masks, lambda label: SIDA.answer_to(label, "")):
        with pytest.raises(UserError, match="no answer of the dialogue sida is for photos labelled "
                                            "unknown, only for real, synthetic, tampered"):
            asked("unknown")


def test_a_text_of_the_system_opens_the_conversation():
    asked = dataclasses.replace(LLAVA15_CHAT, system="Look.")
    assert asked.prompt("Real?") == "Look. USER: <image>\nReal? ASSISTANT:"


def test_targets_of_llava(fast):
    """The space behind an answer is learned, and with it the piece of the next turn it is in."""
    row = encode_turns(fast, TURNS, length=110, dialogue=LLAVA15_CHAT, patches=5)
    assert len(row.ids) == 106 and not row.truncated
    assert row.ids[image_index(row.ids)] == IMAGE_ID
    assert set(row.ids[~row.valid]) == {fast.added["<pad>"]}
    targets = row.ids[row.loss_mask]
    assert targets[-1] == fast.eos_id == row.ids[row.valid][-1]
    assert fast.decode(targets) == "It is fake. US The ear. </s>"
    assert fast.decode(row.ids[~row.loss_mask & row.valid]).startswith("<s> USER:")
    all_ids = encode_turns(fast, TURNS, length=110, dialogue=LLAVA15_CHAT, learned="all")
    np.testing.assert_array_equal(all_ids.loss_mask, all_ids.valid)
    none = encode_turns(fast, TURNS, length=110, dialogue=LLAVA15_CHAT, learned="nothing")
    assert none.valid.any() and not none.loss_mask.any()


def test_a_row_is_cut_in_positions_and_loses_its_stop(fast):
    whole = encode_turns(fast, TURNS, length=300, dialogue=LLAVA15_CHAT, patches=7)
    number = int(whole.valid.sum())
    fits = encode_turns(fast, TURNS, length=number + 6, dialogue=LLAVA15_CHAT, patches=7)
    assert not fits.truncated and fits.ids[-1] == fast.eos_id
    cut = encode_turns(fast, TURNS, length=number + 5, dialogue=LLAVA15_CHAT, patches=7)
    assert cut.truncated and len(cut.ids) == number - 1
    np.testing.assert_array_equal(cut.ids, whole.ids[:number - 1])
    np.testing.assert_array_equal(cut.loss_mask, whole.loss_mask[:number - 1])
    assert fast.eos_id not in cut.ids


def test_images_that_do_not_fit_are_refused(fast):
    prompt = len(encode_prompt(fast, TURNS[0][0], dialogue=LLAVA15_CHAT))
    with pytest.raises(UserError, match=f"takes {prompt + 8} ids, only {prompt + 8} are allowed"):
        encode_turns(fast, TURNS, length=prompt + 8, dialogue=LLAVA15_CHAT, patches=9)
    late = [*TURNS, ("<image>And this?", "Real.")]
    whole = encode_turns(fast, late, length=400, dialogue=LLAVA15_CHAT, patches=9)
    second = int(np.flatnonzero(whole.ids == IMAGE_ID)[1]) + 17  # where its last patch stands
    encode_turns(fast, late, length=second, dialogue=LLAVA15_CHAT, patches=9)
    with pytest.raises(UserError, match=f"{second - 1} positions cut off the last of 2 images"):
        encode_turns(fast, late, length=second - 1, dialogue=LLAVA15_CHAT, patches=9)
    with pytest.raises(UserError, match="expected one image in .* found 2"):
        encode_turns(fast, [("Real?", "See <image>")], length=90, dialogue=LLAVA15_CHAT)


def test_a_tokenizer_that_does_not_fit_is_named(slow, fast, tmp_path):
    with pytest.raises(UserError, match="slow tokenizer's rules, the dialogue raw goes by the "
                                        "fast one's"):
        encode_prompt(slow, "Real?", dialogue=RAW)
    with pytest.raises(UserError, match="made: read by the fast tokenizer's rules, the dialogue l"):
        encode_prompt(fast)
    slow.save(tmp_path / "tokenizer")
    with pytest.raises(TokenizerError, match=r"tokenizer: added_tokens.json has no \[CLS\], found "
                                             r".*; the dialogue sida needs it"):
        SIDA.open_tokenizer(tmp_path / "tokenizer")
    with pytest.raises(TokenizerError, match=r"has no \[CLS\]"):
        encode_prompt(slow, "Real?", dialogue=SIDA)
    assert LEGION.open_tokenizer(tmp_path / "tokenizer").added == slow.added
