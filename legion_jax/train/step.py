"""One optimizer update as a pure function: loss sums, gradients of the trainable tree, optax."""

import math
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from legion_jax.models import param_tree
from legion_jax.models.layers import numerics
from legion_jax.train import losses
from legion_jax.train.losses import Terms


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


def init_state(params: dict, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params),
                      jnp.zeros((), bool))


def make_step(graph: nnx.GraphDef, optimizer: optax.GradientTransformation, rate: Callable, *,
              weights: Terms, image_index: int, seg_id: int, first_target: int = 0,
              accumulation: int = 1, seed: int = 0, stop_above: float = math.inf) -> Callable:
    """Build `step(state, frozen, batch) -> (state, metrics)`; ids and indices are of `losses.sums`.

    The batch is split into `accumulation` parts run one after another. Every part's sums are
    divided by the counts of the whole batch, so the number of parts changes memory, not the
    result. Terms of weight zero are not computed. Metrics are float32 scalars on device: loss, ce,
    bce, dice, verdict (all weighted, so that they add up to loss), grad_norm before clipping,
    learning_rate, masks, dropped, bad (rows without a usable record), tokens (that the language
    model reads), halted.

    A loss or gradient that is not finite, or a loss above `stop_above`, halts: the state stays as
    it was before this update, whatever batches follow, until a host looks at the metrics.
    """
    wanted = tuple(name for name in losses.ALL if getattr(weights, name))
    reads = bool({"ce", "bce", "dice"} & set(wanted))

    def step(state: TrainState, frozen: dict, batch: dict):
        total = losses.counts(batch, seg_id)
        patches = param_tree.merge(graph, state.params, frozen).config.clip.num_patches
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss(params, part, key):
            model = param_tree.merge(graph, params, frozen)
            with numerics(model.config):
                sums = losses.sums(model, part, image_index=image_index, seg_id=seg_id,
                                   first_target=first_target, key=key, wanted=wanted)
            terms = losses.weighted_means(sums, total, weights)
            return terms.ce + terms.bce + terms.dice + terms.verdict, terms

        terms, grads = _accumulate(jax.grad(loss, has_aux=True), state.params, batch, key,
                                   accumulation)
        updates, opt_state = optimizer.update(grads, state.optimizer, state.params)
        metrics = {"loss": terms.ce + terms.bce + terms.dice + terms.verdict, "ce": terms.ce,
                   "bce": terms.bce, "dice": terms.dice, "verdict": terms.verdict,
                   "grad_norm": optax.global_norm(grads), "learning_rate": rate(state.step),
                   "masks": total.bce, "dropped": batch["dropped"].sum(),
                   "bad": batch["bad"].sum(),
                   "tokens": losses.tokens(batch, patches) * reads}
        sound = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        halted = state.halted | ~sound | (metrics["loss"] > stop_above)
        new = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state,
                         halted)
        state = jax.tree.map(lambda old, new: jnp.where(halted, old, new),
                             state.replace(halted=halted), new)
        return state, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32),
                                   metrics | {"halted": halted})

    return step


def _accumulate(grad: Callable, params: dict, batch: dict, key: jax.Array, parts: int):
    """Sum of (terms, gradients) over `parts` interleaved parts of the batch."""
    if parts == 1:
        grads, terms = grad(params, batch, key)
        return terms, grads
    # Part a takes rows a, a + parts, ...: every device keeps the rows it holds already.
    split = jax.tree.map(
        lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def body(sums, part_and_number):
        part, number = part_and_number
        grads, terms = grad(params, part, jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, sums, (terms, grads)), None

    zeros = (Terms(*(jnp.zeros(()) for _ in range(4))), jax.tree.map(jnp.zeros_like, params))
    (terms, grads), _ = jax.lax.scan(body, zeros, (split, jnp.arange(parts)))
    return terms, grads
