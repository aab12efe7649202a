"""Checks of every activation of the training forward pass and of the verdict head."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from legion_jax.convert.tensor_folder import TensorFolder
from legion_jax.models import mask_frame, param_tree, sam_encoder
from legion_jax.models.layers import numerics
from legion_jax.models.legion import Legion, Seen, splice_flags, token_slots
from legion_jax.train import losses
from tools.verify_case import learning
from tools.verify_case.comparisons import Results, unpacked
from tools.verify_case.legion.legion_case import LegionCase
from tools.verify_case.tower import tower_states

EMBEDDING_ROWS = (0, 13, 14, 41, 42, 63)  # window borders and the last row


def check_sight(case: LegionCase, results: Results) -> None:
    """CLIP (all hidden states), projector, verdict head and its gradients."""
    photos = case.photos(case.seen_photos, case.meta["train_image_size"])
    states = tower_states(case.config, TensorFolder(case.folder / "clip").read,
                          photos["vision_image"])
    results.scaled("clip_hidden_all_first8", states[:, :, :8])
    results.stats("clip_hidden_all_stats", states, axes=2)
    seen, projected = case.compute(_see, photos["vision_image"])
    results.scaled("clip_hidden_m2", seen)
    results.scaled("projector_s16", projected[:, 3::16])
    results.stats("projector_stats", projected, axes=2)
    if "cls_logits" in case.reference:
        _check_verdict(case, results, seen)


def _see(model, image):
    """What CLIP sees, and its patches as the language model reads them."""
    seen = model.see(image)
    return seen.rows, model.project(seen.patches)


def _check_verdict(case, results, seen):
    flat = param_tree.flatten(case.params)
    head = {p: a for p, a in flat.items() if p.startswith("verdict/")}

    def loss(head, rest, seen, labels):
        model = param_tree.merge(case.graph, param_tree.unflatten(rest | head))
        logits = model.judge(Seen.from_rows(seen).summary)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

    with numerics(case.config):
        (value, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
            head, flat, seen, case.reference["cls_labels"])
    results.scaled("cls_logits", logits)
    results.relative("cls_train_loss", value, tolerance=1e-5)
    for path, key in (("up", "prediction_head.0"), ("down", "prediction_head.2")):
        for ours, theirs in (("kernel", "weight"), ("bias", "bias")):
            name = f"cls_grad/{key}.{theirs}"
            results.scaled(name, np.asarray(grads[f"verdict/{path}/{ours}"]).T)


def check_reading(case: LegionCase, results: Results) -> None:
    """Spliced embeddings, every LLaMA hidden state, logits, and the [SEG] states."""
    batch = case.train_batch()
    index = case.image_index(batch["ids"])
    num_patches = case.config.vision.num_patches
    embeddings, last, states, valid, logits = case.compute(
        _read, batch["ids"], batch["valid"], batch["vision_image"], image_index=index)
    labels = np.where(batch["loss_mask"], batch["ids"], case.meta["ignore_index"])
    spliced = np.concatenate(
        [labels[:, :index], np.full((len(labels), num_patches), case.meta["ignore_index"]),
         labels[:, index + 1:]], axis=1)
    results.equal("train_attention_mask_expanded", valid)
    results.equal("train_labels_expanded", spliced)
    results.scaled("train_inputs_embeds", embeddings)
    valid, last = np.asarray(valid), np.asarray(last)
    some = case.reference["train_hidden_pos"]
    results.scaled("train_hidden_all_at_pos", np.asarray(states)[:, :, some],
                   where=valid[:, some, None])
    results.stats("train_hidden_all_stats", states, axes=2)
    results.scaled("train_last_hidden", last, where=valid[..., None])
    _check_logits(case, results, np.asarray(logits), valid)
    _check_segs(case, results, batch, last)


def _read(model, ids, valid, image, *, image_index):
    """Spliced embeddings, last and all states, which of them are of no padding, and logits."""
    valid = splice_flags(valid, image_index, model.config.vision.num_patches, True)
    embeddings = model.embed(ids, model.see(image), image_index)
    last, states = model.read(embeddings, valid, capture=True)
    return embeddings, last, states, valid, model.language.logits(last)


def _check_logits(case, results, logits, valid):
    reference = case.reference
    logits = logits[..., :case.config.language.vocab]
    columns, start = reference["vocab_cols"], int(reference["train_logits_text_start"])
    index = case.image_index(case.inputs["train_input_ids"])
    results.scaled("train_logits_text_cols", logits[:, start:, columns],
                   where=valid[:, start:, None])
    results.scaled("train_logits_img_cols", logits[:, index:start:48, columns])
    results.scaled("train_logits_lse", jax.jit(jax.nn.logsumexp, static_argnums=1)(logits, -1),
                   where=valid)
    results.scaled("train_logits_max", logits.max(-1), where=valid)
    # A position whose two best logits are closer than rounding has no defined argmax.
    best = np.sort(logits, axis=-1)
    sure = valid & (best[..., -1] - best[..., -2] > 2e-4 * max(1.0, np.abs(best).max()))
    results.equal("train_logits_argmax", logits.argmax(-1), where=sure)


def _check_segs(case, results, batch, last):
    seg_id = case.tokenizer.seg_id
    slots = max(int((batch["ids"] == seg_id).sum(1).max()), 1)
    positions, has_seg, count = (np.asarray(x) for x in token_slots(
        jnp.asarray(batch["ids"]), seg_id, slots, case.config.vision.num_patches))
    rows, columns = np.nonzero(has_seg)
    segs = np.stack([rows, positions[rows, columns]], axis=1)
    flags = np.zeros(last.shape[:2], bool)
    flags[tuple(segs.T)] = True
    results.equal("train_seg_mask", flags)
    results.equal("train_seg_positions", segs)
    results.equal("train_seg_counts", count)
    results.scaled("train_seg_hidden", last[tuple(segs.T)])
    prompts = case.compute(
        Legion.prompt, np.take_along_axis(last, positions[..., None], axis=1))
    results.scaled("train_pred_emb", np.asarray(prompts)[has_seg])
    check_drawing(case, results, "train", batch, prompts, has_seg)


def check_drawing(case: LegionCase, results: Results, name: str, photos: dict, prompts,
                  has_seg) -> None:
    """SAM encoder, mask decoder and masks at the original size, of `{name}_*`.

    Args:
        photos: image fields of B rows; prompts: [B, K, D]; has_seg: bool[B, K].
    """
    image, patches, states, logits, iou, dense, framed = case.compute(
        _draw, photos["sam_image"], photos["resized_size"], photos["original_size"], prompts,
        canvas=case.canvas())
    results.scaled(f"{name}_sam_patch_s8", patches[:, 3::8, 3::8])
    results.scaled(f"{name}_sam_blocks_s8", states[:, :, 3::8, 3::8])
    image = np.asarray(image).transpose(0, 3, 1, 2)  # [B, D, Y, X], as in the reference
    results.scaled(f"{name}_sam_emb_s4", image[:, :, 1::4, 1::4])
    results.scaled(f"{name}_sam_emb_rows", image[:, :, list(EMBEDDING_ROWS)])
    cells, wide = image[0, 0].size, image.astype(np.float64)
    results.scaled(f"{name}_sam_emb_chsum", wide.sum((2, 3)), per=cells)
    results.scaled(f"{name}_sam_emb_chsumsq", (wide ** 2).sum((2, 3)), per=cells)
    low = np.asarray(logits)[has_seg]
    results.within(f"{name}_lowres_s4", low[:, 1::4, 1::4], tolerance=1e-3)
    results.stats(f"{name}_lowres_stats", low, axes=2,
                  tolerance=1e-3)
    if name == "train":
        half = 2.0 ** -11  # relative rounding of the float16 extracts
        results.scaled("train_sam_emb_0_f16", image[0], spacing=half)
        results.within("train_lowres_f16", low,
                       tolerance=1e-3 + half * np.abs(low).max(initial=0))
        results.scaled("train_iou_pred", np.asarray(iou)[has_seg][:, None])
        dense = np.asarray(dense).transpose(2, 0, 1)[None]
        results.scaled("dense_pe_s8", dense[:, :, 3::8, 3::8])
    for row in range(len(framed)):
        height, width = photos["original_size"][row]
        ours = np.asarray(framed[row])[has_seg[row], :height, :width]
        _check_masks(case, results, f"{name}_pred_masks_{row}", ours)


def _draw(model, image, resized, original, prompts, *, canvas):
    """SAM's embedding, patches and states, masks with their scores, and the masks in the frame."""
    embedding, patches, states = model.sam_encoder(sam_encoder.normalize(image, resized),
                                                   capture=True)
    logits, scores = model.draw(embedding, prompts)
    framed = mask_frame.to_frame(logits, resized, original,
                                 sam_size=model.config.sam.image_size, canvas=canvas)
    dense = model.prompt_encoder.positions()
    return embedding, patches, states, logits, scores, dense, framed


def _check_masks(case, results, name, ours):
    masks = unpacked(case.reference, f"{name}_bits", f"{name}_shape")
    results.equal(f"{name}_shape", ours.shape)
    if ours.shape != masks.shape:
        return
    results.signs(f"{name}_bits", ours > 0, masks)
    results.within(f"{name}_s3", ours[:, 1::3, 1::3], tolerance=1e-3)
    results.stats(f"{name}_stats", ours, axes=2, tolerance=1e-3)
    off = np.abs((ours > 0).sum((1, 2)) - case.reference[f"{name}_npos"]) / ours[0].size
    results.add(f"{name}_npos", off.max(initial=0), 1e-4, "share of pixels")


def loss_terms(case: LegionCase, batch: dict) -> np.ndarray:
    """[loss, ce, bce, dice, bce + dice] of a batch with the case's weights, in float64."""
    objective = losses.Objective(case.loss_weights(), case.reading(batch["ids"]))
    terms = learning.loss_terms(case, batch, objective)
    ce, bce, dice = (terms[name] for name in ("ce", "bce", "dice"))
    return np.array([ce + bce + dice, ce, bce, dice, bce + dice])
