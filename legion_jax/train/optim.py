"""Optimizer and learning-rate schedule, by optax."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from input_pipeline.errors import UserError
from legion_jax.sharding import path_name
from legion_jax.train.knobs import OptimizerSettings


def schedule(settings: OptimizerSettings) -> Callable[[jax.Array], jax.Array]:
    """Learning rate of the 0-based update t.

    Both kinds warm up linearly, peak * (t + 1) / warmup. "linear" then falls to zero at `total`,
    "cosine" by half a cosine; "constant" stays.

    Raises ValueError on an unknown kind or impossible step counts.
    """
    peak, warmup, total = settings.learning_rate, settings.warmup_steps, settings.total_steps
    if settings.schedule not in ("linear", "cosine", "constant"):
        raise UserError(f"optimizer.schedule: linear, cosine or constant, "
                        f"not {settings.schedule!r}")
    if not 0 <= warmup < total:
        raise UserError(f"optimizer: 0 <= warmup_steps < total_steps, got {warmup} and {total}")

    def rate(step):
        t = jnp.asarray(step, jnp.float32)
        left = jnp.clip((total - t) / (total - warmup), 0, 1)
        decay = {"linear": left, "cosine": 0.5 * (1 - jnp.cos(jnp.pi * left)),
                 "constant": jnp.ones_like(left)}[settings.schedule]
        return peak * jnp.minimum((t + 1) / max(warmup, 1), decay)

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
