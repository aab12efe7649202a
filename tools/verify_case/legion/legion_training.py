"""Checks of the losses of every batch of a case, and of all gradients."""

import re

import numpy as np

from legion_jax.convert.table import rules
from legion_jax.train import losses
from tools.verify_case.comparisons import Results
from tools.verify_case.learning import (
    GRAD_NORM,
    LOSS,
    Gradients,
    check_norms,
    norm,
    together,
)
from tools.verify_case.legion.legion_case import LegionCase
from tools.verify_case.legion.legion_forward import loss_terms
from tools.verify_case.whole import to_torch_tensors

# What the reference trains without LoRA.
TRAINABLE = (r"^language/", r"^projector/", r"^mask_decoder/", r"^text_projection/")
GROUPS = {"q_proj_0": r"layers\.0\.self_attn\.q_proj", "layers": r"^model\.layers\.",
          "final_norm": r"^model\.norm\.", "total": r""}


def check_losses(case: LegionCase, results: Results) -> None:
    """Training, text-only, truncated and two-conversation batches."""
    rows = list(range(len(case.inputs["train_input_ids"])))
    batch, truth = case.train_batch(), [case.gt_masks(i) for i in rows]
    ours = loss_terms(case, batch)
    names = ("train_loss", "train_ce_loss", "train_mask_bce_loss", "train_mask_dice_loss",
             "train_mask_loss")
    for name, value in zip(names, ours, strict=True):
        results.relative(name, value, tolerance=LOSS)
    no_masks = batch | {"mask_valid": np.zeros_like(batch["mask_valid"])}
    results.relative("train_nomask_losses", loss_terms(case, no_masks), tolerance=LOSS)
    results.relative("trunc_losses", loss_terms(case, case.batch("trunc", rows, truth)),
                     tolerance=LOSS)
    cut = case.meta["trunc0"]["truncate_len"]
    before = np.arange(batch["ids"].shape[1]) < cut
    shorter = batch | {key: batch[key] * before for key in ("ids", "valid", "loss_mask")}
    results.relative("trunc0_losses", loss_terms(case, shorter), tolerance=LOSS)
    results.relative("multi_losses", loss_terms(case, two_conversations(case, truth)),
                     tolerance=LOSS)


def two_conversations(case: LegionCase, truth: list[np.ndarray]) -> dict:
    """The batch whose first photo has two conversations: a row each, the photo repeated.

    Its ground truth is the first photo's masks followed by the complement of the first of them.
    """
    offset, ids = case.inputs["multi_offset"], case.inputs["multi_input_ids"]
    numbers = np.repeat(np.arange(len(offset) - 1), np.diff(offset)).tolist()
    per_photo = [np.concatenate([truth[0], 1 - truth[0][:1]])] + truth[1:]
    taken, masks = [0] * len(per_photo), []
    for row, number in enumerate(numbers):
        count = int((ids[row] == case.tokenizer.seg_id).sum())
        start = taken[number]
        taken[number] += count
        masks.append(per_photo[number][start:start + count])
    return case.batch("multi", numbers, masks)


def check_gradients(case: LegionCase, results: Results) -> None:
    """Norm of every parameter's gradient, the stored full gradients and vocabulary rows."""
    reference = case.reference
    batch = case.train_batch()
    objective = losses.Objective(case.loss_weights(), case.reading(batch["ids"]))
    grads = Gradients(case, TRAINABLE, objective)(case, batch)
    grads = to_torch_tensors(grads, [rule for rule in rules(case.config) if rule.path in grads])
    norms = {key: norm(grad) for key, grad in grads.items()}
    groups = case.meta["grad_group_norms"]
    check_norms(results, "grad norm", norms, case.meta["grad_norms"], total=groups["total"])
    for group, want in groups.items():
        results.relative(f"grad norm of group {group}",
                         together(norms, GROUPS.get(group, re.escape(group))), want,
                         tolerance=GRAD_NORM)
    for name in reference.names("grad/"):
        results.of_largest(name, grads[name.removeprefix("grad/")], tolerance=GRAD_NORM)
    rows = reference["grad_rows"]
    for name in reference.names("grad_rows/"):
        results.of_largest(name, grads[name.removeprefix("grad_rows/")][rows],
                           tolerance=GRAD_NORM)
