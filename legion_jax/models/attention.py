"""Attention over a grid with decomposed relative positions, never holding the bias on a TPU.

The bias of query (y, x) for key (r, c) is rows[y, x, r] + columns[y, x, c]. It is a scalar product
too: of the query's rows and columns with the key's row and column as unit vectors. Appended to
queries and keys, a flash kernel (Dao et al., 2022) computes it with everything else, where the
bias alone would be [B, N, S^4].
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.flash_attention import flash_attention

from legion_jax.sharding import BATCH, P, fit

LANES = 128  # of a TPU: what a kernel's last axis is padded to
FLASH_LENGTH = 1024  # shorter sequences are as fast without a kernel


def grid_attention(q: jax.Array, k: jax.Array, v: jax.Array, rows: jax.Array,
                   columns: jax.Array) -> jax.Array:
    """softmax(q k / sqrt(H) + bias) v.

    Args:
        q, k, v: [B, S * S, N, H].
        rows, columns: [B, N, S, S, S], bias of the query at the first two S for the key's row, and
            for its column.

    Returns:
        [B, S * S, N, H].
    """
    length = q.shape[1]
    if q.dtype != jnp.bfloat16 or length < FLASH_LENGTH or length % LANES:
        return with_bias(q, k, v, rows, columns)
    return jax.lax.platform_dependent(q, k, v, rows, columns, tpu=folded, default=with_bias)


def with_bias(q, k, v, rows, columns):
    """As `grid_attention`, with the bias made."""
    bias = rows[..., :, None] + columns[..., None, :]  # [B, N, Y, X, key row, key column]
    bias = bias.reshape(*bias.shape[:2], q.shape[1], q.shape[1])
    return jax.nn.dot_product_attention(q, k, v, bias=bias)


def folded(q, k, v, rows, columns):
    """As `grid_attention`, by a kernel for TPUs; each device computes its rows and heads."""
    B, T, N, H = q.shape
    S = rows.shape[-1]

    def by_head(x):
        return x.transpose(0, 2, 1, 3)  # [B, N, T, H]

    place = jnp.arange(T)
    unit = jnp.concatenate([jax.nn.one_hot(place // S, S, dtype=q.dtype),
                            jax.nn.one_hot(place % S, S, dtype=q.dtype)], axis=-1)  # [T, 2 S]
    q = jnp.concatenate([by_head(q) * H ** -0.5, rows.reshape(B, N, T, S),
                         columns.reshape(B, N, T, S)], axis=-1)
    k = jnp.concatenate([by_head(k), jnp.broadcast_to(unit, (B, N, T, 2 * S))], axis=-1)
    width = -(-q.shape[-1] // LANES) * LANES

    def padded(x):
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))

    out = _per_device(lambda *qkv: flash_attention(*qkv, sm_scale=1.0))(
        padded(q), padded(k), padded(by_head(v)))
    return by_head(out[..., :H])


def _per_device(kernel):
    """The kernel on each device's part of [B, N, T, H]; the compiler cannot split kernels."""
    def run(*arrays):
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty:
            return kernel(*arrays)
        spec = fit(P(BATCH, "tensor", None, None), arrays[0].shape, mesh)
        return jax.shard_map(kernel, in_specs=(spec,) * len(arrays), out_specs=spec,
                             check_vma=False)(*arrays)
    return run
