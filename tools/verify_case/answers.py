"""Checks of inference: greedy answers by the cached decoder, their states and their masks."""

import jax
import jax.numpy as jnp
import numpy as np

from legion_jax.models import mask_frame
from legion_jax.models.layers import numerics
from legion_jax.models.legion import seg_slots
from legion_jax.predict import decoding
from tools.verify_case.case import Case
from tools.verify_case.comparisons import Results
from tools.verify_case.forward import check_drawing


def decode(case: Case, number: int, *, max_new: int, eos_id: int | None = None):
    """Greedy answer to the case's inference prompt `number`; also the photo's fields."""
    ids = jnp.asarray(case.inputs[f"eval{number}_input_ids"], jnp.int32)
    photos = case.photos([number], case.meta["infer_image_size"])
    # Every prompt [SEG] and every new token could ask for a mask.
    slots = int((ids == case.tokenizer.seg_id).sum()) + max_new

    @jax.jit
    def run(ids, image):
        model = case.model
        return decoding.greedy(
            model, ids, jnp.ones(ids.shape, bool), model.see(image),
            image_index=case.image_index(np.asarray(case.inputs[f"eval{number}_input_ids"])),
            max_new=max_new, slots=slots, seg_id=case.tokenizer.seg_id,
            eos_id=case.tokenizer.eos_id if eos_id is None else eos_id)

    with numerics(case.config):
        return run(ids, photos["clip_image"]), photos


def check_answers(case: Case, results: Results) -> None:
    """All inference runs of a case."""
    for number, entry in enumerate(case.meta["eval"]):
        decoded, photos = decode(case, number, max_new=case.meta["max_new_tokens"])
        length = int(decoded.length[0])
        tokens = np.asarray(decoded.tokens)[0, :length]
        name = f"eval{number}"
        results.equal(f"{name} new_ids", tokens, entry["new_ids"])
        ids = np.concatenate([case.inputs[f"{name}_input_ids"][0], tokens])[None]
        results.equal(f"{name}_output_ids", ids, case.reference[f"{name}_output_ids"])
        text = case.tokenizer.decode(ids[0].tolist())
        results.equal(f"{name} decoded_raw", text, entry["decoded_raw"])
        count = int(decoded.seg_count[0])
        results.equal(f"{name} n_masks", count, entry["n_masks"])
        states = np.asarray(decoded.seg_states)[:, :count]
        results.scaled(f"{name}_seg_hidden", states[0], case.reference[f"{name}_seg_hidden"])
        with numerics(case.config):
            prompts = case.model.prompt(jnp.asarray(states))
        results.scaled(f"{name}_pred_emb", np.asarray(prompts)[0],
                       case.reference[f"{name}_pred_emb"])
        if count:
            check_drawing(case, results, name, photos, prompts, np.ones((1, count), bool))
        _check_steps(case, results, number, ids)
        if stop := entry.get("early_stop"):
            decoded, _ = decode(case, number, max_new=case.meta["max_new_tokens"],
                                eos_id=stop["eos_token_id"])
            tokens = np.asarray(decoded.tokens)[0, :int(decoded.length[0])]
            results.equal(f"{name} early_stop", tokens, stop["new_ids"])
    if empty := case.meta.get("eval_no_seg"):
        decoded, photos = decode(case, empty["image"], max_new=empty["max_tokens_new"])
        shape = (int(decoded.seg_count[0]), *photos["original_size"][0])
        results.equal("eval_no_seg masks_shape", shape, empty["masks_shape"])


def _check_steps(case, results, number, ids):
    """Hidden states and logits per step, from one uncached pass over the whole answer."""
    reference, model, name = case.reference, case.model, f"eval{number}"
    fed = jnp.asarray(ids[:, :-1], jnp.int32)  # the last token is never fed
    index = case.image_index(ids)
    photos = case.photos([number], case.meta["infer_image_size"])
    with numerics(case.config):
        x = model.embed(fed, model.see(photos["clip_image"]), index)
        states = model.read(x, jnp.ones(x.shape[:2], bool))
        steps = len(case.meta["eval"][number]["new_ids"])
        logits = np.asarray(model.language.logits(states[0, -steps:]))
    logits = logits[:, :case.config.language.vocab]
    results.equal(f"{name}_last_hidden_shape", states.shape, reference[f"{name}_last_hidden_shape"])
    tail = reference[f"{name}_last_hidden_tail"]
    results.scaled(f"{name}_last_hidden_tail", states[0, -len(tail):], tail)
    results.scaled(f"{name}_step_logits_cols", logits[:, reference["vocab_cols"]],
                   reference[f"{name}_step_logits_cols"])
    results.scaled(f"{name}_step_lse", np.asarray(jax.nn.logsumexp(logits, axis=-1)),
                   reference[f"{name}_step_lse"])
    top = reference[f"{name}_step_top5_ids"]
    results.scaled(f"{name}_step_top5_logits", np.take_along_axis(logits, top, axis=1),
                   reference[f"{name}_step_top5_logits"])
    # Ids whose logits are closer than the tolerance may change places: the logit at our k-th
    # place must be that of the reference's k-th place.
    ours = np.take_along_axis(logits, np.argsort(-logits, axis=1)[:, :top.shape[1]], axis=1)
    results.scaled(f"{name}_step_top5_ids", ours, reference[f"{name}_step_top5_logits"])
    slots = max(case.meta["eval"][number]["n_masks"], 1)
    positions, has_seg, _ = seg_slots(jnp.asarray(ids), case.tokenizer.seg_id, slots,
                                      case.config.clip.num_patches)
    found = np.asarray(positions)[np.asarray(has_seg)]
    results.equal(f"{name}_seg_positions", np.stack([np.zeros_like(found), found], axis=1),
                  reference[f"{name}_seg_positions"])


def check_teacher_forced(case: Case, results: Results) -> None:
    """The reference's validation path: masks of sample 0 from its true text."""
    reference, model = case.reference, case.model
    ids = jnp.asarray(reference["valpath_input_ids"], jnp.int32)
    photos = case.photos([0], case.meta["train_image_size"])
    slots = max(int((ids == case.tokenizer.seg_id).sum()), 1)
    positions, has_seg, _ = seg_slots(ids, case.tokenizer.seg_id, slots,
                                      case.config.clip.num_patches)
    with numerics(case.config):
        x = model.embed(ids, model.see(photos["clip_image"]), case.image_index(np.asarray(ids)))
        states = model.read(x, jnp.ones(x.shape[:2], bool))
        states = jnp.take_along_axis(states, positions[..., None], axis=1)
        resized = jnp.asarray(photos["resized_size"])
        logits, _ = model.draw(model.ground(photos["sam_image"], resized), model.prompt(states))
    logits = mask_frame.to_frame(logits, resized, jnp.asarray(photos["original_size"]),
                                 sam_size=case.config.sam.image_size, canvas=case.canvas())
    height, width = photos["original_size"][0]
    ours = np.asarray(logits[0])[np.asarray(has_seg[0]), :height, :width]
    results.within("valpath_pred_masks_s5", ours[:, 2::5, 2::5],
                   reference["valpath_pred_masks_s5"], 1e-3)
    results.stats("valpath_pred_masks_stats", ours, reference["valpath_pred_masks_stats"], axes=2,
                  tolerance=1e-3)
