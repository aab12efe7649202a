"""Checks of inference: answers, states and masks by the programs that prediction runs."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.photos import regions
from legion_jax.config import SEG_TOKEN
from legion_jax.models import mask_frame
from legion_jax.models.legion import Legion, token_slots
from legion_jax.predict.decoding import Rules, Watched
from legion_jax.predict.scheduler import Job, Judging
from tools.verify_case.answering import REFILLED, answers, says_nothing
from tools.verify_case.comparisons import Results, unpacked
from tools.verify_case.legion.legion_case import LegionCase
from tools.verify_case.legion.legion_forward import check_drawing

JUDGING = Judging(source=None, real=None, masked=None, read_words=says_nothing)


def answer(case: LegionCase, number: int, photos: Sequence[int], *, max_new: int, masks: int,
           eos_id: int | None = None) -> list[Job]:
    """Greedy answers to the case's inference prompt `number`, by the scheduler of prediction.

    Args:
        photos: numbers of the photos that are asked about, as of `answers`.
        max_new: tokens of an answer; masks: of an answer, as many as are expected.
        eos_id: the end token, by default the tokenizer's own.

    Returns:
        The jobs, in the order of `photos`.
    """
    prompt = case.inputs[f"eval{number}_input_ids"][0]
    watched = Watched(SEG_TOKEN, case.tokenizer.seg_id, masks + 1)  # one more would be seen
    rules = Rules(max_new, case.tokenizer.eos_id if eos_id is None else eos_id, (watched,))
    return answers(case, prompt, photos, rules=rules, judging=JUDGING,
                   job_of=lambda key, photo: _job(case, key, photo))


def _job(case: LegionCase, key: int, number: int) -> Job:
    views = {name: field[0] for name, field in
             case.photos([number], case.meta["infer_image_size"]).items()}
    frame = views.pop("original_size")
    return Job(key, tuple(frame.tolist()), number, views, frame)


def check_answers(case: LegionCase, results: Results) -> None:
    """All inference runs of a case."""
    for number, entry in enumerate(case.meta["eval"]):
        _check_answer(case, results, number, entry)
        if stop := entry.get("early_stop"):
            job, = answer(case, number, [number], max_new=case.meta["max_new_tokens"],
                          masks=entry["n_masks"], eos_id=stop["eos_token_id"])
            results.equal(f"eval{number} early_stop", job.tokens, stop["new_ids"])
    if empty := case.meta.get("eval_no_seg"):
        number = empty["image"]
        job, = answer(case, number, [number], max_new=empty["max_tokens_new"], masks=0)
        results.equal("eval_no_seg masks_shape", (job.counts[SEG_TOKEN], *job.size),
                      empty["masks_shape"])


def _check_answer(case: LegionCase, results: Results, number: int, entry: dict) -> None:
    """Tokens, [SEG] states and masks of one prompt, and what each step computed."""
    other = (number + 1) % len(case.seen_photos)
    job, _, again = answer(case, number, [number, other, number], masks=entry["n_masks"],
                           max_new=case.meta["max_new_tokens"])
    name = f"eval{number}"
    results.equal(f"{name} new_ids", job.tokens, entry["new_ids"])
    results.equal(f"{name} new_ids {REFILLED}", again.tokens, entry["new_ids"])
    ids = np.concatenate([case.inputs[f"{name}_input_ids"][0], job.tokens])[None]
    results.equal(f"{name}_output_ids", ids)
    text = case.tokenizer.decode(ids[0].tolist())
    results.equal(f"{name} decoded_raw", text, entry["decoded_raw"])
    results.equal(f"{name} n_masks", job.counts[SEG_TOKEN], entry["n_masks"])
    _check_steps(case, results, number, ids)
    if not job.counts[SEG_TOKEN]:
        return
    states = job.states[SEG_TOKEN][:job.counts[SEG_TOKEN]]
    results.scaled(f"{name}_seg_hidden", states)
    prompts = case.compute(Legion.prompt, states[None])
    results.scaled(f"{name}_pred_emb", prompts[0])
    photos = case.photos([number], case.meta["infer_image_size"])
    check_drawing(case, results, name, photos, prompts, np.ones((1, len(states)), bool))
    masks = unpacked(case.reference, f"{name}_pred_masks_0_bits", f"{name}_pred_masks_0_shape")
    for suffix, drawn in (("as predicted", job), (f"as predicted {REFILLED}", again)):
        bits = regions.unpack_masks(drawn.packed)[..., :drawn.size[1]]
        results.signs(f"{name} masks {suffix}", bits, masks)


def _check_steps(case, results, number, ids):
    """Hidden states and logits per step, from one uncached pass over the whole answer."""
    reference, name = case.reference, f"eval{number}"
    fed = ids[:, :-1].astype(np.int32)  # the last token is never fed
    photos = case.photos([number], case.meta["infer_image_size"])
    states, logits = case.compute(_read, fed, photos["vision_image"],
                                  image_index=case.image_index(ids),
                                  steps=len(case.meta["eval"][number]["new_ids"]))
    logits = np.asarray(logits)[:, :case.config.language.vocab]
    results.equal(f"{name}_last_hidden_shape", states.shape)
    tail = reference[f"{name}_last_hidden_tail"]
    results.scaled(f"{name}_last_hidden_tail", states[0, -len(tail):], tail)
    results.scaled(f"{name}_step_logits_cols", logits[:, reference["vocab_cols"]])
    results.scaled(f"{name}_step_lse", jax.jit(jax.nn.logsumexp, static_argnums=1)(logits, -1))
    top = reference[f"{name}_step_top5_ids"]
    results.scaled(f"{name}_step_top5_logits", np.take_along_axis(logits, top, axis=1))
    # Ids whose logits are closer than the tolerance may change places: the logit at our k-th
    # place must be that of the reference's k-th place.
    ours = np.take_along_axis(logits, np.argsort(-logits, axis=1)[:, :top.shape[1]], axis=1)
    results.scaled(f"{name}_step_top5_ids", ours, reference[f"{name}_step_top5_logits"])
    slots = max(case.meta["eval"][number]["n_masks"], 1)
    positions, has_seg, _ = token_slots(jnp.asarray(ids), case.tokenizer.seg_id, slots,
                                        case.config.vision.num_patches)
    segs = np.asarray(positions)[np.asarray(has_seg)]
    results.equal(f"{name}_seg_positions", np.stack([np.zeros_like(segs), segs], axis=1))


def _read(model, ids, image, *, image_index, steps):
    """States of a text without padding, and the logits of its last `steps` positions."""
    x = model.embed(ids, model.see(image), image_index)
    states = model.read(x, jnp.ones(x.shape[:2], bool))
    return states, model.language.logits(states[0, -steps:])


def check_teacher_forced(case: LegionCase, results: Results) -> None:
    """The reference's validation path: masks of sample 0 from its true text."""
    ids = case.reference["valpath_input_ids"].astype(np.int32)
    photos = case.photos([0], case.meta["train_image_size"])
    logits, has_seg = case.compute(
        _draw_from_text, ids, photos, image_index=case.image_index(ids), canvas=case.canvas(),
        slots=max(int((ids == case.tokenizer.seg_id).sum()), 1), seg_id=case.tokenizer.seg_id)
    height, width = photos["original_size"][0]
    ours = np.asarray(logits[0])[np.asarray(has_seg[0]), :height, :width]
    results.within("valpath_pred_masks_s5", ours[:, 2::5, 2::5], tolerance=1e-3)
    results.stats("valpath_pred_masks_stats", ours, axes=2,
                  tolerance=1e-3)


def _draw_from_text(model, ids, photos, *, image_index, canvas, slots, seg_id):
    """Masks of the [SEG]s of a text without padding in the frame, and whether there is each."""
    positions, has_seg, _ = token_slots(ids, seg_id, slots, model.config.vision.num_patches)
    x = model.embed(ids, model.see(photos["vision_image"]), image_index)
    states = model.read(x, jnp.ones(x.shape[:2], bool))
    states = jnp.take_along_axis(states, positions[..., None], axis=1)
    embedding = model.ground(photos["sam_image"], photos["resized_size"])
    logits, _ = model.draw(embedding, model.prompt(states))
    return mask_frame.to_frame(logits, photos["resized_size"], photos["original_size"],
                               sam_size=model.config.sam.image_size, canvas=canvas), has_seg
