"""Checks before the first matrix product: tokens, labels and pixels."""

import hashlib
import re

import jax
import numpy as np

from input_pipeline.photos import images
from input_pipeline.text import conversation
from legion_jax.models import clip, sam_encoder
from tools.verify_case.comparisons import Results
from tools.verify_case.legion.legion_case import LegionCase


def check_text(case: LegionCase, results: Results) -> None:
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
        results.equal(f"eval{i}_input_ids", prompt[None])
        caption, phrases = published_caption(entry["decoded_raw"])
        results.equal(f"eval[{i}] caption", caption, entry["caption"])
        results.equal(f"eval[{i}] phrases", "|".join(phrases), "|".join(entry["phrases"]))


def published_caption(text: str) -> tuple[str, list[str]]:
    """Cleans a decoded answer or whole conversation exactly as the published inference does.

    Newlines vanish without a space, and only text after the last "ASSISTANT: " is kept, with its
    trailing space: an answer whose first token brings no space keeps the whole prompt.

    Returns:
        The caption, and the phrases between `<p>` and `</p>` in order.
    """
    text = text.replace("\n", "").replace("  ", " ").split("ASSISTANT: ")[-1]
    phrases = [phrase.strip() for phrase in re.findall("<p>(.*?)</p>", text)]
    bare = re.sub("<.*?>", "", text).replace("[SEG]", "")
    return " ".join(bare.split()).strip("'").strip(), phrases


def _plain(text: str) -> str:
    """The published data set wraps the image placeholder only when it collates."""
    return text.replace("<im_start>", "").replace("<im_end>", "")


def _check_rows(case, results, name, answers):
    length = case.inputs[f"{name}_input_ids"].shape[1]
    rows = [conversation.encode_example(case.tokenizer, sample["question"], answer, length=length)
            for sample, answer in zip(case.meta["train_samples"], answers, strict=True)]
    results.equal(f"{name}_input_ids", np.stack([r.ids for r in rows]))
    results.equal(f"{name}_attention_masks", np.stack([r.valid for r in rows]))
    ignore = case.meta["ignore_index"]
    results.equal(f"{name}_labels", np.stack([np.where(r.loss_mask, r.ids, ignore) for r in rows]))


def check_pixels(case: LegionCase, results: Results) -> None:
    """Both image branches on the case's photos and on the odd sizes of preprocess/."""
    inputs, meta = case.inputs, case.meta
    photos = case.photos(case.seen_photos, meta["train_image_size"])
    for i in case.seen_photos:
        results.equal(f"image_{i}_u8", case.image(i))
    ours = np.asarray(clip.normalize(photos["vision_image"])).transpose(0, 3, 1, 2)
    results.within("clip_pixels", ours, tolerance=0)
    photos = case.photos(list(range(len(inputs["train_input_ids"]))), meta["train_image_size"])
    results.equal("train_resize_list", photos["resized_size"])
    results.equal("train_orig_sizes", photos["original_size"])
    for i in range(len(inputs["train_resize_list"])):
        _check_canvas(case, results, f"train_sam_px_{i}", photos["sam_image"][i],
                      photos["resized_size"][i], f"train_sam_resized_{i}.png")
    for i in range(len(meta["eval"])):
        photo = case.photos([i], meta["infer_image_size"])
        results.equal(f"eval{i}_resize_list", photo["resized_size"])
        results.equal(f"eval{i}_orig_sizes", photo["original_size"])
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
    results.within(f"{name}_s16", pixels[:, 5::16, 5::16], tolerance=1e-5)
    results.stats(f"{name}_stats", pixels, axes=3, tolerance=1e-6)
    path = case.folder / "images" / file
    if f"images/{file}" in case.left_out_files:
        results.left_out.append(file)
    elif path.exists() or file.startswith("train"):  # a case may see photos alike in both
        results.equal(file, image[:size[0], :size[1]], images.read_image(path))


def _check_odd_size(case, results, i, entry):
    name = f"prep{i}"
    data = (case.folder / "preprocess" / entry["file"]).read_bytes()
    photo = images.read_image(data, name=entry["file"])
    digests = (hashlib.sha256(data), hashlib.sha256(photo.tobytes()))
    results.equal(f"{name} file", entry["sha256_16"] in [d.hexdigest()[:16] for d in digests], True)
    ours = np.asarray(clip.normalize(
        images.clip_image(photo, case.config.vision.image_size)[None]))[0].transpose(2, 0, 1)
    results.within(f"{name}_clip_s7", ours[:, 3::7, 3::7], tolerance=0)
    results.within(f"{name}_clip_corner", ours[:, :10, :10], tolerance=0)
    results.stats(f"{name}_clip_stats", ours, axes=2, tolerance=1e-6)
    for longest in (1024, 512):
        sam, size = images.sam_image(photo, longest, case.config.sam.image_size)
        key = f"{name}_sam{longest}"
        results.equal(f"{key}_shape", size)
        pixels = _canvas(sam, np.array(size))
        results.stats(f"{key}_stats", pixels, axes=2, tolerance=1e-6)
        if case.reference.names(f"{key}_s16"):
            results.within(f"{key}_s16", pixels[:, 5::16, 5::16], tolerance=1e-5)
            results.within(f"{key}_corner", pixels[:, :10, :10], tolerance=1e-5)
