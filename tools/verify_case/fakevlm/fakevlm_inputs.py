"""Checks before the first matrix product: rows of training, prompts, words, and pixels."""

import dataclasses
import pathlib
import random

import numpy as np

from input_pipeline.photos import images
from input_pipeline.text.conversation import encode_prompt
from input_pipeline.text.dialogue import LLAVA15_CHAT, RAW
from input_pipeline.text.fast_tokenizer import PAD_TOKEN, FastTokenizer
from input_pipeline.text.tokenizer import IMAGE_ID, IMAGE_TOKEN, Tokenizer
from input_pipeline.text.tokenizer_files import ADDED_FILE, MODEL_FILE, as_json
from input_pipeline.text.verdict_words import FAKE, REAL, published_response, published_verdict
from legion_jax.config import ClipConfig
from legion_jax.evaluate.fakevlm_accuracy import published_accuracy
from legion_jax.models import clip
from tools.verify_case import slim
from tools.verify_case.case import CaseError
from tools.verify_case.comparisons import Results
from tools.verify_case.fakevlm.fakevlm_case import FakevlmCase, question_of, turns_of

IGNORED = -100  # the label of what is not learned
# {run of evaluation: dialogue, whether its processor writes an id for every patch}
RUNS = {"eval_raw_old_processor": (RAW, False), "eval_raw": (RAW, True),
        "eval_chat": (LLAVA15_CHAT, True)}
ANSWER_TEXTS = ("new_ids", "decoded", "new_text", "response", "verdict")
FULL_IMAGE, FULL_LENGTH = 336, 1024  # of the published model, which the full vocabulary goes with
# A case of ours that has LLaMA's vocabulary, as LLaVA has it.
FULL_VOCABULARY = pathlib.Path(__file__).parents[3] / "tests" / "golden"


def check_rows(case: FakevlmCase, results: Results) -> None:
    """Texts, ids, labels and flags of the training batch and of every record alone."""
    pad = case.tokenizer.pad_id
    texts = ["".join(part.text for part in LLAVA15_CHAT.parts(turns_of(record)))
             for record in case.records]
    results.equal("train_text", texts, [f"{text}</s>" for text in case.meta["train_text"]])
    ids, labels = (np.stack(rows) for rows in zip(
        *(_row(case, record) for record in case.records), strict=True))
    results.equal("train_input_ids", ids)
    results.equal("train_labels", labels)
    results.equal("train_attention_mask", ids != pad)
    results.equal("train_lengths", (ids != pad).sum(1), case.meta["train_lengths"])
    results.equal("label_rows_cols", np.argwhere(labels[:, 1:] != IGNORED))
    results.equal("per_sample_tokens", (labels[:, 1:] != IGNORED).sum(1))
    for record in case.extra:
        name, published = record["id"], case.meta["extra"][record["id"]]
        if "error" in published:
            continue  # nothing was computed of it
        learned = "answers" if published["mask_question_tokens"] else "all"
        ids, labels = _row(case, record, learned)
        results.equal(f"extra_{name}_input_ids", ids[None])
        results.equal(f"extra_{name}_labels", labels[None])
        results.equal(f"extra {name} n_tokens", (ids != pad).sum(), published["n_tokens"])


def _row(case, record, learned="answers"):
    """The published ids and labels of a record, int[length] each."""
    row = case.encoded(record, learned)
    ids = case.expanded(row.ids)
    learned = np.repeat(row.loss_mask, np.where(row.ids == IMAGE_ID, case.patches, 1))
    return ids, np.where(learned, ids, IGNORED)


def check_full_vocabulary(case: FakevlmCase, results: Results) -> None:
    """Rows and prompts by the vocabulary and the sizes of the published model."""
    if not FULL_VOCABULARY.is_dir():
        raise CaseError(f"{FULL_VOCABULARY}: not there; its LLaMA vocabulary is needed")
    config = dataclasses.replace(case.config, vision=ClipConfig(FULL_IMAGE))
    full = dataclasses.replace(
        case, load=lambda: dataclasses.replace(case.loaded, config=config),
        tokenizer=_full_tokenizer(), options=case.options | {"model_max_length": FULL_LENGTH})
    ids, labels = (np.stack(rows) for rows in zip(
        *(_row(full, record) for record in case.records), strict=True))
    results.equal("full_vocab_train_input_ids", ids)
    results.equal("full_vocab_train_labels", labels)
    published = case.meta["full_vocab"]
    for dialogue, key in ((RAW, "raw_ids"), (LLAVA15_CHAT, "chat_ids")):
        for number, record in enumerate(case.records):
            prompt = encode_prompt(full.tokenizer, question_of(record), dialogue=dialogue)
            results.equal(f"full_vocab {key}[{number}]", full.expanded(prompt, 1),
                          published[key][number])
    _check_words(full.tokenizer, results, published, "full_vocab ")


def _full_tokenizer() -> FastTokenizer:
    with slim.unpacked(FULL_VOCABULARY) as folder:
        model = (folder / "checkpoint" / MODEL_FILE).read_bytes()
    pieces = FastTokenizer({MODEL_FILE: model, ADDED_FILE: b"{}"}, name=str(FULL_VOCABULARY))
    added = {IMAGE_TOKEN: pieces.vocab_size, PAD_TOKEN: pieces.vocab_size + 1}
    return FastTokenizer({MODEL_FILE: model, ADDED_FILE: as_json(added)}, name=pieces.name)


def _check_words(tokenizer: Tokenizer, results: Results, published: dict, where: str) -> None:
    """The ids of the two words a verdict consists of, of which the first is scored."""
    for word in ("real", "fake"):
        results.equal(f"{where}{word}_ids", tokenizer.encode(word, bos=False),
                      published[f"{word}_ids"])


def check_prompts(case: FakevlmCase, results: Results) -> None:
    """Prompts of evaluation, padded on the left, and the texts of the recorded answers."""
    pad = case.tokenizer.pad_id
    for run, (dialogue, expands) in RUNS.items():
        key = "eval_max_length_expanded" if expands else "eval_max_length"
        published, length = case.meta["eval"][run], case.options[key]
        rows = []
        for number, record in enumerate(case.records):
            text = dialogue.prompt(question_of(record))
            results.equal(f"{run} texts[{number}]", text, published["texts"][number])
            prompt = encode_prompt(case.tokenizer, question_of(record), dialogue=dialogue)
            ids = case.expanded(prompt, None if expands else 1)[:length]
            rows.append(np.pad(ids, (length - len(ids), 0), constant_values=pad))
            _check_answer_text(case, results, f"{run}[{number}]", ids,
                               {name: texts[number] for name, texts in published.items()
                                if name in ANSWER_TEXTS})
        results.equal(f"{run}_input_ids", np.stack(rows))
        results.equal(f"{run}_attention_mask", np.stack(rows) != pad)
    _check_words(case.tokenizer, results, case.meta, "")
    forced = case.meta["eval"]["forced_prefix"]
    prompt = LLAVA15_CHAT.prompt(question_of(case.records[forced["image"]]))
    results.equal("forced_prefix text", forced["text"][:len(prompt)], prompt)
    ids = np.array(case.tokenizer.encode_with_image(forced["text"]))
    results.equal("forced_prefix_input_ids", case.expanded(ids)[None])


def _check_answer_text(case, results, name, prompt, published):
    """`published`: ids of an answer and what the published code made of them, ANSWER_TEXTS."""
    decode, new = case.tokenizer.decode, published["new_ids"]
    text = decode([*prompt, *new], skip_special=True)
    response = published_response(text)
    results.equal(f"{name} decoded", text, published["decoded"])
    results.equal(f"{name} response", response, published["response"])
    results.equal(f"{name} verdict", _verdict(response), str(published["verdict"]))
    if "new_text" in published:
        results.equal(f"{name} new_text", decode(new, skip_special=True), published["new_text"])


def check_verdicts(case: FakevlmCase, results: Results) -> None:
    """The published rule that reads a verdict from words, as a text alone and as a response."""
    for number, entry in enumerate(case.meta["verdicts"]):
        text, behind = entry["text"], published_response(entry["text"])
        results.equal(f"verdicts[{number}]", _verdict(text), str(entry["verdict"]))
        results.equal(f"verdicts[{number}] after the last question mark", _verdict(behind),
                      str(entry["verdict_after_last_question_mark"]))


def _verdict(response: str) -> str:
    """As cases write it: "1" of real, "0" of fake, "random" of what is drawn by lot."""
    verdict = published_verdict(response, random.Random(0))
    return "random" if verdict.drawn else {REAL: "1", FAKE: "0"}[verdict.word]


def check_accuracies(case: FakevlmCase, results: Results) -> None:
    """Accuracies as the published evaluation counts and rounds them."""
    example = case.meta["accuracy_example"]
    counts = {name: of_category["right"] | of_category["wrong"]
              for name, of_category in example["in"].items()}
    ours, wanted = published_accuracy(counts), example["out"]
    for name, published in wanted["category_acc"].items():
        for figure, value in published.items():
            results.equal(f"accuracy_example {name} {figure}",
                          _figures(ours["category_acc"][name][figure]), _figures(value))
    results.equal("accuracy_example global", _figures(ours["global_stats"]),
                  _figures(wanted["global_stats"]))


def _figures(value) -> list[float]:
    """A figure, or a dict of them by name."""
    return [value[name] for name in sorted(value)] if isinstance(value, dict) else [value]


def check_pixels(case: FakevlmCase, results: Results) -> None:
    """What CLIP sees of every photo, also at the size of the published model."""
    size = case.config.vision.image_size
    views = case.views(size)
    results.within("pixel_values", _pixels(views), tolerance=0)
    # Training hands the decoded photo on as it is.
    training = [images.clip_image(images.read_photo(case.photo_path(number))[0], size)
                for number in range(len(case.records))]
    results.equal("eval_pixel_values_equal_train",
                  [np.array_equal(*pair) for pair in zip(views, training, strict=True)])
    for number, pixels in enumerate(_pixels(case.views(FULL_IMAGE))):
        results.within(f"prep336_{number}_s6", pixels[:, 1::6, 2::6], tolerance=0)
        results.stats(f"prep336_{number}_stats", pixels, axes=3, tolerance=1e-6)


def _pixels(views: np.ndarray) -> np.ndarray:
    """uint8[B, C, C, 3] -> float32[B, 3, C, C], normalised."""
    return np.asarray(clip.normalize(views)).transpose(0, 3, 1, 2)
