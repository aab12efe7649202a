"""Kernels of accelerators for attention of long sequences, which keep no logits.

They are flash attention (Dao et al., 2022): causal and over a grid with decomposed relative
positions, on TPUs by Pallas' kernel, on NVIDIA GPUs by cuDNN's, which plain attention uses there,
too. `attention` chooses among them and says what their arguments are. On the grid the bias of query
(y, x) for key (r, c) is rows[y, x, r] + columns[y, x, c]. It is a scalar product too: of the
query's rows and columns with the key's row and column as unit vectors. Appended to queries and
keys, the kernel computes it with everything else, where the bias alone would be [B, N, S^4].
"""

import math

import jax
import jax.numpy as jnp

from legion_jax.sharding import BATCH, HEADS, P, fit

LANES = 128  # of a TPU: what a kernel's last axis is padded to
FLASH_LENGTH = 1024  # shorter sequences are as fast without a kernel
BLOCK = 512  # positions a kernel works on at once, at most
CUDNN_LENGTH = 128  # shorter sequences are left to XLA
CUDNN_UNIT = 8  # its heads are multiples of it wide


def is_worth_it(q: jax.Array) -> bool:
    """Whether a kernel is worth it for queries [B, S, N, H]; exact float32 has none."""
    return q.dtype == jnp.bfloat16 and q.shape[1] >= FLASH_LENGTH and q.shape[1] % LANES == 0


def is_worth_cudnn(q: jax.Array, width: int) -> bool:
    """Whether cuDNN's kernel with heads `width` wide is worth it for queries [B, S, N, H]."""
    return (q.dtype == jnp.bfloat16 and q.shape[1] >= CUDNN_LENGTH and width % CUDNN_UNIT == 0
            and has_cudnn(width))


def has_cudnn(width: int) -> bool:
    """Whether this process computes on NVIDIA GPUs whose cuDNN has a kernel for heads so wide.

    Those are Ampere and newer; from Hopper on heads may be twice as wide.
    """
    device = jax.local_devices()[0]
    if "cuda" not in device.client.platform_version:
        return False
    capability = float(device.compute_capability)
    return capability >= 8 and width <= (256 if capability >= 9 else 128)


def causal_by_cudnn(q, k, v, valid):
    """`attention.causal_attention` by cuDNN's kernel; padding must be at the end."""
    return _cudnn(q, k, v, valid.sum(1, dtype=jnp.int32), is_causal=True)


def full_by_cudnn(q, k, v):
    """`attention.full_attention` of a sequence to itself, by cuDNN's kernel."""
    return _cudnn(q, k, v, jnp.full(q.shape[:1], q.shape[1]) if q.shape[1] % 2 else None)


def _cudnn(q, k, v, lengths, **options):
    """Attention over the first int32[B] positions; gradients exist for even lengths alone."""
    T = q.shape[1]
    q, k, v = (jnp.pad(x, ((0, 0), (0, T % 2), (0, 0), (0, 0))) for x in (q, k, v))
    return jax.nn.dot_product_attention(q, k, v, key_value_seq_lengths=lengths,
                                        implementation="cudnn", **options)[:, :T]


def grid_width(q: jax.Array) -> int:
    """How wide heads are for `grid_by_cudnn` with queries [B, S * S, N, H]."""
    width = q.shape[-1] + 2 * math.isqrt(q.shape[1])
    return width + -width % CUDNN_UNIT


def grid_by_cudnn(q, k, v, rows, columns):
    """`attention.grid_attention` by cuDNN's kernel."""
    H, padding = q.shape[-1], grid_width(q) - q.shape[-1] - 2 * rows.shape[-1]
    q, k, v = (jnp.pad(_by_head(x), ((0, 0), (0, 0), (0, 0), (0, padding)))
               for x in _with_positions(q, k, v, rows, columns))
    return _cudnn(q, k, v, None, scale=1.0)[..., :H]


def causal_on_tpu(q, k, v, valid):
    """`attention.causal_attention` by the TPU's kernel.

    Padding sees padding, so that no row sees nothing.
    """
    scale = q.shape[-1] ** -0.5
    segments = valid.astype(jnp.int32)

    def kernel(q, k, v, segments):
        return _tpu_kernel(q, k, v, segments, causal=True, sm_scale=scale)

    out = _per_device(kernel)(*(_padded(_by_head(x)) for x in (q, k, v)), segments)
    return _by_head(out[..., :q.shape[-1]])


def grid_on_tpu(q, k, v, rows, columns):
    """`attention.grid_attention` by the TPU's kernel."""
    def kernel(q, k, v):
        return _tpu_kernel(q, k, v, None, causal=False, sm_scale=1.0)

    out = _per_device(kernel)(*(_padded(x) for x in _with_positions(q, k, v, rows, columns)))
    return _by_head(out[..., :q.shape[-1]])


def _with_positions(q, k, v, rows, columns):
    """Queries, keys and values [B, N, T, H + 2 S] whose attention of scale 1 is the grid's."""
    B, T, N, H = q.shape
    S = rows.shape[-1]
    position = jnp.arange(T)
    unit = jnp.concatenate([jax.nn.one_hot(position // S, S, dtype=q.dtype),
                            jax.nn.one_hot(position % S, S, dtype=q.dtype)], axis=-1)  # [T, 2 S]
    q = jnp.concatenate([_by_head(q) * H ** -0.5, rows.reshape(B, N, T, S),
                         columns.reshape(B, N, T, S)], axis=-1)
    k = jnp.concatenate([_by_head(k), jnp.broadcast_to(unit, (B, N, T, 2 * S))], axis=-1)
    v = jnp.pad(_by_head(v), ((0, 0), (0, 0), (0, 0), (0, 2 * S)))  # the kernel knows one width
    return q, k, v


def _tpu_kernel(q, k, v, segments, *, causal: bool, sm_scale: float):
    """Pallas's kernel over q, k, v [B, N, T, H]; `segments`: int[B, T] or None."""
    # Imported only here: machines that never compile for a TPU need not have a Pallas for it.
    from jax.experimental.pallas.ops.tpu import flash_attention as pallas

    # The kernel's own blocks, of 128, leave the matrix units waiting for the next one.
    block = next(size for size in (BLOCK, BLOCK // 2, LANES) if q.shape[2] % size == 0)
    sizes = pallas.BlockSizes(
        block_b=1, block_q=block, block_k_major=block, block_k=block, block_q_major_dkv=block,
        block_k_major_dkv=block, block_k_dkv=block, block_q_dkv=block, block_k_major_dq=block,
        block_k_dq=block, block_q_dq=block)
    ids = None if segments is None else pallas.SegmentIds(segments, segments)
    return pallas.flash_attention(q, k, v, segment_ids=ids, causal=causal, sm_scale=sm_scale,
                                  block_sizes=sizes)


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
