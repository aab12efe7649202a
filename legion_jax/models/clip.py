"""CLIP's vision tower: photo -> one CLS state and one state per patch (Radford et al., 2021)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from legion_jax.config import ClipConfig
from legion_jax.models.attention import full_attention
from legion_jax.models.initial import normal, parameter
from legion_jax.models.layers import Dense, Mlp, layer_norm, patchify, quick_gelu, run_stack, stack
from legion_jax.sharding import BATCH, HEADS, SEQUENCE, constrain

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def normalization_table() -> np.ndarray:
    """float32[256, 3]: the normalised value of every byte, by CLIP's own chain of roundings.

    The reference scales in float64, rounds to float32, then subtracts and divides in float32. A
    table gives these very bits on every device, whatever the compiler fuses.
    """
    scaled = (np.arange(256) * (1 / 255)).astype(np.float32)
    return (scaled[:, None] - np.float32(MEAN)) / np.float32(STD)


def normalize(image: jax.Array) -> jax.Array:
    """uint8[B, C, C, 3] in 0..255 -> float32[B, C, C, 3], zero mean and unit variance."""
    table = jnp.asarray(normalization_table())
    return jnp.stack([table[image[..., c], c] for c in range(3)], axis=-1)


class ClipLayer(nnx.Module):
    """Pre-norm transformer block with biased projections and quick-GELU."""

    def __init__(self, config: ClipConfig, dtype):
        D = config.width
        self.norm1 = layer_norm(D, config.norm_eps, dtype)
        self.norm2 = layer_norm(D, config.norm_eps, dtype)
        self.query, self.key, self.value, self.out = (Dense(D, D) for _ in range(4))
        self.mlp = Mlp(D, config.mlp, D)
        self.heads = config.heads

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, S, D] -> [B, S, D]."""
        B, S, D = x.shape
        h = self.norm1(x)
        q, k, v = (constrain(p(h).reshape(B, S, self.heads, -1), BATCH, None, HEADS, None)
                   for p in (self.query, self.key, self.value))  # [B, S, N, H]
        x = x + self.out(full_attention(q, k, v).reshape(B, S, D))
        x = x + self.mlp(self.norm2(x), quick_gelu)
        return constrain(x, BATCH, SEQUENCE, None)


class ClipTower(nnx.Module):
    """Patch embedding, class token, learned positions, norm, `config.depth` blocks."""

    def __init__(self, config: ClipConfig, dtype=jnp.float32, *, remat: str = "none"):
        D = config.width
        self.patch = Dense(3 * config.patch ** 2, D, bias=False)
        self.cls = parameter((D,), normal(0.02))
        self.position = parameter((1 + config.num_patches, D), normal(0.02))
        self.pre_norm = layer_norm(D, config.norm_eps, dtype)
        self.layers = stack(lambda: ClipLayer(config, dtype), config.depth)
        self.patch_size, self.dtype, self.remat = config.patch, dtype, remat

    def __call__(self, pixels: jax.Array, *, capture: bool = False):
        """Hidden state after the selected block; no norm is applied to it.

        Args:
            pixels: float[B, C, C, 3], normalised.
            capture: also return every hidden state.

        Returns:
            [B, 1 + P, D], CLS first then patches row by row; with `capture` a pair of it and all
            hidden states [1 + L, B, 1 + P, D], the first being the normed embeddings.
        """
        x = self.patch(patchify(pixels.astype(self.dtype), self.patch_size))
        x = x.reshape(x.shape[0], -1, x.shape[-1])  # [B, P, D]
        cls = jnp.broadcast_to(self.cls[...].astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([cls, x], axis=1) + self.position[...].astype(x.dtype)
        first = constrain(self.pre_norm(x), BATCH, SEQUENCE, None)

        def body(x, layer):
            x = layer(x)
            return x, x if capture else None

        x, states = run_stack(body, first, self.layers, remat=self.remat)
        return (x, jnp.concatenate([first[None], states])) if capture else x
