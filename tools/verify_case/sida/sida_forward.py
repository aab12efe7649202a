"""Checks of every activation of the training forward pass of both stages, masks included."""

import math

import jax.numpy as jnp
import numpy as np

from legion_jax.config import CLS_TOKEN, SEG_TOKEN
from legion_jax.models.legion import splice_flags, token_slots
from legion_jax.models.reading import Reading, framed_masks, read_text, see, verdict_logits
from tools.verify_case.comparisons import FEATURE, Results
from tools.verify_case.sida import sida_batches
from tools.verify_case.sida.sida_case import SidaCase

MASK = 1e-3  # of masks' logits, before and behind the change of size
EMBEDDING_ROWS = (0, 13, 14, 41, 42, 63)  # window borders and the last row


def check_sight(case: SidaCase, results: Results) -> None:
    """CLIP, projector, and SAM's image encoder on the tampered pair."""
    names = case.names("tam")
    features, projected = (np.asarray(x) for x in case.compute(
        _see, case.views(names)["vision_image"]))
    some = len(case.reference["clip_features"])
    results.of_largest("clip_features", features[:some], tolerance=FEATURE)
    results.stats("clip_features_stats", features, axes=2)
    results.of_largest("projected_first16", projected[:, :16], tolerance=FEATURE)
    results.stats("projected_stats", projected, axes=2)
    image = case.embeddings(names).transpose(0, 3, 1, 2)  # [B, D, Y, X], as in the reference
    results.of_largest("sam_emb_s4", image[:, :, 1::4, 1::4], tolerance=FEATURE)
    some = len(case.reference["sam_emb_rows"])
    results.of_largest("sam_emb_rows", image[:some, :, list(EMBEDDING_ROWS)], tolerance=FEATURE)
    results.stats("sam_emb_stats", image, axes=3)


def _see(model, image):
    """The patches that CLIP sees, and what the language model reads."""
    patches = model.see(image).patches
    return patches, model.project(patches)


def check_reading(case: SidaCase, results: Results) -> None:
    """States, classes, mask prompts and masks of every batch."""
    for name, batch in sida_batches.batches(case).items():
        _check_batch(sida_batches.in_stage(case, batch.stage), results, name, batch)


def _check_batch(case, results, name, batch):
    inputs = sida_batches.inputs(case, batch)
    length = sida_batches.rows(case, batch)["ids"].shape[1]
    out = forward(case, inputs)
    rows, _, width = out["states"].shape
    results.equal(f"{name}_hidden_shape", (rows, length - 1 + case.patches, width))
    for row, wanted in enumerate(case.reference[f"{name}_last_hidden_stats"]):
        results.stats(f"{name}_last_hidden_stats[{row}]", out["states"][row][out["valid"][row]],
                      wanted, axes=2)
    at_cls, at_seg = (case.reference[f"{name}_{token}_positions"] for token in ("cls", "seg"))
    results.of_largest(f"{name}_cls_hidden", out["states"][tuple(at_cls.T)], tolerance=FEATURE)
    results.of_largest(f"{name}_cls_logits", out["logits"], tolerance=FEATURE)
    if not len(at_seg):
        return
    has = out["has_seg"]
    results.of_largest(f"{name}_seg_hidden", out["states"][tuple(at_seg.T)], tolerance=FEATURE)
    results.of_largest(f"{name}_seg_embeddings", out["prompts"][has], tolerance=FEATURE)
    results.of_largest(f"{name}_cls_projected", out["query"], tolerance=FEATURE)
    results.of_largest(f"{name}_attention_out", (out["fused"] - out["prompts"])[:, 0],
                       tolerance=FEATURE)
    results.of_largest(f"{name}_fused_embeddings", out["fused"][has], tolerance=FEATURE)
    low, framed = (list(zip(out[key], has, strict=True)) for key in ("low", "framed"))
    for row, (height, width) in enumerate(inputs["original_size"]):
        check_low(results, f"{name}_low{row}", low[row][0][has[row]])
        check_mask(case, results, f"{name}_mask{row}", framed[row][0][has[row], :height, :width])


def forward(case: SidaCase, inputs: dict) -> dict[str, np.ndarray]:
    """Everything between the words of a batch and its masks, see `_read`."""
    ids = case.tokenizer.ids_of(case.config.watched)
    return {key: np.asarray(value) for key, value in case.compute(
        _read, inputs, image_index=case.image_index(inputs["ids"]), cls_id=ids[CLS_TOKEN],
        seg_id=ids[SEG_TOKEN], slots=inputs["mask_valid"].shape[1]).items()}


def _read(model, inputs, *, image_index, cls_id, seg_id, slots):
    """Everything between the words of a batch and its masks."""
    reading = Reading(image_index, {CLS_TOKEN: cls_id, SEG_TOKEN: seg_id})
    seen, patches = see(model, inputs), model.config.vision.num_patches
    states = read_text(model, inputs, seen, image_index)
    logits, _ = verdict_logits(model, inputs, seen, states, reading)
    positions, has_seg, _ = token_slots(inputs["ids"], seg_id, slots, patches)
    prompts = model.prompt(jnp.take_along_axis(states, positions[..., None], axis=1))
    fused = model.fuse(prompts, logits, has_seg)
    low, _ = model.draw(inputs["sam_embedding"], fused)
    framed, _ = framed_masks(model, inputs, states, reading, logits)
    return {"states": states, "logits": logits, "has_seg": has_seg, "prompts": prompts,
            "query": model.fusion.ask(logits), "fused": fused, "low": low, "framed": framed,
            "valid": splice_flags(inputs["valid"], image_index, patches, True)}


def check_low(results: Results, name: str, low: np.ndarray) -> None:
    """Masks float32[K, 4Y, 4X] as SAM's decoder draws them."""
    results.within(f"{name}_s4", low[:, 1::4, 1::4], tolerance=MASK)
    results.stats(f"{name}_stats", low, axes=2, tolerance=MASK)


def check_mask(case: SidaCase, results: Results, name: str, masks: np.ndarray) -> None:
    """Masks float32[K, H, W] in their frame."""
    stride = int(case.reference[f"{name}_stride"])
    results.equal(f"{name}_shape", masks.shape)
    results.within(f"{name}_s", masks[:, 1::stride, 1::stride], tolerance=MASK)
    results.stats(f"{name}_stats", masks, axes=2, tolerance=MASK)
    off = np.abs((masks > 0).sum((1, 2)) - case.reference[f"{name}_npos"]) / math.prod(
        masks.shape[1:])
    results.add(f"{name}_npos", off.max(initial=0), 1e-4, "share of pixels")
