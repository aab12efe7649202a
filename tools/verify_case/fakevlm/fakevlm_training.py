"""Checks of the loss of the training batch, and of all gradients."""

import numpy as np

from legion_jax.convert.names import LLAVA_OLD
from legion_jax.convert.table import rules
from legion_jax.train import recipes
from legion_jax.train.knobs import RunSettings
from legion_jax.train.losses import Objective
from tools.verify_case.comparisons import Results
from tools.verify_case.fakevlm.fakevlm_case import FakevlmCase
from tools.verify_case.learning import (
    GRAD_NORM,
    LOSS,
    Gradients,
    check_norms,
    loss_terms,
    norm,
    together,
)
from tools.verify_case.whole import to_torch_tensors

# Published names by the names of the groups whose gradients are recorded.
GROUPS = {"vision_tower": r"^vision_tower\.", "multi_modal_projector": r"^multi_modal_projector\.",
          "embed_tokens": r"\.embed_tokens\.", "lm_head": r"\.lm_head\.",
          "language_layers": r"^language_model\.model\.layers\.",
          "final_norm": r"^language_model\.model\.norm\."}
ROWS = {"embed_tokens": "language_model.model.embed_tokens.weight",
        "lm_head": "language_model.lm_head.weight"}


def run_settings() -> RunSettings:
    """The product's recipe of FakeVLM."""
    return RunSettings.from_config(recipes.load("fakevlm_7b").get_config(), without_data=True)


def objective(case: FakevlmCase, batch: dict) -> Objective:
    """What the recipe minimises of a batch."""
    return Objective(run_settings().loss_weights, case.reading(batch["ids"]))


def published(case: FakevlmCase, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{published name: array in PyTorch layout} of parameters or gradients {path: array}."""
    table = [rule for rule in rules(case.config) if rule.path in params]
    return {LLAVA_OLD.from_published(key): value
            for key, value in to_torch_tensors(params, table).items()}


def check_losses(case: FakevlmCase, results: Results) -> None:
    """The loss of the batch, and of each of its records alone."""
    batch = case.batch(range(len(case.records)))
    results.relative("train_loss", _loss(case, batch), tolerance=LOSS)
    alone = []
    for number in range(len(case.records)):
        row = np.arange(len(case.records))[:, None] == number
        alone.append(_loss(case, batch | {"loss_mask": batch["loss_mask"] & row}))
    results.relative("per_sample_loss", alone, tolerance=LOSS)


def _loss(case, batch):
    return sum(loss_terms(case, batch, objective(case, batch)).values())


def check_gradients(case: FakevlmCase, results: Results) -> None:
    """Norm of every parameter's gradient, the stored full gradients and vocabulary rows."""
    batch = case.batch(range(len(case.records)))
    gradients = Gradients(case, run_settings().trainable, objective(case, batch))
    grads = published(case, gradients(case, batch))
    norms, meta = {key: norm(grad) for key, grad in grads.items()}, case.meta
    check_norms(results, "grad norm", norms, meta["grad_norms"], total=meta["grad_norm_global"])
    results.equal("names of gradients", len(norms.keys() - meta["grad_norms"].keys()), 0)
    results.relative("grad_global", together(norms, ""), tolerance=GRAD_NORM)
    results.relative("grad_group_norms", [together(norms, GROUPS[group])
                                          for group in meta["grad_group_order"]],
                     tolerance=GRAD_NORM)
    rows = case.reference["grad_rows"]
    for name in case.reference.names("grad/"):
        key = name.removeprefix("grad/")
        ours = grads[ROWS[key.removeprefix("rows/")]][rows] if key.startswith("rows/") else (
            grads[key])
        results.of_largest(name, ours, tolerance=GRAD_NORM)
