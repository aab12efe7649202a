"""SAM's image encoder: a plain ViT with windowed and global attention (Kirillov et al., 2023)."""

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from legion_jax.config import SamConfig
from legion_jax.models.attention import grid_attention
from legion_jax.models.initial import normal, parameter
from legion_jax.models.layers import Dense, Mlp, gelu, layer_norm, patchify, run_stack, stack
from legion_jax.sharding import BATCH, HEADS, SEQUENCE, constrain

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def normalize(image: jax.Array, size: jax.Array) -> jax.Array:
    """uint8[B, C, C, 3] and valid int[B, 2] (rows, columns) -> float32[B, C, C, 3].

    Padding is zero after normalisation, as in the reference, not a normalised black.
    """
    x = (image.astype(jnp.float32) - jnp.array(MEAN)) / jnp.array(STD)
    steps = jnp.arange(image.shape[1])
    valid = ((steps < size[:, :1])[:, :, None] & (steps < size[:, 1:])[:, None, :])  # [B, Y, X]
    return jnp.where(valid[..., None], x, 0)


class RelativeAttention(nnx.Module):
    """Self-attention over an S x S grid with decomposed relative positions (Li et al., 2022)."""

    def __init__(self, config: SamConfig, side: int):
        D, H = config.width, config.width // config.heads
        self.qkv = Dense(D, 3 * D)
        self.out = Dense(D, D)
        self.relative_rows = nnx.Param(jnp.zeros((2 * side - 1, H)))
        self.relative_columns = nnx.Param(jnp.zeros((2 * side - 1, H)))
        self.heads, self.side = config.heads, side

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, Y, X, D] with Y = X = side -> the same shape."""
        S = self.side
        q, k, v = einops.rearrange(self.qkv(x), "B Y X (three N H) -> three B (Y X) N H",
                                   three=3, N=self.heads)
        q, k, v = (constrain(y, BATCH, None, HEADS, None) for y in (q, k, v))
        offset = np.arange(S)[:, None] - np.arange(S)[None, :] + S - 1
        grid = einops.rearrange(q, "B (Y X) N H -> B N Y X H", Y=S)
        # The positional terms use q before its scaling by 1 / sqrt(H).
        rows = jnp.einsum("BNYXH,YKH->BNYXK", grid, self.relative_rows[...].astype(x.dtype)[offset])
        columns = jnp.einsum("BNYXH,XKH->BNYXK", grid,
                             self.relative_columns[...].astype(x.dtype)[offset])
        y = grid_attention(q, k, v, rows, columns)
        return self.out(einops.rearrange(y, "B (Y X) N H -> B Y X (N H)", Y=S))


class SamLayer(nnx.Module):
    """Pre-norm block; `side` is its window, or the whole grid for a global block."""

    def __init__(self, config: SamConfig, side: int, dtype):
        self.norm1 = layer_norm(config.width, config.norm_eps, dtype)
        self.attention = RelativeAttention(config, side)
        self.norm2 = layer_norm(config.width, config.norm_eps, dtype)
        self.mlp = Mlp(config.width, config.mlp, config.width)
        self.side = side

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, Y, X, D] -> the same shape."""
        B, Y, X, _ = x.shape
        S = self.side
        h = self.norm1(x)
        if S != Y:
            # Window padding is attended to: its keys and values are the projection's biases.
            pad = -Y % S
            h = jnp.pad(h, ((0, 0), (0, pad), (0, pad), (0, 0)))
            h = einops.rearrange(h, "B (R Y) (C X) D -> (B R C) Y X D", Y=S, X=S)
            h = self.attention(h)
            h = einops.rearrange(h, "(B R C) Y X D -> B (R Y) (C X) D", B=B, R=(Y + pad) // S)
            h = h[:, :Y, :X]
        else:
            h = self.attention(h)
        x = x + h
        x = x + self.mlp(self.norm2(x), gelu)
        return constrain(x, BATCH, SEQUENCE, None, None)


class SamEncoder(nnx.Module):
    """Photo -> image embedding.

    Windowed and global blocks have tables of different sizes, so each kind is one stack; a group
    is a run of windowed blocks and the global block that ends it.
    """

    def __init__(self, config: SamConfig, dtype=jnp.float32, *, remat: str = "none"):
        D, grid = config.width, config.grid
        self.patch = Dense(3 * config.patch ** 2, D)
        self.position = parameter((grid, grid, D), normal(0.02))
        self.window_layers = stack(lambda: SamLayer(config, config.window, dtype),
                                   config.layers - len(config.global_blocks))
        self.global_layers = stack(lambda: SamLayer(config, grid, dtype),
                                   len(config.global_blocks))
        self.neck_conv1 = Dense(D, config.prompt_width, bias=False)
        self.neck_norm1 = layer_norm(config.prompt_width, config.norm_eps, dtype)
        self.neck_conv2 = Dense(9 * config.prompt_width, config.prompt_width, bias=False)
        self.neck_norm2 = layer_norm(config.prompt_width, config.norm_eps, dtype)
        self.config, self.dtype, self.remat = config, dtype, remat

    def __call__(self, pixels: jax.Array, *, capture: bool = False):
        """pixels float[B, C, C, 3], normalised -> embedding [B, Y, X, prompt width].

        With `capture` also the patch embedding before positions and every block's output,
        [B, Y, X, D] and [L, B, Y, X, D].
        """
        patches = self.patch(patchify(pixels.astype(self.dtype), self.config.patch))
        x = constrain(patches + self.position[...].astype(self.dtype), BATCH, SEQUENCE, None, None)
        x, states = self._run_blocks(x, capture)
        x = self.neck_norm1(self.neck_conv1(x))
        x = self.neck_norm2(_conv3x3(x, self.neck_conv2))
        return (x, patches, states) if capture else x

    def _run_blocks(self, x, capture):
        runs = _windowed_runs(self.config)
        regular = len(runs) > 1 and len(set(runs[:-1])) == 1 and runs[-1] == 0 and runs[0] > 0

        def layer_body(x, layer):
            x = layer(x)
            return x, x if capture else None

        def group_body(x, layers):
            windowed, single = layers
            x, before = run_stack(layer_body, x, windowed, remat=self.remat)
            x, last = run_stack(layer_body, x, single, remat=self.remat)
            return x, jnp.concatenate([before, last]) if capture else None

        if regular:  # one compiled group, as in every published SAM
            groups = jax.tree.map(lambda a: a.reshape(len(runs) - 1, runs[0], *a.shape[1:]),
                                  self.window_layers)
            singles = jax.tree.map(lambda a: a[:, None], self.global_layers)
            x, states = jax.lax.scan(group_body, x, (groups, singles))
            return x, states.reshape(-1, *states.shape[2:]) if capture else None
        states, start = [], 0
        for number, length in enumerate(runs):
            windowed = jax.tree.map(lambda a, s=start, n=length: a[s:s + n], self.window_layers)
            single = jax.tree.map(lambda a, g=number: a[g:g + 1], self.global_layers)
            x, out = group_body(x, (windowed, single))  # the last `single` may be empty
            states.append(out)
            start += length
        return x, jnp.concatenate(states) if capture else None


def _windowed_runs(config: SamConfig) -> list[int]:
    """Number of windowed blocks before each global block, and after the last one."""
    ends = [-1, *config.global_blocks, config.layers]
    return [b - a - 1 for a, b in zip(ends, ends[1:], strict=False)]


def _conv3x3(x: jax.Array, dense: Dense) -> jax.Array:
    """3 x 3 convolution with zero padding; the kernel is [9 * D in, D out], taps row by row."""
    kernel = dense.kernel[...].astype(x.dtype).reshape(3, 3, x.shape[-1], -1)
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME",
                                        dimension_numbers=("NHWC", "HWIO", "NHWC"))
