"""Checks of the losses of every batch of both stages, of all gradients, and of validation.

They are computed by the product's recipe of the published training, `sida_7b_published`, whose
switches repeat its faults. The first stage reports the sum of both mask losses under the name of
each, and both have the weight of the two together. A batch of the second stage without a text to
learn has a language loss of NaN, which must be NaN here, too.
"""

import numpy as np

from legion_jax.convert.names import LISA
from legion_jax.convert.table import lora_rules, rules
from legion_jax.evaluate import mask_scores
from legion_jax.train import recipes
from legion_jax.train.knobs import RunSettings
from legion_jax.train.losses import Objective
from tools.verify_case.comparisons import FEATURE, Results
from tools.verify_case.learning import (
    GRAD_NORM,
    LOSS,
    Gradients,
    check_norms,
    loss_terms,
    norm,
    together,
)
from tools.verify_case.sida import sida_batches
from tools.verify_case.sida.sida_case import GROUPS, SidaCase
from tools.verify_case.sida.sida_forward import forward
from tools.verify_case.whole import to_torch_tensors

RECIPES = {"stage1": "sida_7b_published", "stage2": "sida_7b_describe"}
EMBEDDING = "model.embed_tokens.weight"
NORMS = "post_attention_layernorm"  # its name holds that of another group
WHOLLY, PIXELS = 255, 1e-4  # of a mask; share of pixels that may be on the other side
PROJECTIONS = "model.attention_layer.in_proj_"  # of query, key and value in one tensor


def run_settings(stage: str, **optimizer) -> RunSettings:
    """The product's recipe of a stage, with its faults but one.

    The case's model goes on from its checkpoint, of which the published training draws parts anew.
    """
    config = recipes.load(RECIPES[stage]).get_config()
    config.compat.nan_without_text, config.compat.fresh_heads = True, False
    config.optimizer.update(optimizer)
    return RunSettings.from_config(config, without_data=True)


def trainable(settings: RunSettings, *, lora: bool) -> tuple[str, ...]:
    """What a recipe trains, with LoRA's factors or without."""
    return tuple(pattern for pattern in settings.stored if lora or "lora" not in pattern)


def objective(case: SidaCase, stage: str, inputs: dict) -> Objective:
    """What the recipe of a stage minimises."""
    settings = run_settings(stage)
    return Objective(settings.loss_weights, case.reading(inputs["ids"]),
                     settings.compat.nan_without_text)


def published(case: SidaCase, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{published name: array in PyTorch layout} of parameters or gradients {path: array}."""
    table = [rule for rule in (*rules(case.config), *lora_rules(case.config))
             if rule.path in params]
    named = {LISA.from_published(key) or key: value
             for key, value in to_torch_tensors(params, table).items()}
    # A case names LoRA's factors themselves, not their modules' weights.
    return {key.removesuffix(".weight") if ".lora_" in key else key: value
            for key, value in named.items()}


def published_losses(terms: dict, stage: str) -> dict[str, np.float64]:
    """{what the published code reports: its value} of the weighted terms of a batch."""
    weights = run_settings(stage).loss_weights
    masks = terms["bce"] + terms["dice"]
    reported = {"loss": sum(terms.values()), "cls_loss": terms["verdict"] / weights["verdict"]}
    if stage == "stage1":
        both = masks / weights["bce"]
        return reported | {"mask_loss": masks, "mask_bce_loss": both, "mask_dice_loss": both}
    return reported | {name: terms[term] / weights[term] for name, term in (
        ("mask_bce_loss", "bce"), ("mask_dice_loss", "dice"), ("ce_loss", "ce"))} | {
            "mask_loss": masks / weights["bce"]}


def check_losses(case: SidaCase, results: Results) -> None:
    """What is reported of every batch, and the mask losses of one apart from each other."""
    for name, batch in sida_batches.batches(case).items():
        own = sida_batches.in_stage(case, batch.stage)
        inputs = sida_batches.inputs(case, batch)
        terms = loss_terms(own, inputs, objective(own, batch.stage, inputs))
        check_reported(case, results, f"{name}_", published_losses(terms, batch.stage))
        if name == "stage1_tam":
            weights = run_settings("stage1").loss_weights
            for term in ("bce", "dice"):
                results.relative(f"true_losses {term}", terms[term] / weights[term],
                                 case.meta["true_losses"][f"{term}_true"], tolerance=LOSS)


def check_reported(case: SidaCase, results: Results, prefix: str,
                   ours: dict[str, np.float64]) -> None:
    """Losses by the case's names; what is NaN there is NaN here, and nothing else."""
    for name, value in ours.items():
        if np.isnan(case.reference[f"{prefix}{name}"]):
            results.equal(f"{prefix}{name}", np.isnan(value), True)
        else:
            results.relative(f"{prefix}{name}", value, tolerance=LOSS)


def check_gradients(case: SidaCase, results: Results) -> None:
    """Norm of every parameter's gradient, of groups and packed projections, and some gradients."""
    compiled: dict[str, Gradients] = {}
    for name, batch in sida_batches.batches(case).items():
        if name not in case.meta["grads"]:
            continue  # its loss is NaN
        own = sida_batches.in_stage(case, batch.stage)
        inputs = sida_batches.inputs(case, batch)
        if batch.stage not in compiled:
            compiled[batch.stage] = Gradients(
                own, trainable(run_settings(batch.stage), lora=False),
                objective(own, batch.stage, inputs))
        grads = published(own, compiled[batch.stage](own, inputs))
        _check_gradients(results, name, grads, case.meta["grads"][name])
        for array in case.reference.names(f"{name}_grad/"):
            key, rows = array.removeprefix(f"{name}_grad/"), slice(None)
            if key == "embed_rows":
                key, rows = EMBEDDING, case.reference[f"{name}_grad_rows"]
            results.of_largest(array, grads[key][rows], tolerance=GRAD_NORM)


def _check_gradients(results, name, grads, meta):
    norms, total = {key: norm(grad) for key, grad in grads.items()}, meta["global"]
    check_norms(results, f"{name} grad norm", norms, meta["per_param"], total=total)
    results.equal(f"{name} names of gradients", len(norms.keys() - meta["per_param"].keys()), 0)
    results.relative(f"{name} global grad norm", together(norms, ""), total, tolerance=GRAD_NORM)
    results.relative(f"{name}_grad_groups", [
        together({key: each for key, each in norms.items() if group_of(key, meta) == group}, "")
        for group in meta["group_order"]], tolerance=GRAD_NORM)
    for kind in ("weight", "bias"):
        if wanted := meta.get(f"in_proj_q_k_v_{kind}"):
            thirds = np.split(grads[f"{PROJECTIONS}{kind}"], len(wanted))
            check_norms(results, f"{name} {PROJECTIONS}{kind}",
                        dict(zip("qkv", map(norm, thirds), strict=True)),
                        dict(zip("qkv", wanted, strict=True)), total=total)


def group_of(key: str, meta: dict) -> str:
    """The group of gradients that a parameter is counted in."""
    return NORMS if NORMS in key else next(group for group in meta["group_order"] if group in key)


def check_validation(case: SidaCase, results: Results) -> None:
    """Classes and pixels of photos by the words of training, as validation counts them.

    Only what is wholly changed is foreground there; sums of pixels are those of the background and
    of the foreground.
    """
    entries = case.meta["inference_branch"]
    for group in GROUPS:
        batch = sida_batches.of_stage(case, "stage1", group)
        if entries.keys().isdisjoint(batch.names):
            continue
        inputs = sida_batches.inputs(case, batch)
        out = forward(case, inputs)
        for row, name in enumerate(batch.names):
            if name not in entries:
                continue
            results.of_largest(f"infer_{name}_logits", out["logits"][row][None], tolerance=FEATURE)
            if "npos" in entries[name]:
                height, width = inputs["original_size"][row]
                _check_pixels(results, f"infer {name}", out["framed"][row, 0, :height, :width] > 0,
                              case.soft_mask(name) == WHOLLY, entries[name])


def _check_pixels(results, name, predicted, truth, published):
    """`predicted`, `truth`: bool[H, W]."""
    tp, fp, fn, tn = mask_scores.pixel_counts(predicted, truth)
    for figure, ours in (("npos", [tp + fp]), ("gt_npos", [tp + fn]), ("intersection", [tn, tp]),
                         ("union", [tn + fp + fn, tp + fp + fn])):
        off = np.abs(np.array(ours) - published[figure]) / truth.size
        results.add(f"{name} {figure}", off.max(), PIXELS, "share of pixels")
