"""One optimizer update as a pure function: loss sums, gradients of the trainable tree, optax."""

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from legion_jax.models import param_tree
from legion_jax.models.layers import numerics
from legion_jax.sharding import path_name
from legion_jax.train import losses


@flax.struct.dataclass
class TrainState:
    """All that updates change.

    Attributes:
        step: int scalar, updates done.
        params: trainable tree, float32.
        optimizer: optax state.
        halted: bool scalar; an update was refused, and so were all that came after it.
    """

    step: jax.Array
    params: dict
    optimizer: optax.OptState
    halted: jax.Array


class Objective(Protocol):
    """What an update minimises: sums of named terms, each over a count, times a weight.

    Attributes:
        weights: {term: weight}.
    """

    weights: Mapping[str, float]

    def sums(self, model: nnx.Module, batch: dict, key: jax.Array | None) -> dict[str, jax.Array]:
        """{term: its sum over the rows of a part of a batch}; `key` switches dropout on."""

    def counts(self, config: Any, batch: dict) -> dict[str, jax.Array]:
        """{term: what its sum is divided by}, of the model's config and a whole batch."""

    def metrics(self, config: Any, batch: dict) -> dict[str, jax.Array]:
        """{name: scalar}, what else is to be logged of a whole batch; `tokens` is among them."""


def init_state(params: dict, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params),
                      jnp.zeros((), bool))


def make_step(graph: nnx.GraphDef, optimizer: optax.GradientTransformation, rate: Callable, *,
              objective: Objective, accumulation: int = 1, seed: int = 0,
              stop_above: float = math.inf,
              is_held: Callable[[str], bool] | None = None) -> Callable:
    """Build `step(state, frozen, batch) -> (state, metrics)`.

    The batch is split into `accumulation` parts run one after another. Every part's sums are
    divided by the counts of the whole batch, so the number of parts changes memory, not the
    result. Metrics are float32 scalars on device: loss; every term of the `objective` (weighted,
    so that they add up to loss) and what it tells of a batch; grad_norm before clipping,
    learning_rate, bad (rows without a usable record), halted.

    `is_held` says of a path whether its parameter stays as it is, though it is in the state.

    A loss or gradient that is not finite, or a loss above `stop_above`, halts: the state stays as
    it was before this update, whatever batches follow, until a host looks at the metrics.
    """
    def step(state: TrainState, frozen: dict, batch: dict):
        config = param_tree.merge(graph, state.params, frozen).config
        total = objective.counts(config, batch)
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss(params, part, key):
            model = param_tree.merge(graph, _where(params, is_held, jax.lax.stop_gradient), frozen)
            with numerics(model.config):
                sums = objective.sums(model, part, key)
            terms = losses.weighted_means(sums, total, objective.weights)
            return _total(terms), terms

        terms, grads = _accumulate(jax.grad(loss, has_aux=True), state.params, batch, key,
                                   accumulation, terms=tuple(total))
        updates, opt_state = optimizer.update(grads, state.optimizer, state.params)
        updates = _where(updates, is_held, jnp.zeros_like)
        metrics = {"loss": _total(terms)} | terms | objective.metrics(config, batch) | {
            "grad_norm": optax.global_norm(grads), "learning_rate": rate(state.step),
            "bad": batch["bad"].sum()}
        sound = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        halted = state.halted | ~sound | (metrics["loss"] > stop_above)
        new = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state,
                         halted)
        state = jax.tree.map(lambda old, new: jnp.where(halted, old, new),
                             state.replace(halted=halted), new)
        return state, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32),
                                   metrics | {"halted": halted})

    return step


def _where(tree: dict, chosen: Callable[[str], bool] | None, change: Callable) -> dict:
    """The tree with the leaves of chosen paths changed; None chooses none."""
    if chosen is None:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, x: change(x) if chosen(path_name(path)) else x, tree)


def _total(terms: dict[str, jax.Array]) -> jax.Array:
    return functools.reduce(operator.add, terms.values())


def _accumulate(grad: Callable, params: dict, batch: dict, key: jax.Array, parts: int, *,
                terms: Sequence[str]):
    """Sum of (terms, gradients) over `parts` interleaved parts of the batch."""
    if parts == 1:
        grads, values = grad(params, batch, key)
        return values, grads
    # Part a takes rows a, a + parts, ...: every device keeps the rows it holds already.
    split = jax.tree.map(
        lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def body(sums, part_and_number):
        part, number = part_and_number
        grads, values = grad(params, part, jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, sums, (values, grads)), None

    zeros = ({name: jnp.zeros(()) for name in terms}, jax.tree.map(jnp.zeros_like, params))
    (values, grads), _ = jax.lax.scan(body, zeros, (split, jnp.arange(parts)))
    return values, grads
