"""Follow a case's training run through our own train step, optimizer and schedule."""

import numpy as np

from legion_jax.models import param_tree
from legion_jax.train import recipes
from legion_jax.train.knobs import RunSettings
from tools.verify_case.case import Loaded
from tools.verify_case.comparisons import Results
from tools.verify_case.fakevlm.fakevlm_case import FakevlmCase
from tools.verify_case.fakevlm.fakevlm_training import ROWS, objective, published
from tools.verify_case.learning import GRAD_NORM, LOSS, TrainingRun, loss_terms, norm

PAIR = 2  # records of an update
WEIGHTS = 1e-5  # of the norm of a tensor after training


def settings_of(options: dict, updates: int) -> RunSettings:
    """The product's recipe of FakeVLM with the length and the rate of the case's run."""
    config = recipes.load("fakevlm_7b").get_config()
    config.optimizer.learning_rate = options["lr"]
    config.optimizer.total_steps = updates
    return RunSettings.from_config(config, without_data=True)


def check_curve(case: FakevlmCase, results: Results) -> None:
    """Loss, gradient norm and rate of every update, and the weights they lead to."""
    options, updates = case.options["train"], len(case.reference["curve_loss"])
    settings = settings_of(options, updates)
    order = np.reshape(options["order"], (-1, PAIR))
    pairs = [case.batch(numbers) for numbers in order]
    run = TrainingRun(case, param_tree.flatten(case.params), settings.trainable,
                      settings=settings.optimizer, objective=objective(case, pairs[0]))
    run.follow(updates, lambda number: pairs[number % len(pairs)])
    results.relative("curve_loss", run.column("loss"), tolerance=LOSS)
    for name in ("curve_grad_norm", "curve_grad_norm_exact"):
        results.relative(name, run.column("grad_norm"), tolerance=GRAD_NORM)
    results.relative("curve_lr", run.column("learning_rate"), tolerance=1e-6)
    after = case.holding(Loaded.of(case.config, run.after))
    batch = after.batch(range(len(case.records)))
    results.relative("curve_loss_after_all4",
                     sum(loss_terms(after, batch, objective(after, batch)).values()),
                     tolerance=LOSS)
    _check_weights(case, results, run)


def _check_weights(case, results, run):
    """Final weights, and how far every tensor has come, against ten times the noise."""
    start, end = (published(case, {path: np.asarray(x) for path, x in tree.items()})
                  for tree in (run.before, run.after))
    rows = case.reference["grad_rows"]
    for name in case.reference.names("final/"):
        key = name.removeprefix("final/")
        ours = end[ROWS[key.removeprefix("rows/")]][rows] if key.startswith("rows/") else end[key]
        results.within(name, ours, tolerance=0.0)
    meaningless = {*case.meta["never_updated"], *case.meta["rounding_only"]}
    changes = {key: norm(end[key] - start[key])
               for key in sorted(case.meta["change_norm"].keys() - meaningless)}
    results.within("curve_change_norms", list(changes.values()), tolerance=0.0)
    for key, wanted in case.meta["final_all_l2"].items():
        if key not in meaningless:
            results.relative(f"norm of final {key}", norm(end[key]), wanted, tolerance=WEIGHTS)
    for key in case.meta["never_updated"]:  # not held here, or as it was
        results.equal(f"{key} is not updated",
                      key in end and not np.array_equal(end[key], start[key]), False)
