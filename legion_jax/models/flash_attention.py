"""Attention of long sequences, by flash kernels (Dao et al., 2022) that keep no logits.

Two kinds: causal, on TPUs and GPUs, and over a grid with decomposed relative positions, on TPUs.
There the bias of query (y, x) for key (r, c) is rows[y, x, r] + columns[y, x, c]. It is a scalar
product too: of the query's rows and columns with the key's row and column as unit vectors. Appended
to queries and keys, the kernel computes it with everything else, where the bias alone would be
[B, N, S^4].
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.flash_attention import (
    BlockSizes,
    SegmentIds,
    flash_attention,
)

from legion_jax.sharding import BATCH, HEADS, P, fit

LANES = 128  # of a TPU: what a kernel's last axis is padded to
FLASH_LENGTH = 1024  # shorter sequences are as fast without a kernel
BLOCK = 512  # positions a kernel works on at once, at most


def causal_attention(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array) -> jax.Array:
    """softmax(q k / sqrt(H)) v over the valid positions up to each query's own.

    Args:
        q, k, v: [B, S, N, H].
        valid: bool[B, S], False at padding, whose own outputs mean nothing.

    Returns:
        [B, S, N, H].
    """
    if not _is_long(q):
        return causal_by_mask(q, k, v, valid)
    default = causal_by_cudnn if _has_cudnn() and q.shape[-1] <= LANES else causal_by_mask
    return jax.lax.platform_dependent(q, k, v, valid, tpu=causal_by_kernel, default=default)


def causal_by_mask(q, k, v, valid):
    """As `causal_attention`, with all logits made."""
    place = jnp.arange(q.shape[1])
    seen = (place <= place[:, None]) & valid[:, None, :]  # [B, T, S]
    return jax.nn.dot_product_attention(q, k, v, mask=seen[:, None])


def causal_by_cudnn(q, k, v, valid):
    """As `causal_attention`, by cuDNN's kernel; padding must be at the end, as in training."""
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=True, key_value_seq_lengths=valid.sum(1, dtype=jnp.int32),
        implementation="cudnn")


def _has_cudnn() -> bool:
    """Whether this process computes on NVIDIA GPUs with such kernels, Ampere and newer."""
    device = jax.local_devices()[0]
    return ("cuda" in device.client.platform_version
            and float(device.compute_capability) >= 8)


def causal_by_kernel(q, k, v, valid):
    """As `causal_attention`, by the kernel: padding sees padding, so that no row sees nothing."""
    scale = q.shape[-1] ** -0.5
    segments = valid.astype(jnp.int32)

    def kernel(q, k, v, segments):
        return flash_attention(q, k, v, segment_ids=SegmentIds(segments, segments), causal=True,
                               sm_scale=scale, block_sizes=_blocks(q.shape[2]))

    out = _per_device(kernel)(*(_padded(_by_head(x)) for x in (q, k, v)), segments)
    return _by_head(out[..., :q.shape[-1]])


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
    if not _is_long(q):
        return with_bias(q, k, v, rows, columns)
    return jax.lax.platform_dependent(q, k, v, rows, columns, tpu=folded, default=with_bias)


def with_bias(q, k, v, rows, columns):
    """As `grid_attention`, with the bias made."""
    bias = rows[..., :, None] + columns[..., None, :]  # [B, N, Y, X, key row, key column]
    bias = bias.reshape(*bias.shape[:2], q.shape[1], q.shape[1])
    return jax.nn.dot_product_attention(q, k, v, bias=bias)


def folded(q, k, v, rows, columns):
    """As `grid_attention`, by the kernel."""
    B, T, N, H = q.shape
    S = rows.shape[-1]
    place = jnp.arange(T)
    unit = jnp.concatenate([jax.nn.one_hot(place // S, S, dtype=q.dtype),
                            jax.nn.one_hot(place % S, S, dtype=q.dtype)], axis=-1)  # [T, 2 S]
    q = jnp.concatenate([_by_head(q) * H ** -0.5, rows.reshape(B, N, T, S),
                         columns.reshape(B, N, T, S)], axis=-1)
    k = jnp.concatenate([_by_head(k), jnp.broadcast_to(unit, (B, N, T, 2 * S))], axis=-1)
    v = jnp.pad(_by_head(v), ((0, 0), (0, 0), (0, 0), (0, 2 * S)))  # the kernel knows one width

    def kernel(q, k, v):
        return flash_attention(q, k, v, sm_scale=1.0, block_sizes=_blocks(T))

    out = _per_device(kernel)(*(_padded(x) for x in (q, k, v)))
    return _by_head(out[..., :H])


def _is_long(q: jax.Array) -> bool:
    """Whether a kernel is worth it for [B, S, N, H]; exact float32 has none."""
    return q.dtype == jnp.bfloat16 and q.shape[1] >= FLASH_LENGTH and q.shape[1] % LANES == 0


def _blocks(length: int) -> BlockSizes:
    """The kernel's own blocks, of 128, leave the matrix units waiting for the next one."""
    block = next(size for size in (BLOCK, BLOCK // 2, LANES) if length % size == 0)
    return BlockSizes(
        block_b=1, block_q=block, block_k_major=block, block_k=block, block_q_major_dkv=block,
        block_k_major_dkv=block, block_k_dkv=block, block_q_dkv=block, block_k_major_dq=block,
        block_k_dq=block, block_q_dq=block)


def _by_head(x: jax.Array) -> jax.Array:
    """[B, T, N, H] -> [B, N, T, H], and back."""
    return x.transpose(0, 2, 1, 3)


def _padded(x: jax.Array) -> jax.Array:
    """Zeros up to whole lanes behind the last axis of [B, N, T, H]."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, -x.shape[-1] % LANES)))


def _per_device(kernel):
    """The kernel on each device's rows and heads; the compiler cannot split kernels.

    Takes [B, N, T, H] and, behind them, [B, T]; returns as the first.
    """
    def run(*arrays):
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty:
            return kernel(*arrays)
        rows, heads, *_ = fit(P(BATCH, HEADS), arrays[0].shape, mesh)
        specs = tuple(P(rows, heads) if x.ndim == 4 else P(rows) for x in arrays)
        return jax.shard_map(kernel, in_specs=specs, out_specs=specs[0],
                             check_vma=False)(*arrays)
    return run
