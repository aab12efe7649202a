"""input_pipeline/text/dialogue.py: what each system is told, and what it learns of an answer."""

import dataclasses

import family_golden
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
from input_pipeline.text.tokenizer import IMAGE_ID, Tokenizer, TokenizerError, train_tokenizer
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


# What the published code of FakeVLM made of the same texts.


@pytest.fixture(scope="module")
def fakevlm():
    case = family_golden.folder("F")
    return (LLAVA15_CHAT.open_tokenizer(case / "checkpoint"), case,
            family_golden.read(case, "meta.json"), family_golden.outputs(case))


@pytest.fixture(scope="module")
def full_vocabulary(fakevlm, full_golden):
    return with_tokens(FastTokenizer, (full_golden / "checkpoint" / MODEL_FILE).read_bytes(),
                       "<image>", "<pad>")


def turns_of(record):
    said = [turn["value"] for turn in record["conversations"]]
    return list(zip(said[::2], said[1::2], strict=True))


def published_row(row, image, patches):
    """The ids and labels of a row, each image as often as it has patches."""
    often = np.where(row.ids == IMAGE_ID, patches, 1)
    ids = np.repeat(np.where(row.ids == IMAGE_ID, image, row.ids), often)
    return ids, np.where(np.repeat(row.loss_mask, often), ids, -100)


def patches_of(case):
    return family_golden.read(case, "checkpoint/config.json")["image_seq_length"]


def test_golden_rows_of_fakevlm(fakevlm):
    tokenizer, case, meta, outputs = fakevlm
    ids, labels = outputs["train_input_ids"], outputs["train_labels"]
    for index, record in enumerate(family_golden.read(case, "train.json")):
        assert text_of(LLAVA15_CHAT, turns_of(record)) == meta["train_text"][index] + "</s>"
        row = encode_turns(tokenizer, turns_of(record), length=meta["model_max_length"],
                           dialogue=LLAVA15_CHAT, patches=patches_of(case))
        ours = published_row(row, tokenizer.added["<image>"], patches_of(case))
        np.testing.assert_array_equal(ours[0], ids[index])
        np.testing.assert_array_equal(ours[1], labels[index])
        np.testing.assert_array_equal(ours[0] != tokenizer.pad_id,
                                      outputs["train_attention_mask"][index])
        assert (ours[0] != tokenizer.pad_id).sum() == meta["train_lengths"][index]
        assert row.loss_mask.sum() == outputs["per_sample_tokens"][index]
        columns = outputs["label_rows_cols"]
        np.testing.assert_array_equal(np.flatnonzero(ours[1] != -100),
                                      columns[columns[:, 0] == index, 1] + 1)
        assert row.truncated == (tokenizer.eos_id not in row.ids) == (index == 3)


def test_golden_single_rows_of_fakevlm(fakevlm):
    tokenizer, case, meta, outputs = fakevlm
    compared = 0
    for record in family_golden.read(case, "extra.json"):
        expected = meta["extra"][record["id"]]
        if "error" in expected:
            assert "image" not in record
            continue  # a text without an image, which nothing here can ask for
        row = encode_turns(
            tokenizer, turns_of(record), length=meta["model_max_length"],
            dialogue=dataclasses.replace(LLAVA15_CHAT, system=record.get("system_prompt", "")),
            patches=patches_of(case),
            learned="answers" if expected["mask_question_tokens"] else "all")
        ids, labels = published_row(row, tokenizer.added["<image>"], patches_of(case))
        np.testing.assert_array_equal(ids, outputs[f"extra_{record['id']}_input_ids"][0])
        np.testing.assert_array_equal(labels, outputs[f"extra_{record['id']}_labels"][0])
        assert (ids != tokenizer.pad_id).sum() == expected["n_tokens"]
        compared += 1
    assert compared == 6


def test_golden_rows_of_the_full_vocabulary(fakevlm, full_vocabulary):
    _, case, meta, outputs = fakevlm
    for index, record in enumerate(family_golden.read(case, "train.json")):
        row = encode_turns(full_vocabulary, turns_of(record), length=1024, dialogue=LLAVA15_CHAT,
                           patches=576)
        ids, labels = published_row(row, 32000, 576)
        np.testing.assert_array_equal(ids, outputs["full_vocab_train_input_ids"][index])
        np.testing.assert_array_equal(labels, outputs["full_vocab_train_labels"][index])
        for dialogue, key in ((RAW, "raw_ids"), (LLAVA15_CHAT, "chat_ids")):
            prompt = encode_prompt(full_vocabulary, turns_of(record)[0][0], dialogue=dialogue)
            prompt[prompt == IMAGE_ID] = 32000
            assert prompt.tolist() == meta["full_vocab"][key][index]
    for word in ("real", "fake"):
        assert full_vocabulary.encode(word, bos=False) == meta["full_vocab"][f"{word}_ids"]


@pytest.mark.parametrize("run, dialogue, image", [
    ("eval_raw_old_processor", RAW, 1), ("eval_raw", RAW, None),
    ("eval_chat", LLAVA15_CHAT, None)])
def test_golden_prompts_of_fakevlm(fakevlm, run, dialogue, image):
    tokenizer, case, meta, outputs = fakevlm
    patches = image or patches_of(case)
    ids, mask = outputs[f"{run}_input_ids"], outputs[f"{run}_attention_mask"]
    for index, record in enumerate(family_golden.read(case, "train.json")):
        question = turns_of(record)[0][0]
        assert dialogue.prompt(question) == meta["eval"][run]["texts"][index]
        prompt = encode_prompt(tokenizer, question, dialogue=dialogue)
        often = np.where(prompt == IMAGE_ID, patches, 1)
        prompt[prompt == IMAGE_ID] = tokenizer.added["<image>"]
        prompt = np.repeat(prompt, often)
        padding = ids.shape[1] - len(prompt)
        np.testing.assert_array_equal(ids[index], [*[tokenizer.pad_id] * padding, *prompt])
        np.testing.assert_array_equal(mask[index], np.arange(ids.shape[1]) >= padding)
        new = outputs[f"{run}_new_ids"][index]
        answer = meta["eval"][run]
        assert tokenizer.decode([*prompt, *new], skip_special=True) == answer["decoded"][index]
        assert "new_text" not in answer or (
            tokenizer.decode(new, skip_special=True) == answer["new_text"][index])


def test_golden_words_of_fakevlm(fakevlm):
    tokenizer, case, meta, outputs = fakevlm
    prompt = meta["eval"]["forced_prefix"]["text"]
    question = turns_of(family_golden.read(case, "train.json")[0])[0][0]
    assert prompt == LLAVA15_CHAT.prompt(question) + " This is a"
    ids = np.array(tokenizer.encode_with_image(prompt))
    ids = np.repeat(ids, np.where(ids == IMAGE_ID, patches_of(case), 1))
    ids[ids == IMAGE_ID] = tokenizer.added["<image>"]
    np.testing.assert_array_equal(ids, outputs["forced_prefix_input_ids"][0])
    for word in ("real", "fake"):
        assert tokenizer.encode(word, bos=False) == meta[f"{word}_ids"]


# And that of SIDA.

QUESTION = ("Can you identify if this image is real, full synthetic, or tampered image? Please "
            "mask the tampered regions if it is tampered")
CLASSES = {"real": "real", "syn": "full synthetic", "tam": "tampered [SEG]"}


@pytest.fixture(scope="module")
def sida():
    case = family_golden.folder("S")
    return (SIDA.open_tokenizer(case / "checkpoint"), family_golden.read(case, "meta.json"),
            family_golden.outputs(case))


def split(conversation):
    """(question, answer) of a conversation with one turn, without what SIDA writes around them."""
    question, answer = conversation.removesuffix("</s>").split(" ASSISTANT: ")
    return question.split("<im_end>\n")[1], answer


@pytest.mark.parametrize("group", ["stage1_tam", "stage1_real", "stage1_syn", "stage2_tam",
                                   "stage2_real", "stage2_syn", "twoseg", "trunc"])
def test_golden_rows_of_sida(sida, group):
    tokenizer, meta, outputs = sida
    patches, stage2 = 256, group.startswith("stage2")
    if stage2:  # what its training adds
        added = tokenizer.added | {"[END]": tokenizer.vocab_size}
        tokenizer = Tokenizer(tokenizer.files | {ADDED_FILE: as_json(added)}, name="stage 2")
        assert tokenizer.vocab_size == meta["stage2_vocab"]
    ids, labels = outputs[f"{group}_input_ids"], outputs[f"{group}_labels"]
    whole = meta["conversations"]["stage1_tam" if group == "trunc" else group]
    length = ids.shape[1] + patches - 1
    if group == "trunc":
        assert length == 252 + outputs["stage1_tam_input_ids"].shape[1]
    for index, text in enumerate(whole):
        question, answer = split(text)
        assert text_of(SIDA, [(question, answer)]) == text
        assert question == QUESTION + (" and answer why." if stage2 else ".")
        if group.startswith("stage"):
            assert answer.startswith(f"[CLS] The image is {CLASSES[group[7:]]}")
        learns = stage2 and meta["stage2_has_text"][group[7:]][index]
        row = encode_turns(tokenizer, [(question, answer)], length=length, dialogue=SIDA,
                           patches=patches, learned="answers" if learns else "nothing")
        np.testing.assert_array_equal(row.ids, ids[index])
        np.testing.assert_array_equal(np.where(row.loss_mask, row.ids, -100), labels[index])
        np.testing.assert_array_equal(row.valid, outputs[f"{group}_attention_masks"][index])
        assert row.truncated == (group == "trunc")
        for token in ("[CLS]", "[SEG]") if group != "trunc" else ():
            places = outputs[f"{group}_{token[1:4].lower()}_positions"]
            np.testing.assert_array_equal(
                np.flatnonzero(row.ids == tokenizer.added[token]) + patches - 2,
                places[places[:, 0] == index, 1])


def test_golden_prompts_and_answers_of_sida(sida):
    tokenizer, meta, outputs = sida
    assert {token: tokenizer.added[token] for token in SIDA.tokens} == {
        token: meta["token_ids"][token] for token in SIDA.tokens}
    for key, case in meta["eval"].items():
        assert SIDA.prompt(case["question"]) == case["prompt"]
        prompt = encode_prompt(tokenizer, case["question"], dialogue=SIDA)
        assert prompt.tolist() == case["prompt_ids"]
        ids = outputs[f"eval_{key}_output_ids"][0]
        np.testing.assert_array_equal(ids, [*prompt, *case["new_ids"]])
        # As the published code shows it: no line breaks, two spaces become one.
        shown = tokenizer.decode(ids).replace("\n", "").replace("  ", " ")
        assert shown == case["text_output_raw"]
