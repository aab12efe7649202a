"""Optimizer and learning-rate schedule, by optax."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from input_pipeline.errors import UserError
from legion_jax.sharding import path_name
from legion_jax.train.knobs import OptimizerSettings

WARMUPS = ("above_zero", "from_zero", "peak_first")


def schedule(settings: OptimizerSettings) -> Callable[[jax.Array], jax.Array]:
    """Learning rate of the 0-based update t.

    All kinds warm up linearly: "above_zero" by peak * (t + 1) / warmup, so that the first update
    moves something, "from_zero" by peak * t / warmup. "peak_first" is how DeepSpeed's WarmupDecayLR
    comes out where nobody sets its first rate: the peak, and then from zero, an update late.
    "linear" then falls to zero at `total`, "cosine" by half a cosine; "constant" stays.

    Raises UserError on an unknown kind or impossible step counts.
    """
    peak, warmup, total = settings.learning_rate, settings.warmup_steps, settings.total_steps
    if settings.schedule not in ("linear", "cosine", "constant"):
        raise UserError(f"optimizer.schedule: linear, cosine or constant, "
                        f"not {settings.schedule!r}")
    if settings.warmup not in WARMUPS:
        raise UserError(f"optimizer.warmup: {', '.join(WARMUPS)}, not {settings.warmup!r}")
    if not 0 <= warmup < total:
        raise UserError(f"optimizer: 0 <= warmup_steps < total_steps, got {warmup} and {total}")

    def rate(step):
        t = jnp.asarray(step, jnp.float32)
        if settings.warmup == "peak_first":
            return jnp.where(t < 1, peak, from_zero(t - 1))
        return above_zero(t) if settings.warmup == "above_zero" else from_zero(t)

    def above_zero(t):
        return peak * jnp.minimum((t + 1) / max(warmup, 1), decayed(t))

    def from_zero(t):
        return peak * (jnp.minimum(t / warmup, decayed(t)) if warmup else decayed(t))

    def decayed(t):
        left = jnp.clip((total - t) / (total - warmup), 0, 1)
        # Half a cosine by its sine: 1 - cos would lose digits where little is left.
        return {"linear": left, "cosine": jnp.square(jnp.sin(0.5 * jnp.pi * left)),
                "constant": jnp.ones_like(left)}[settings.schedule]

    return rate


def make(settings: OptimizerSettings) -> optax.GradientTransformation:
    """Global-norm clipping, then AdamW; weight decay reaches matrices only."""
    def decayed(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: path_name(path).endswith(("kernel", "lora_a", "lora_b")), params)

    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.chain(
            scale_by_adam(settings.beta1, settings.beta2, settings.epsilon),
            optax.add_decayed_weights(settings.weight_decay, decayed),
            optax.scale_by_learning_rate(schedule(settings))))


def scale_by_adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """As `optax.scale_by_adam`, and with its state, but for the rounding of its bias corrections.

    There 1 - beta ** t is computed in float32, where 1 - 0.999 is off by 1.3e-5: the first updates
    would be 6e-6 longer or shorter than those of PyTorch.
    """
    def unbiased(moment, beta, count):
        correction = -jnp.expm1(count * math.log(beta)) if beta else 1.0
        return jax.tree.map(lambda m: m / correction, moment)

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, beta1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, beta2, 2)
        scaled = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon),
                              unbiased(mu, beta1, count), unbiased(nu, beta2, count))
        return scaled, optax.ScaleByAdamState(count, mu, nu)

    init = optax.scale_by_adam(beta1, beta2, epsilon).init
    return optax.GradientTransformation(init, update)
