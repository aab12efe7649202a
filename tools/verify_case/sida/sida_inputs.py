"""Checks before the first matrix product: rows of both stages, prompts and answers, and pixels."""

import hashlib
import re

import jax
import numpy as np

from input_pipeline.photos import images
from input_pipeline.text.conversation import encode_prompt
from input_pipeline.text.dialogue import SIDA
from legion_jax.models import clip, sam_encoder
from legion_jax.models.legion import token_slots
from tools.verify_case.comparisons import Results
from tools.verify_case.sida import sida_batches
from tools.verify_case.sida.sida_case import SAM_SIZE, SidaCase

IGNORED = -100  # the label of what is not learned
TRUNCATED = 252  # how many positions more than the tampered pair has ids are left to its texts
_TAGGED = re.compile("<([^>]+)>([^<]+)")


def check_rows(case: SidaCase, results: Results) -> None:
    """Conversations, ids, labels, flags, classes and watched places of every batch."""
    for name, batch in sida_batches.batches(case).items():
        results.equal(f"{name} conversations", [_whole(*turn) for turn in batch.turns],
                      case.meta["conversations"][name])
        if batch.stage == "stage2":
            group = name.partition("_")[2]
            results.equal(f"{name} has_text", batch.learned, case.meta["stage2_has_text"][group])
        rows = sida_batches.rows(case, batch)
        _check_ids(results, name, rows)
        if case.reference.names(f"{name}_offset"):
            results.equal(f"{name}_offset", np.arange(len(batch.names) + 1))
            results.equal(f"{name}_cls_labels", sida_batches.labels(case, batch))
        _check_places(case, results, name, rows["ids"])
    limit = TRUNCATED + case.reference["stage1_tam_input_ids"].shape[1]
    _check_ids(results, "trunc", sida_batches.rows(
        case, sida_batches.of_stage(case, "stage1", "tam"), limit))


def _whole(question, answer):
    return "".join(part.text for part in SIDA.parts([(question, answer)]))


def _check_ids(results, name, rows):
    """Rows as the collator makes them: as long as the longest of them."""
    results.equal(f"{name}_input_ids", rows["ids"])
    results.equal(f"{name}_labels", np.where(rows["loss_mask"], rows["ids"], IGNORED))
    results.equal(f"{name}_attention_masks", rows["valid"])


def _check_places(case, results, name, ids):
    for token in ("[CLS]", "[SEG]"):
        number = case.tokenizer.added[token]
        slots = max(int((ids == number).sum(1).max()), 1)
        places, has, _ = (np.asarray(x) for x in token_slots(ids, number, slots, case.patches))
        rows_of = np.nonzero(has)[0]
        results.equal(f"{name}_{token[1:4].lower()}_positions",
                      np.stack([rows_of, places[has]], axis=1))


def check_answers_text(case: SidaCase, results: Results) -> None:
    """Ids of tokens, prompts of inference, and what the recorded answers are shown as."""
    ids = case.stage2.tokenizer.added
    for token, number in case.meta["token_ids"].items():
        results.equal(f"id of {token}", ids[token], number)
    results.equal("stage2_vocab", case.stage2.tokenizer.vocab_size, case.meta["stage2_vocab"])
    for key, published in case.meta["eval"].items():
        name = f"eval {key}"
        results.equal(f"{name} prompt", SIDA.prompt(published["question"]), published["prompt"])
        prompt = encode_prompt(case.tokenizer, published["question"], dialogue=SIDA)
        results.equal(f"{name} prompt_ids", prompt, published["prompt_ids"])
        raw = shown(case.tokenizer.decode([*prompt, *published["new_ids"]]))
        results.equal(f"{name} text_output_raw", raw, published["text_output_raw"])
        results.equal(f"{name} text_output",
                      shown(case.tokenizer.decode(published["returned_ids_with_tokenizer"])),
                      published["text_output"])
        results.equal(f"{name} text_output_repeated_tags_removed", remove_repeated_tags(raw),
                      published["text_output_repeated_tags_removed"])
    for number, entry in enumerate(case.meta["remove_repeated_tags"]):
        results.equal(f"remove_repeated_tags[{number}]", remove_repeated_tags(entry["in"]),
                      entry["out"])


def shown(text: str) -> str:
    """A decoded answer as the published chat prints it: newlines vanish without a space."""
    return text.replace("\n", "").replace("  ", " ")


def remove_repeated_tags(text: str) -> str:
    """Cleans a description exactly as the published chat does.

    Of `<tag> content` each pair is kept where it stands first, contents compared without the white
    space around them. Tags without content vanish, and so does nothing before the first pair.
    """
    pairs, seen = list(_TAGGED.finditer(text)), set()
    if not pairs:
        return text
    parts = [text[:pairs[0].start()]]
    for pair in pairs:
        if (key := (pair[1], pair[2].strip())) not in seen:
            seen.add(key)
            parts.append(pair[0])
    return "".join(parts)


def check_pixels(case: SidaCase, results: Results) -> None:
    """What CLIP and SAM see of every photo, and the soft ground truth of its mask."""
    for name, published in case.meta["images"].items():
        photo = case.photo(name)
        results.equal(f"{name} original_hw", photo.shape[:2], published["original_hw"])
        view = images.clip_image(photo, case.config.vision.image_size)
        pixels = _channels_first(clip.normalize(view[None]))
        results.within(f"pre_{name}_clip_s4", pixels[:, 3::4, 1::4], tolerance=0)
        results.stats(f"pre_{name}_clip_stats", pixels, axes=3, tolerance=1e-6)
        view, size = images.sam_image(photo, SAM_SIZE, SAM_SIZE)
        results.equal(f"pre_{name}_resize", size)
        digest = hashlib.sha256(view[:size[0], :size[1]].tobytes()).hexdigest()
        results.equal(f"{name} resized_uint8_sha256", digest, published["resized_uint8_sha256"])
        pixels = _channels_first(jax.jit(sam_encoder.normalize)(view[None], np.array([size])))
        results.within(f"pre_{name}_sam_s16", pixels[:, 5::16, 5::16], tolerance=1e-5)
        results.stats(f"pre_{name}_sam_stats", pixels, axes=3, tolerance=1e-6)
        mask = (case.soft_mask(name) / 255).astype(np.float32)[None]
        results.within(f"pre_{name}_mask_s8", mask[:, 3::8, 3::8], tolerance=0)
        results.stats(f"pre_{name}_mask_stats", mask, axes=3, tolerance=1e-6)
        least = published["mask_values"]
        results.equal(f"{name} mask_values", np.unique(np.rint(mask * 255))[:len(least)], least)


def _channels_first(pixels) -> np.ndarray:
    """float32[1, C, C, 3] -> float32[3, C, C]."""
    return np.asarray(pixels)[0].transpose(2, 0, 1)
