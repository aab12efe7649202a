"""Optimizer and learning-rate schedule, by optax."""

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
        return {"linear": left, "cosine": 0.5 * (1 - jnp.cos(jnp.pi * left)),
                "constant": jnp.ones_like(left)}[settings.schedule]

    return rate


def make(settings: OptimizerSettings) -> optax.GradientTransformation:
    """Global-norm clipping, then AdamW; weight decay reaches matrices only."""
    def decayed(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: path_name(path).endswith(("kernel", "lora_a", "lora_b")), params)

    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(schedule(settings), b1=settings.beta1, b2=settings.beta2, eps=settings.epsilon,
                    weight_decay=settings.weight_decay, mask=decayed))
