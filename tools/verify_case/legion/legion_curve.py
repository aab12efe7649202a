"""Follow a case's training curve through our own train step, optimizer and schedule."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np

from experiments import base
from legion_jax.config import SEG_TOKEN, LoraConfig
from legion_jax.convert.table import lora_rules, rules
from legion_jax.models import param_tree
from legion_jax.train.knobs import OptimizerSettings
from legion_jax.train.losses import Objective
from tools.verify_case.case import CaseError, Loaded
from tools.verify_case.comparisons import Results
from tools.verify_case.learning import TrainingRun
from tools.verify_case.legion.legion_answers import answer
from tools.verify_case.legion.legion_case import LegionCase
from tools.verify_case.legion.legion_forward import loss_terms
from tools.verify_case.whole import assemble, merged, to_torch_tensors

LOSS, GRAD_NORM, NOISE_FACTOR = 1e-4, 1e-3, 10
SCHEDULE = {"learning_rate": 1e-3, "schedule": "linear", "warmup": "above_zero",
            "warmup_steps": 10, "total_steps": 60}


def check_curve(case: LegionCase, results: Results) -> None:
    """Losses and gradient norms per step, final weights, and the final model's answer."""
    folder = case.folder / "train_curve"
    if not folder.is_dir():
        raise CaseError(f"{folder}: not there; this case has no training run to follow")
    meta = json.loads((folder / "meta.json").read_text())
    wanted, first, final = (dict(np.load(folder / f"{name}.npz"))
                            for name in ("losses", "lora_init", "final"))
    lora = LoraConfig(meta["lora"]["r"], meta["lora"]["alpha"], 0.0)
    case = case.holding(dataclasses.replace(
        case.loaded, config=dataclasses.replace(case.config, lora=lora)))
    adam = meta["optimizer"]
    config = OptimizerSettings(**SCHEDULE | {
        "beta1": adam["betas"][0], "beta2": adam["betas"][1], "epsilon": adam["eps"],
        "weight_decay": adam["weight_decay"], "clip_norm": adam["clip_global_grad_norm"]})
    training = run(case, config, first, meta["steps"])
    for name in ("loss", "ce", "bce", "dice"):
        results.relative(f"curve {name}", training.column(name), wanted[name],
                         tolerance=LOSS)
    results.relative("curve lr", training.column("learning_rate"), wanted["lr"],
                     tolerance=1e-6)
    results.relative("curve grad_norm", training.column("grad_norm"), wanted["grad_norm_exact"],
                     tolerance=GRAD_NORM)
    check_final(case, results, meta, training.before, training.after, final)
    check_trained_model(case, results, meta, training.after)


def run(case: LegionCase, config, first: dict, steps: int) -> TrainingRun:
    """Train; odd steps swap the samples."""
    shapes = param_tree.abstract_params(case.config)
    flat = param_tree.flatten(case.params) | {rule.path: assemble(
        rule, lambda key: first[key.removesuffix(".weight")], shapes[rule.path].shape)
        for rule in lora_rules(case.config)}
    batch = case.train_batch()
    batch["bad"] = np.zeros(len(batch["ids"]), np.int32)  # every record of a case is sound
    swapped = {name: array[::-1] for name, array in batch.items()}
    training = TrainingRun(
        case, flat, base.LOCALISATION, settings=config,
        objective=Objective(case.loss_weights(), case.reading(batch["ids"])))
    training.follow(steps, lambda number: swapped if number % 2 else batch)
    return training


def check_final(case: LegionCase, results: Results, meta: dict, before, after, final) -> None:
    """Weights after training, against ten times the float32 noise of the reference itself."""
    table = [*rules(case.config), *lora_rules(case.config)]
    start, end = ({_without_weight(key): value for key, value in to_torch_tensors(
        {p: np.asarray(x) for p, x in tree.items()}, table).items()} for tree in (before, after))
    noise = meta["noise"]["float64"]
    rows = final.pop("rows")
    for name, want in final.items():
        key = name.removeprefix("rows/")
        got = end[key][rows] if name.startswith("rows/") else end[key]
        results.within(f"final {name}", got, want,
                       tolerance=NOISE_FACTOR * noise["final"][name]["max_abs_diff"])
    meaningless = set(meta["never_updated"]) | set(meta["rounding_only"])
    for key, norms in meta["change_norm"].items():
        change = np.linalg.norm(end[key].astype(np.float64) - start[key])
        if key in meta["never_updated"]:
            results.within(f"change of {key}", change, 0.0, tolerance=0.0)
        elif key not in meaningless:
            results.relative(f"change of {key}", change, norms["change"],
                             tolerance=NOISE_FACTOR * noise["change_norm_max_rel"])


def _without_weight(key: str) -> str:
    """A case names LoRA's factors themselves, not their modules' weights."""
    return key.removesuffix(".weight") if ".lora_" in key else key


def check_trained_model(case: LegionCase, results: Results, meta: dict, after: dict) -> None:
    """Losses after the last update, with LoRA and merged; answer of the merged model."""
    def model_case(config, flat):
        return case.holding(Loaded.of(config, flat))

    plain = dataclasses.replace(case.config, lora=LoraConfig())
    folded = {p: jnp.asarray(x) for p, x in merged(
        {p: np.asarray(x) for p, x in after.items()}, case.config).items()}
    merged_case = model_case(plain, folded)
    batch = case.train_batch()
    for name, which in (("losses_after", model_case(case.config, after)),
                        ("losses_after_merged", merged_case)):
        ours = loss_terms(which, batch)
        results.relative(f"curve {name}", ours[:4],
                         [meta[name][k] for k in ("loss", "ce", "bce", "dice")],
                         tolerance=LOSS)
    entry = meta["eval"]
    job, = answer(merged_case, entry["image"], [entry["image"]], max_new=entry["max_new_tokens"],
                  masks=entry["n_masks"])
    results.equal("curve eval new_ids", job.tokens, entry["new_ids"])
    results.equal("curve eval n_masks", job.counts[SEG_TOKEN], entry["n_masks"])
