"""Checks before the first matrix product: tokens, labels and pixels."""

import hashlib

import jax
import numpy as np

from input_pipeline.photos import images
from input_pipeline.text import conversation
from legion_jax.models import clip, sam_encoder
from tools.verify_case.case import Case
from tools.verify_case.comparisons import Results


def check_text(case: Case, results: Results) -> None:
    """Tokenizer, conversation, labels, truncation and clean-up of answers."""
    tokenizer, meta = case.tokenizer, case.meta
    for entry in meta["tokenization"]:
        name, text = f"tokenization {entry['text'][:24]!r}", entry["text"]
        no_image = [i for i in entry["ids"] if i != meta["image_token_index"]]
        results.equal(f"{name} ids", tokenizer.encode(text), entry["ids"])
        results.equal(f"{name} without BOS", tokenizer.encode(text, bos=False),
                      entry["ids_no_special"])
        results.equal(f"{name} with image", tokenizer.encode_with_image(text),
                      entry["image_token_ids"])
        results.equal(f"{name} decoded", tokenizer.decode(no_image), entry["decoded"])
        results.equal(f"{name} decoded, specials skipped",
                      tokenizer.decode(no_image, skip_special=True),
                      entry["decoded_skip_special"])
    answers = []
    for i, sample in enumerate(meta["train_samples"]):
        answer = conversation.tag_phrases(
            sample["caption"], [tuple(s) for s in sample["tokens_positive_in_given_order"]])
        answers.append(answer)
        ours = conversation.build_conversation(sample["question"], answer)
        results.equal(f"train_samples[{i}] conversation", _plain(ours),
                      _plain(sample["conversation"]))
    _check_rows(case, results, "train", answers)
    _check_rows(case, results, "trunc", answers)
    for i, entry in enumerate(meta["eval"]):
        prompt = conversation.encode_prompt(tokenizer, entry["question"])
        results.equal(f"eval{i}_input_ids", prompt[None], case.inputs[f"eval{i}_input_ids"])
        caption, phrases = conversation.published_caption(entry["decoded_raw"])
        results.equal(f"eval[{i}] caption", caption, entry["caption"])
        results.equal(f"eval[{i}] phrases", "|".join(phrases), "|".join(entry["phrases"]))


def _plain(text: str) -> str:
    """The published data set wraps the image placeholder only when it collates."""
    return text.replace("<im_start>", "").replace("<im_end>", "")


def _check_rows(case, results, name, answers):
    length = case.inputs[f"{name}_input_ids"].shape[1]
    rows = [conversation.encode_example(case.tokenizer, sample["question"], answer, length=length)
            for sample, answer in zip(case.meta["train_samples"], answers, strict=True)]
    results.equal(f"{name}_input_ids", np.stack([r.ids for r in rows]),
                  case.inputs[f"{name}_input_ids"])
    results.equal(f"{name}_attention_masks", np.stack([r.valid for r in rows]),
                  case.inputs[f"{name}_attention_masks"])
    ignore = case.meta["ignore_index"]
    results.equal(f"{name}_labels",
                  np.stack([np.where(r.loss_mask, r.ids, ignore) for r in rows]),
                  case.inputs[f"{name}_labels"])


def check_pixels(case: Case, results: Results) -> None:
    """Both image branches on the case's photos and on the odd sizes of preprocess/."""
    inputs, meta = case.inputs, case.meta
    photos = case.photos(list(range(len(inputs["clip_pixels"]))), meta["train_image_size"])
    for i in range(len(inputs["clip_pixels"])):
        results.equal(f"image_{i}_u8", case.image(i), inputs[f"image_{i}_u8"])
    ours = np.asarray(clip.normalize(photos["clip_image"])).transpose(0, 3, 1, 2)
    results.within("clip_pixels", ours, inputs["clip_pixels"], 0)
    photos = case.photos(list(range(len(inputs["train_input_ids"]))), meta["train_image_size"])
    results.equal("train_resize_list", photos["resized_size"], inputs["train_resize_list"])
    results.equal("train_orig_sizes", photos["original_size"], inputs["train_orig_sizes"])
    for i in range(len(inputs["train_resize_list"])):
        _check_canvas(case, results, f"train_sam_px_{i}", photos["sam_image"][i],
                      photos["resized_size"][i], f"train_sam_resized_{i}.png")
    for i in range(len(meta["eval"])):
        photo = case.photos([i], meta["infer_image_size"])
        results.equal(f"eval{i}_resize_list", photo["resized_size"],
                      inputs[f"eval{i}_resize_list"])
        results.equal(f"eval{i}_orig_sizes", photo["original_size"],
                      inputs[f"eval{i}_orig_sizes"])
        _check_canvas(case, results, f"eval{i}_sam_px", photo["sam_image"][0],
                      photo["resized_size"][0], f"eval_sam_resized_{i}.png")
    table = case.reference["preprocess_shape_table"]
    results.equal("preprocess_shape_table",
                  [images.sam_size(int(h), int(w), int(t)) for h, w, t, _, _ in table],
                  table[:, 3:])
    for i, entry in enumerate(meta["preprocess"]):
        _check_odd_size(case, results, i, entry)


def _canvas(image, size):
    """SAM canvas uint8[C, C, 3] -> normalised float32[3, C, C]."""
    return np.asarray(jax.jit(sam_encoder.normalize)(image[None], size[None]))[0].transpose(2, 0, 1)


def _check_canvas(case, results, name, image, size, file):
    pixels = _canvas(image, np.asarray(size))
    results.within(f"{name}_s16", pixels[:, 5::16, 5::16], case.inputs[f"{name}_s16"], 1e-5)
    results.stats(f"{name}_stats", pixels, case.inputs[f"{name}_stats"], axes=3, tolerance=1e-6)
    if (case.folder / "images" / file).exists():
        stored = images.read_image(case.folder / "images" / file)
        results.equal(file, image[:size[0], :size[1]], stored)


def _check_odd_size(case, results, i, entry):
    reference, name = case.reference, f"prep{i}"
    data = (case.folder / "preprocess" / entry["file"]).read_bytes()
    photo = images.read_image(data, name=entry["file"])
    digests = (hashlib.sha256(data), hashlib.sha256(photo.tobytes()))
    results.equal(f"{name} file", entry["sha256_16"] in [d.hexdigest()[:16] for d in digests], True)
    ours = np.asarray(clip.normalize(
        images.clip_image(photo, case.config.clip.image_size)[None]))[0].transpose(2, 0, 1)
    results.within(f"{name}_clip_s7", ours[:, 3::7, 3::7], reference[f"{name}_clip_s7"], 0)
    results.within(f"{name}_clip_corner", ours[:, :10, :10], reference[f"{name}_clip_corner"], 0)
    results.stats(f"{name}_clip_stats", ours, reference[f"{name}_clip_stats"], axes=2,
                  tolerance=1e-6)
    for longest in (1024, 512):
        sam, size = images.sam_image(photo, longest, case.config.sam.image_size)
        key = f"{name}_sam{longest}"
        results.equal(f"{key}_shape", size, reference[f"{key}_shape"])
        pixels = _canvas(sam, np.array(size))
        results.stats(f"{key}_stats", pixels, reference[f"{key}_stats"], axes=2, tolerance=1e-6)
        if f"{key}_s16" in reference:
            results.within(f"{key}_s16", pixels[:, 5::16, 5::16], reference[f"{key}_s16"], 1e-5)
            results.within(f"{key}_corner", pixels[:, :10, :10], reference[f"{key}_corner"], 1e-5)
