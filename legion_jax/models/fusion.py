"""Verdict and masks joined: the class logits ask the mask prompts (SIDA, Huang et al., 2025)."""

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from legion_jax.config import FUSION_HEADS
from legion_jax.models.attention import masked_attention
from legion_jax.models.layers import Dense


class Fusion(nnx.Module):
    """One query per photo, made of its class logits, attends to the photo's mask prompts.

    What it sees is added to each of them. With one prompt the attention's weight is exactly 1,
    whatever the logits are, and the gradient of the query exactly 0. Always computed in float32.
    """

    def __init__(self, classes: int, width: int):
        self.ask = Dense(classes, width)
        self.query, self.key, self.value, self.out = (Dense(width, width) for _ in range(4))

    def __call__(self, prompts: jax.Array, logits: jax.Array, valid: jax.Array) -> jax.Array:
        """Fused prompts.

        Args:
            prompts: float32[B, K, D]; valid: bool[B, K], which of them there are.
            logits: float32[B, classes].

        Returns:
            float32[B, K, D]; as they came where the photo has no prompt.
        """
        q, k, v = (einops.rearrange(layer(x), "B K (N H) -> B K N H", N=FUSION_HEADS)
                   for layer, x in ((self.query, self.ask(logits)[:, None]), (self.key, prompts),
                                    (self.value, prompts)))
        # A photo without prompts must see something, or the softmax of nothing would be NaN.
        some = valid.any(axis=1, keepdims=True)
        seen = masked_attention(q, k, v, (valid | ~some)[:, None, None])
        added = self.out(einops.rearrange(seen, "B 1 N H -> B 1 (N H)"))
        return prompts + jnp.where(some[..., None], added, 0)
