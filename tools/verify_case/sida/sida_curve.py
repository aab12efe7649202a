"""Follow a case's training run, stage 1, through our own train step, optimizer and schedule.

Its first update has the peak of the rate, and AdamW's first step of an entry is rate * g / (|g| +
epsilon). Where a clipped gradient g is near epsilon, the rounding of g moves the entry by far more
than anything does the others: in the case S one of layer 1's value projection has g = -1e-7, and
two runs of ours that differ in nothing but what the backward pass computes again are 9e-7 apart
there, as much as the tolerance. Final weights may therefore also be off by what the reference's own
rounding of gradients makes of that step, which is nothing where g is far from epsilon.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from legion_jax.config import LoraConfig
from legion_jax.convert.table import lora_rules
from legion_jax.models import param_tree
from legion_jax.train.knobs import OptimizerSettings
from tools.verify_case.case import Loaded
from tools.verify_case.comparisons import Results
from tools.verify_case.learning import (
    GRAD_NORM,
    LOSS,
    Gradients,
    TrainingRun,
    check_norms,
    loss_terms,
    norm,
    together,
)
from tools.verify_case.sida import sida_batches
from tools.verify_case.sida.sida_case import GROUPS, SidaCase
from tools.verify_case.sida.sida_training import (
    PROJECTIONS,
    check_reported,
    objective,
    published,
    published_losses,
    run_settings,
    trainable,
)
from tools.verify_case.whole import assemble

STAGE = "stage1"
UPDATES = 10000  # of the schedule, of which only a part of the warm-up is run
RATE = 1e-6
REPORTED = ("loss", "cls_loss", "mask_bce_loss", "mask_dice_loss")


def check_curve(case: SidaCase, results: Results) -> None:
    """Losses, gradient norm and rate of every update, and the weights they lead to."""
    first = dict(np.load(case.folder / "lora_init.npz"))
    settings = run_settings(STAGE, learning_rate=case.options["lr"], total_steps=UPDATES)
    case, flat = with_lora(case, first, settings.model.lora_alpha)
    inputs = {group: sida_batches.inputs(case, sida_batches.of_stage(case, STAGE, group))
              for group in GROUPS}
    order = list(inputs.values())
    learned = objective(case, STAGE, order[0])
    run = TrainingRun(case, flat, trainable(settings, lora=True), settings=settings.optimizer,
                      objective=learned)
    grads = _follow(case, results, run, order,
                    Gradients(case, trainable(settings, lora=True), learned))
    for name in ("curve_grad_norm", "curve_grad_norm_exact"):
        results.relative(name, run.column("grad_norm"), tolerance=GRAD_NORM)
    results.relative("curve_lr", run.column("learning_rate"), tolerance=RATE)
    for name, values in _reported(run).items():
        results.relative(f"curve_{name}", values, tolerance=LOSS)
    after = case.holding(Loaded.of(case.config, run.after))
    for group, batch in inputs.items():
        terms = loss_terms(after, batch, objective(after, STAGE, batch))
        ours = published_losses(terms, STAGE)
        check_reported(case, results, f"curve_after_{group}_", {name: ours[name]
                                                                for name in REPORTED})
    total, share = together({key: norm(grad) for key, grad in grads.items()}, ""), _rounding(case)
    _check_weights(case, results, run, {
        key: first_step_rounding(grad, settings.optimizer, total=total, share=share)
        for key, grad in grads.items()})


def _rounding(case):
    """The reference's rounding of gradients: its largest share of an array's largest entry."""
    largest = {name: np.abs(case.reference[name]).max()
               for name in case.reference.names(f"{STAGE}_tam_grad/")}
    return max(case.noise[name] / size for name, size in largest.items() if size)


def first_step_rounding(grad: np.ndarray, settings: OptimizerSettings, *, total: float,
                        share: float) -> np.ndarray:
    """How far the rounding of a tensor's gradient takes its entries in the first update.

    Args:
        total: norm of the whole gradient, by which it is clipped.
        share: of its largest entry that is rounding in every entry but those that are exactly 0.
    """
    clip = min(1.0, settings.clip_norm / total)
    size = clip * np.abs(grad.astype(np.float64))
    slope = settings.learning_rate * settings.epsilon / (size + settings.epsilon) ** 2
    off = np.minimum(slope * share * size.max(initial=0), 2 * settings.learning_rate)
    return np.where(grad == 0, 0, off)


def with_lora(case: SidaCase, first: dict, alpha: float) -> tuple[SidaCase, dict]:
    """The case with LoRA, and {path: array} of all its parameters.

    `first`: what LoRA's factors begin as, by the names of the case.
    """
    rank = len(next(array for name, array in first.items() if name.endswith("lora_A")))
    config = dataclasses.replace(case.config, lora=LoraConfig(rank, alpha, 0.0))
    shapes = param_tree.abstract_params(config)
    flat = param_tree.flatten(case.params) | {
        rule.path: jnp.asarray(assemble(rule, lambda key: first[key.removesuffix(".weight")],
                                        shapes[rule.path].shape)) for rule in lora_rules(config)}
    return case.holding(Loaded.of(config, flat)), flat


def _follow(case, results, run, order, gradients):
    """Make the run's updates, and compare every tensor's gradient at the first of them.

    Returns {published name: gradient} of the very first.
    """
    first, updates, recorded = {}, len(case.reference["curve_loss"]), case.meta["grad_norms_step"]
    for number in range(updates):
        batch = order[number % len(order)]
        if wanted := recorded.get(str(number)):
            now = case.holding(Loaded.of(case.config, run.after))
            grads = published(case, gradients(now, batch))
            first = first or grads
            norms = {key: norm(grad) for key, grad in grads.items()}
            check_norms(results, f"step {number} grad norm", norms, wanted,
                        total=together(norms, ""))
        run.follow(1, lambda _, batch=batch: batch)
    return first


def _reported(run):
    """What the published code reports of every update, float64[N] by its names."""
    rows = [published_losses({name: np.float64(row[name])
                              for name in ("ce", "bce", "dice", "verdict")}, STAGE)
            for row in run.rows]
    return {name: np.array([row[name] for row in rows]) for name in REPORTED}


def _check_weights(case, results, run, rounding):
    """Final weights, and how far every tensor has come, against ten times the noise.

    `rounding`: {published name: what may be left out of a difference}.
    """
    start, end = (published(case, {path: np.asarray(x) for path, x in tree.items()})
                  for tree in (run.before, run.after))
    for name in case.reference.names("final/"):
        key, rows = name.removeprefix("final/"), slice(None)
        if key.startswith("rows/"):
            key, rows = key.removeprefix("rows/"), case.reference["stage1_tam_grad_rows"]
        wanted = case.reference[name]
        off = end[key][rows].astype(np.float64) - wanted
        off = np.sign(off) * np.maximum(np.abs(off) - rounding[key][rows], 0)
        results.within(name, _without_keys(key, wanted + off), _without_keys(key, wanted),
                       tolerance=0.0)
    meaningless = {*case.meta["never_updated"], *case.meta["rounding_only"]}
    changes = [norm(end[key] - start[key])
               for key in sorted(case.meta["change_norm"].keys() - meaningless)]
    results.within("curve_change_norms", changes, tolerance=0.0)
    for key in case.meta["never_updated"]:
        results.equal(f"{key} is not updated", end[key], start[key])


def _without_keys(key, array):
    """A tensor without the bias of keys, which moves by the rounding of its zero gradient alone."""
    if key != f"{PROJECTIONS}bias":
        return array
    query, _, value = np.split(array, 3)
    return np.concatenate([query, value])
