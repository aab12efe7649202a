"""Optimizer and learning-rate schedule, by optax."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import optax

from input_pipeline.errors import UserError
from legion_jax.sharding import path_name


def schedule(config: ml_collections.ConfigDict) -> Callable[[jax.Array], jax.Array]:
    """Learning rate of the 0-based update t.

    Both kinds warm up linearly, peak * (t + 1) / warmup. "linear" then falls to zero at `total`,
    "cosine" by half a cosine; "constant" stays.

    Raises ValueError on an unknown kind or impossible step counts.
    """
    peak, warmup, total = config.learning_rate, config.warmup_steps, config.total_steps
    if config.schedule not in ("linear", "cosine", "constant"):
        raise UserError(f"optimizer.schedule: linear, cosine or constant, "
                        f"not {config.schedule!r}")
    if not 0 <= warmup < total:
        raise UserError(f"optimizer: 0 <= warmup_steps < total_steps, got {warmup} and {total}")

    def rate(step):
        t = jnp.asarray(step, jnp.float32)
        left = jnp.clip((total - t) / (total - warmup), 0, 1)
        decay = {"linear": left, "cosine": 0.5 * (1 - jnp.cos(jnp.pi * left)),
                 "constant": jnp.ones_like(left)}[config.schedule]
        return peak * jnp.minimum((t + 1) / max(warmup, 1), decay)

    return rate


def make(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """Global-norm clipping, then AdamW; weight decay reaches matrices only."""
    def decayed(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: path_name(path).endswith(("kernel", "lora_a", "lora_b")), params)

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(schedule(config), b1=config.beta1, b2=config.beta2, eps=config.epsilon,
                    weight_decay=config.weight_decay, mask=decayed))
