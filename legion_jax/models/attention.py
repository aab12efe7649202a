"""Attention of all towers: the one door to it, whatever computes it.

By default `jax.nn.dot_product_attention` does. Sequences in bfloat16 go to the kernels of
`flash_attention`: long ones on TPUs, most on NVIDIA GPUs. On a CPU, long sequences are computed a
block of queries at a time, so that the logits never leave the caches: all logits of a long sequence
are written and read several times by XLA's softmax, from memory where they are large; a block's are
still in the second-level cache. In the backward pass a block's logits are computed again, as by
flash attention (Dao et al., 2022), instead of being kept. Where a mesh splits arrays over devices
nothing is computed in blocks.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from legion_jax.models import flash_attention

BLOCK = 2 ** 19  # logits at once, 2 MiB of them
LANES = 16  # float32 in a vector register
SHORT = 64  # queries below which there is nothing to gain
PARTS = 4  # of causal queries, each with the keys it can see; the parts' programs are all compiled


def masked_attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, *,
                     first: int | None = None) -> jax.Array:
    """softmax(q k / sqrt(H)) v over the keys that `mask` shows.

    Args:
        q: [B, T, N, H]; k, v: [B, S, N, H].
        mask: bool[B, 1, T, S] or [1, 1, T, S].
        first: the mask shows query t nothing behind key first + t; None: it may.

    Returns:
        [B, T, N, H].
    """
    branches = {"cpu": functools.partial(_masked_blocks, first=first)} if _in_blocks(q) else {}
    return _by_platform(branches, _plain, q, k, v, mask)


def full_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k / sqrt(H)) v over all keys; q [..., T, N, H], k and v [..., S, N, H]."""
    cudnn = None
    if q.ndim == 4 and q.shape == k.shape and flash_attention.is_worth_cudnn(q, q.shape[-1]):
        cudnn = flash_attention.full_by_cudnn
    return _by_platform({}, jax.nn.dot_product_attention, q, k, v, cudnn=cudnn)


def causal_attention(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array) -> jax.Array:
    """softmax(q k / sqrt(H)) v over the valid positions up to each query's own.

    Args:
        q, k, v: [B, S, N, H].
        valid: bool[B, S], False at padding, whose own outputs mean nothing. Padding is at the end,
            as in training.

    Returns:
        [B, S, N, H].
    """
    branches, cudnn = {}, None
    if flash_attention.is_worth_it(q):
        branches["tpu"] = flash_attention.causal_on_tpu
    if flash_attention.is_worth_cudnn(q, q.shape[-1]):
        cudnn = flash_attention.causal_by_cudnn
    if _in_blocks(q):
        branches["cpu"] = _causal_blocks
    return _by_platform(branches, causal_by_mask, q, k, v, valid, cudnn=cudnn)


def causal_by_mask(q, k, v, valid):
    """As `causal_attention`, with all logits made."""
    position = jnp.arange(q.shape[1])
    visible = (position <= position[:, None]) & valid[:, None, :]  # [B, T, S]
    return _plain(q, k, v, visible[:, None])


def cached_attention(q: jax.Array, keys: jax.Array, values: jax.Array, layer: jax.Array,
                     mask: jax.Array, *, first: int | None = None) -> jax.Array:
    """As `masked_attention`, with the keys and values of one layer of a cache.

    Args:
        q: [B, T, N, H]; keys, values: [L, B, S, N, H]; layer: int scalar.
        mask: bool[B, 1, T, S]; first: as there.

    Returns:
        [B, T, N, H].
    """
    def plain(q, keys, values, layer, mask):
        return masked_attention(q, keys[layer], values[layer], mask, first=first)

    branches = {"cpu": _cached_rows} if q.shape[1] == 1 and _alone() else {}
    return _by_platform(branches, plain, q, keys, values, layer, mask)


def grid_attention(q: jax.Array, k: jax.Array, v: jax.Array, rows: jax.Array,
                   columns: jax.Array) -> jax.Array:
    """softmax(q k / sqrt(H) + bias) v, as SAM's decomposed relative positions have it.

    Args:
        q, k, v: [B, S * S, N, H].
        rows, columns: [B, N, S, S, S], bias of the query at the first two S for the key's row, and
            for its column.

    Returns:
        [B, S * S, N, H].
    """
    branches, cudnn = {}, None
    if flash_attention.is_worth_it(q):
        branches["tpu"] = flash_attention.grid_on_tpu
    if flash_attention.is_worth_cudnn(q, flash_attention.grid_width(q)):
        cudnn = flash_attention.grid_by_cudnn
    if _in_blocks(q):
        branches["cpu"] = _grid_blocks
    return _by_platform(branches, grid_with_bias, q, k, v, rows, columns, cudnn=cudnn)


def grid_with_bias(q, k, v, rows, columns):
    """As `grid_attention`, with the bias made."""
    bias = rows[..., :, None] + columns[..., None, :]  # [B, N, Y, X, key row, key column]
    bias = bias.reshape(*bias.shape[:2], q.shape[1], q.shape[1])
    return jax.nn.dot_product_attention(q, k, v, bias=bias)


def _by_platform(branches: dict[str, Callable], default: Callable, *arrays,
                 cudnn: Callable | None = None):
    """The branch of the platform that the program is compiled for, or the default.

    With `cudnn` that is for NVIDIA GPUs; a process that has one may compile for others as well.
    """
    if cudnn is not None:
        branches, default = {"tpu": default, "cpu": default} | branches, cudnn
    if not branches:
        return default(*arrays)
    return jax.lax.platform_dependent(*arrays, default=default, **branches)


def _in_blocks(q: jax.Array) -> bool:
    """Whether blocks of the queries [B, T, N, H] are worth it on a CPU."""
    return q.shape[1] >= SHORT and _alone()


def _alone() -> bool:
    """Whether no mesh splits the arrays over several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or mesh.size == 1


def _plain(q, k, v, mask):
    return jax.nn.dot_product_attention(q, k, v, mask=mask)


def _masked_blocks(q, k, v, mask, *, first=None):
    def shown(logits, mask):
        return jnp.where(mask, logits, jnp.finfo(logits.dtype).min)

    mask = jnp.broadcast_to(mask, (q.shape[0], q.shape[2], *mask.shape[2:]))
    if first is None:
        return _blocks(q, k, v, (mask,), shown, unit=1, keys=k.shape[1:2])
    return _parts(q, k, v, (mask,), (), shown, first=first)


def _causal_blocks(q, k, v, valid):
    # The mask is made where it is used: kept for the backward pass it would be larger than q, k, v.
    B, T, N, _ = q.shape

    def shown(logits, position, valid):
        mask = (jnp.arange(logits.shape[-1]) <= position) & valid
        return jnp.where(mask, logits, jnp.finfo(logits.dtype).min)

    position = jnp.broadcast_to(jnp.arange(T)[:, None], (B, N, T, 1))
    valid = jnp.broadcast_to(valid[:, None, None], (B, N, 1, T))
    return _parts(q, k, v, (position,), (valid,), shown, first=0)


def _parts(q, k, v, extra, beside, adjust: Callable, *, first: int):
    """As `_blocks`, in parts: query t sees no key behind first + t."""
    T, S = q.shape[1], k.shape[1]
    size, parts = -(-T // PARTS), []
    for start in range(0, T, size):
        end = min(start + size, T)
        seen = min(first + end, S)
        parts.append(_blocks(
            q[:, start:end], k[:, :seen], v[:, :seen], [x[:, :, start:end, :seen] for x in extra],
            adjust, beside=[x[..., :seen] for x in beside], unit=1, keys=(seen,)))
    return jnp.concatenate(parts, axis=1)


def _cached_rows(q, keys, values, layer, mask):
    """One row of the batch after the other, without a copy of the layer's part of the cache.

    All heads are one product of matrices, with the queries on the diagonal of one that is zero
    elsewhere: the cache is read as it lies, which costs more than the products with zero.
    """
    _, B, S, N, H = keys.shape
    own = jnp.eye(N, dtype=q.dtype)
    q = (q * H ** -0.5).reshape(B, N, H, 1) * own[:, None]  # [B, N, H, N]

    def attend(row):
        number, q, mask = row
        k, v = (jax.lax.dynamic_slice(x, (layer, number, 0, 0, 0), (1, 1, S, N, H)).reshape(
            S, N * H) for x in (keys, values))
        logits = (k @ q.reshape(N * H, N)).astype(jnp.float32)  # [S, N]
        logits = jnp.where(mask[0, 0, :, None], logits, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits, axis=0).astype(v.dtype)
        return jnp.einsum("NNH->NH", (weights.T @ v).reshape(N, N, H))

    return jax.lax.map(attend, (jnp.arange(B), q, mask))[:, None]


def _grid_blocks(q, k, v, rows, columns):
    S = rows.shape[-1]

    def biased(logits, rows, columns):
        bias = rows[..., :, None] + columns[..., None, :]  # [..., key row, key column]
        return logits + bias.reshape(logits.shape)

    flat = [x.reshape(*x.shape[:2], S * S, S) for x in (rows, columns)]
    # Rows of keys that fill vector registers stay apart: a loop over the flat axis, with a quotient
    # and a remainder for each logit, takes a quarter longer. With short rows it is the faster one.
    return _blocks(q, k, v, flat, biased, unit=S, keys=(S * S,) if S % LANES else (S, S))


def _blocks(q, k, v, extra, adjust: Callable, *, beside=(), unit: int, keys: tuple[int, ...]):
    """Attention with logits `adjust(logits, *extra, *beside)`, [B, N, T, E] and [B, N, 1, S].

    Blocks are whole heads where those are small, else so many times `unit` queries of one head.
    `keys` are the axes that the keys have in the logits.
    """
    B, T, N, H = q.shape
    S = k.shape[1]
    heads = next(n for n in range(N, 0, -1) if N % n == 0 and (n * T * S <= BLOCK or n == 1))
    blocks = -(-heads * T * S // BLOCK)
    per = unit * -(-T // (unit * blocks))
    padding = -T % per  # queries whose outputs are dropped

    def grouped(x):  # [B, N, T, ...] -> [B * N / heads, blocks, heads, per, ...]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, padding), (0, 0)))
        return x.reshape(B * N // heads, heads, -1, per, x.shape[-1]).swapaxes(1, 2)

    q = grouped((q * H ** -0.5).transpose(0, 2, 1, 3))
    k = k.transpose(0, 2, 3, 1).reshape(-1, heads, H, S)
    v = v.transpose(0, 2, 1, 3).reshape(-1, heads, S, H)
    beside = [x.reshape(-1, heads, 1, S) for x in beside]

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def block(q, k, v, extra, beside):
        logits = (q @ k).astype(jnp.float32)
        logits = adjust(logits.reshape(*logits.shape[:-1], *keys), *extra, *beside)
        axes = tuple(range(-len(keys), 0))
        weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axes, keepdims=True)))
        total = weights.sum(axes)[..., None]
        weights = weights.reshape(*total.shape[:-1], S)
        return (weights.astype(v.dtype) @ v) / total.astype(v.dtype)

    def head(xs):
        q, k, v, extra, beside = xs
        return jax.lax.map(lambda x: block(x[0], k, v, x[1], beside), (q, extra))

    out = jax.lax.map(head, (q, k, v, [grouped(x) for x in extra], beside))
    out = out.swapaxes(1, 2).reshape(B, N, -1, H)[:, :, :T]
    return out.transpose(0, 2, 1, 3)
