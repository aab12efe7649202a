"""Building blocks shared by all towers: Dense with an optional LoRA update, Mlp, layer stacks."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from legion_jax.config import LegionConfig, LoraConfig
from legion_jax.models.initial import kaiming_uniform, lecun, parameter


def numerics(config: LegionConfig) -> contextlib.AbstractContextManager:
    """Matrix-multiplication precision of a traced computation.

    With `dtype="float32"` accelerators multiply in full float32 instead of their faster default.
    """
    return jax.default_matmul_precision("highest" if config.dtype == "float32" else "default")


class Dense(nnx.Module):
    """y = x W + b, plus alpha / rank * (x A) B where a LoRA rank is given (Hu et al., 2021).

    Parameters are float32 unless loaded otherwise, and are cast to the dtype of `x` at use. With
    `int8` W is int8 numbers times a float32 factor per column of its own (see `quantize`).
    """

    def __init__(self, in_width: int, out_width: int, *, bias: bool = True,
                 lora: LoraConfig | None = None, int8: bool = False):
        shape = in_width, out_width
        self.kernel = (nnx.Param(jnp.zeros(shape, jnp.int8)) if int8 else
                       parameter(shape, lecun(in_width)))
        self.kernel_scale = nnx.Param(jnp.ones(out_width)) if int8 else None
        self.bias = nnx.Param(jnp.zeros(out_width)) if bias else None
        rank = lora.rank if lora else 0
        self.scale = lora.alpha / rank if rank else 0.0
        self.dropout = lora.dropout if rank else 0.0
        self.lora_a = parameter((in_width, rank), kaiming_uniform(in_width)) if rank else None
        self.lora_b = nnx.Param(jnp.zeros((rank, out_width))) if rank else None

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """x [..., D] -> [..., F]; `key` switches LoRA dropout on."""
        y = x @ self.kernel[...].astype(x.dtype)
        if self.kernel_scale is not None:
            y = (y.astype(jnp.float32) * self.kernel_scale[...]).astype(x.dtype)
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)
        if self.lora_a is None:
            return y
        if key is not None and self.dropout:
            keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
            x = jnp.where(keep, x / (1 - self.dropout), 0)
        update = (x @ self.lora_a[...].astype(x.dtype)) @ self.lora_b[...].astype(x.dtype)
        return y + self.scale * update


class Mlp(nnx.Module):
    """Two Dense layers, `up` and `down`; the activation is given at the call."""

    def __init__(self, in_width: int, hidden: int, out_width: int):
        self.up = Dense(in_width, hidden)
        self.down = Dense(hidden, out_width)

    def __call__(self, x: jax.Array, activation: Callable[[jax.Array], jax.Array]) -> jax.Array:
        return self.down(activation(self.up(x)))


def gelu(x: jax.Array) -> jax.Array:
    """Exact (erf) GELU, PyTorch's default; jax's default is the tanh approximation."""
    return jax.nn.gelu(x, approximate=False)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x * sigmoid(1.702 x), CLIP's activation."""
    return x * jax.nn.sigmoid(1.702 * x)


def layer_norm(width: int, eps: float, dtype: Any = None) -> nnx.LayerNorm:
    """LayerNorm over the last axis; the two-pass variance is what PyTorch computes."""
    return nnx.LayerNorm(width, epsilon=eps, use_fast_variance=False, dtype=dtype,
                         rngs=nnx.Rngs(0))


def rms_norm(width: int, eps: float, dtype: Any = None) -> nnx.RMSNorm:
    """Root-mean-square norm (Zhang & Sennrich, 2019) with float32 statistics."""
    return nnx.RMSNorm(width, epsilon=eps, dtype=dtype, rngs=nnx.Rngs(0))


def stack(make: Callable[[], nnx.Module], length: int) -> nnx.Module:
    """`length` layers that `make` makes, stacked along a leading axis L."""
    return jax.vmap(make, axis_size=length)()


def run_stack(body: Callable, carry: Any, layers: Any, *, remat: str) -> tuple[Any, Any]:
    """Scan `body(carry, layer) -> (carry, out)` over stacked layers.

    The backward pass runs again what `remat`, one of `config.REMAT`, does not keep.
    """
    if remat != "none":
        # Products of two activations have batch axes, those with weights have none.
        policy = {"layers": None,
                  "attention": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}[remat]
        # Inside scan XLA cannot merge the two forward passes, so no barrier is needed.
        body = jax.checkpoint(body, prevent_cse=False, policy=policy)
    return jax.lax.scan(body, carry, layers)


def patchify(pixels: jax.Array, patch: int) -> jax.Array:
    """[B, Y*p, X*p, 3] -> [B, Y, X, p*p*3], the columns a stride-p convolution would see."""
    B, height, width, channels = pixels.shape
    x = pixels.reshape(B, height // patch, patch, width // patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(
        B, height // patch, width // patch, patch * patch * channels)
