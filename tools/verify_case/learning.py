"""Losses, gradients and training runs of a case's model, by the product's objective and step."""

import re
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from legion_jax.models import param_tree
from legion_jax.models.layers import numerics
from legion_jax.models.reading import Reading
from legion_jax.train import losses, optim
from legion_jax.train.knobs import OptimizerSettings
from legion_jax.train.losses import Objective
from legion_jax.train.step import init_state, make_step
from tools.verify_case.case import Case
from tools.verify_case.comparisons import Results

LOSS, GRAD_NORM = 1e-5, 1e-3
ROUNDING = 1e-6  # of the whole gradient's norm: what is a true zero, and rounding in both runs


def loss_terms(case: Case, batch: dict, objective: Objective) -> dict[str, np.float64]:
    """Weighted terms of the loss of a batch; together they are the loss."""
    reading = objective.reading
    terms = case.compute(  # arguments that tell compiled functions apart must be hashable
        _terms, batch, weights=tuple(objective.weights.items()),
        nan_without_text=objective.nan_without_text, image_index=reading.image_index,
        watched=tuple(reading.watched.items()))
    return {name: np.float64(value) for name, value in terms.items()}


def _terms(model, batch, *, weights, nan_without_text, image_index, watched):
    reading = Reading(image_index, dict(watched))
    return _weighted(model, batch, Objective(dict(weights), reading, nan_without_text))


def _weighted(model, batch, objective):
    return losses.weighted_means(objective.sums(model, batch, None),
                                 objective.counts(model.config, batch), objective.weights)


class Gradients:
    """Gradients of the loss, compiled once for batches of one shape."""

    def __init__(self, case: Case, trainable: Sequence[str], objective: Objective):
        """`trainable`: patterns over the paths of what has a gradient."""
        self.trainable = tuple(trainable)
        graph = param_tree.split_params(param_tree.abstract_model(case.config), self.trainable)[0]

        def loss(params, frozen, batch):  # nothing is a constant that the compiler would fold
            model = param_tree.merge(graph, params, frozen)
            with numerics(case.config):
                return sum(_weighted(model, batch, objective).values())

        self._grad = jax.jit(jax.grad(loss))

    def __call__(self, case: Case, batch: dict) -> dict[str, np.ndarray]:
        """{path: gradient} with the case's parameters."""
        _, params, frozen = param_tree.split_params(case.model, self.trainable)
        return {path: np.asarray(value) for path, value in
                param_tree.flatten(self._grad(params, frozen, batch)).items()}


def norm(array: np.ndarray) -> float:
    """Of all entries, summed in float64."""
    return float(np.linalg.norm(array.astype(np.float64).ravel()))


def check_norms(results: Results, name: str, norms: Mapping[str, float],
                wanted: Mapping[str, float | None], *, total: float) -> None:
    """Norm of every tensor's gradient.

    What is exactly zero in the reference, or has no gradient there (None), must be so here. What is
    zero but for rounding must be that, too.

    Args:
        total: norm of the whole gradient.
    """
    for key, want in wanted.items():
        got = norms.get(key, 0.0)
        if not want:
            results.within(f"{name} {key}", got, 0.0, tolerance=0.0)
        elif want < ROUNDING * total:
            results.within(f"{name} {key}", got, 0.0, tolerance=ROUNDING * total)
        else:
            results.relative(f"{name} {key}", got, want, tolerance=GRAD_NORM)


def together(norms: Mapping[str, float], pattern: str) -> float:
    """Norm of all tensors whose names a pattern fits."""
    return np.sqrt(sum(each ** 2 for key, each in norms.items() if re.search(pattern, key)))


class TrainingRun:
    """A run of the product's train step.

    Attributes:
        before: {path: array} at its beginning.
        rows: metrics of every update so far.
    """

    def __init__(self, case: Case, flat: dict, trainable: Sequence[str], *,
                 settings: OptimizerSettings, objective: Objective):
        """`flat`: {path: array} of all parameters of `case.config`, LoRA's among them."""
        graph, abstract, frozen = param_tree.split_params(
            param_tree.abstract_model(case.config), trainable)
        self.before, self.rows = dict(flat), []
        params, self._frozen = (param_tree.unflatten(
            {p: jnp.asarray(flat[p]) for p in param_tree.flatten(tree)})
            for tree in (abstract, frozen))
        optimizer = optim.make(settings)
        self._step = jax.jit(make_step(graph, optimizer, optim.schedule(settings),
                                       objective=objective))
        self._state = init_state(params, optimizer)

    @property
    def after(self) -> dict:
        """{path: array} of all parameters after the last update."""
        return self.before | param_tree.flatten(self._state.params)

    def follow(self, steps: int, batch_of: Callable[[int], dict]) -> None:
        """Make updates, `batch_of(number)` being what each is made of."""
        for number in range(steps):
            self._state, metrics = self._step(self._state, self._frozen, batch_of(number))
            self.rows.append({k: float(v) for k, v in jax.device_get(metrics).items()})

    def column(self, name: str) -> np.ndarray:
        """A metric of all updates, float64[N]."""
        return np.array([row[name] for row in self.rows])
