"""Models with random values in every parameter, made without running any initialiser."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from legion_jax.sharding import path_name


def randomized(abstract: nnx.Module, *, seed: int = 0) -> nnx.Module:
    """`abstract` (from `nnx.eval_shape`) with values in which no parameter is zero or one.

    Nothing can hide behind a bias of zero, a norm of one or an untouched LoRA factor.
    """
    graph, params = nnx.split(abstract)
    rng = np.random.default_rng(seed)

    def value(path, leaf):
        name, noise = path_name(path), rng.normal(size=leaf.shape)
        if name.endswith("scale"):
            noise = 1 + 0.1 * noise
        elif name.endswith("kernel"):
            noise = noise * leaf.shape[-2] ** -0.5
        else:
            noise = 0.3 * noise
        return jnp.asarray(noise, jnp.float32)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(value, nnx.to_pure_dict(params)))
