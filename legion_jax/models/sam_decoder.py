"""SAM's prompt encoder and mask decoder: a [SEG] prompt and an image embedding -> mask logits.

Only the text-prompt path of the prompt encoder exists here: it adds nothing to the prompt, so all
that is left is the dense no-mask embedding and the Fourier positions of the image grid
(Kirillov et al., 2023; Tancik et al., 2020).
"""

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from legion_jax.config import SamConfig
from legion_jax.models.attention import full_attention
from legion_jax.models.initial import lecun, normal, parameter
from legion_jax.models.layers import Dense, Mlp, gelu, layer_norm, stack
from legion_jax.models.llama import round_to_bf16

TOKEN_EPS = 1e-5  # norms of the two-way transformer; the upscaling norm uses the encoder's eps
NUM_MASKS = 4


class PromptEncoder(nnx.Module):
    """Dense "no mask" embedding and Fourier positions; both frozen in the published training."""

    def __init__(self, config: SamConfig, *, position_dtype: str):
        D = config.prompt_width
        self.no_mask = parameter((D,), normal(0.02))
        self.frequencies = parameter((2, D // 2), normal(1.0))
        self.grid, self.position_dtype = config.grid, position_dtype

    def positions(self) -> jax.Array:
        """Fourier features of the grid's cell centres, float32[Y, X, D].

        Row 0 of `frequencies` multiplies x, row 1 y. With bfloat16 positions every elementary
        operation is rounded, which is what the published mask decoder was trained on.
        """
        rounded = round_to_bf16 if self.position_dtype == "bfloat16" else lambda x: x
        frequencies = rounded(self.frequencies[...].astype(jnp.float32))
        centre = rounded(2 * rounded((jnp.arange(self.grid) + 0.5) / self.grid) - 1)
        y, x = jnp.meshgrid(centre, centre, indexing="ij")
        # Two products per output, written out: a matmul would not round like the reference's,
        # which accumulates both in float32 and rounds once.
        angle = rounded(x[..., None] * frequencies[0] + y[..., None] * frequencies[1])
        angle = rounded(jnp.float32(2 * jnp.pi) * angle)
        return jnp.concatenate([rounded(jnp.sin(angle)), rounded(jnp.cos(angle))], axis=-1)


class Attention(nnx.Module):
    """Multi-head attention with an inner width of its own; unbatched."""

    def __init__(self, width: int, inner: int, heads: int):
        self.query, self.key, self.value = (Dense(width, inner) for _ in range(3))
        self.out = Dense(inner, width)
        self.heads = heads

    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        """q [T, D], k and v [S, D] -> [T, D]."""
        q, k, v = (einops.rearrange(p(x), "S (N H) -> S N H", N=self.heads)
                   for p, x in ((self.query, q), (self.key, k), (self.value, v)))
        return self.out(einops.rearrange(full_attention(q, k, v),
                                         "T N H -> T (N H)"))


class TwoWayLayer(nnx.Module):
    """Post-norm layer that updates tokens from the image and the image from the tokens."""

    def __init__(self, config: SamConfig):
        D, N = config.prompt_width, config.decoder_heads
        self.self_attention = Attention(D, D, N)
        self.token_to_image = Attention(D, D // 2, N)
        self.image_to_token = Attention(D, D // 2, N)
        self.mlp = Mlp(D, config.decoder_mlp, D)
        self.norm1, self.norm2, self.norm3, self.norm4 = (
            layer_norm(D, TOKEN_EPS) for _ in range(4))

    def __call__(self, tokens, image, start, positions, *, first: bool):
        """tokens and start [T, D], image and positions [Y * X, D].

        `start` are the initial tokens, the positional term of every query. The `first` layer's
        self-attention replaces the tokens and sees no positional term.
        """
        if first:
            tokens = self.norm1(self.self_attention(tokens, tokens, tokens))
        else:
            q = tokens + start
            tokens = self.norm1(tokens + self.self_attention(q, q, tokens))
        tokens = self.norm2(tokens + self.token_to_image(tokens + start, image + positions, image))
        tokens = self.norm3(tokens + self.mlp(tokens, jax.nn.relu))
        image = self.norm4(image + self.image_to_token(image + positions, tokens + start, tokens))
        return tokens, image


class MlpStack(nnx.Module):
    """`depth` Dense layers with ReLU between them."""

    def __init__(self, in_width: int, hidden: int, out_width: int, depth: int):
        self.first = Dense(in_width, hidden)
        self.middle = stack(lambda: Dense(hidden, hidden), depth - 2)
        self.last = Dense(hidden, out_width)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.first(x))
        x, _ = jax.lax.scan(lambda x, layer: (jax.nn.relu(layer(x)), None), x, self.middle)
        return self.last(x)


class MaskDecoder(nnx.Module):
    """Two-way transformer, upscaling and hyper-networks; always computed in float32.

    LEGION asks for a single mask, which is the first of the four; the other three and the IoU head
    exist because they are trained and exported with the rest.
    """

    def __init__(self, config: SamConfig):
        D = config.prompt_width
        self.iou_token = parameter((1, D), normal(1.0))
        self.mask_tokens = parameter((NUM_MASKS, D), normal(1.0))
        self.layers = stack(lambda: TwoWayLayer(config), config.decoder_layers)
        self.final_attention = Attention(D, D // 2, config.decoder_heads)
        self.final_norm = layer_norm(D, TOKEN_EPS)
        # Transposed 2 x 2 convolutions of stride 2: every input cell makes its own 2 x 2 cells.
        self.upscale1 = UpscaleBy2(D, D // 4)
        self.upscale_norm = layer_norm(D // 4, config.norm_eps)
        self.upscale2 = UpscaleBy2(D // 4, D // 8)
        self.hyper = stack(lambda: MlpStack(D, D, D // 8, 3), NUM_MASKS)
        self.iou_head = MlpStack(D, config.iou_hidden, NUM_MASKS, config.iou_layers)
        self.depth = config.decoder_layers

    def __call__(self, image: jax.Array, dense: jax.Array, positions: jax.Array,
                 prompts: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Decode K prompts of each of B images.

        Args:
            image: image embedding [B, Y, X, D].
            dense: dense prompt, broadcastable to [Y, X, D].
            positions: [Y, X, D].
            prompts: [B, K, D].

        Returns:
            Mask logits float32[B, K, 4Y, 4X] and the IoU head's output for that mask,
            float32[B, K].
        """
        image = image.astype(jnp.float32) + dense
        per_image = jax.vmap(self._decode_one, in_axes=(None, None, 0))
        return jax.vmap(per_image, in_axes=(0, None, 0))(
            image, positions.reshape(-1, positions.shape[-1]), prompts.astype(jnp.float32))

    def _decode_one(self, image, positions, prompt):
        Y = image.shape[0]
        start = jnp.concatenate(
            [self.iou_token[...], self.mask_tokens[...], prompt[None]])  # [6, D]

        # Not a scan: until the first layer's end all prompts share the image, so that vmap projects
        # it once instead of once per prompt.
        tokens, cells = start, einops.rearrange(image, "Y X D -> (Y X) D")
        for number in range(self.depth):
            layer = jax.tree.map(lambda a, i=number: a[i], self.layers)
            tokens, cells = layer(tokens, cells, start, positions, first=number == 0)
        attended = self.final_attention(tokens + start, cells + positions, cells)
        tokens = self.final_norm(tokens + attended)
        x = einops.rearrange(cells, "(Y X) D -> Y X D", Y=Y)
        x = gelu(self.upscale_norm(self.upscale1(x)))
        x = gelu(self.upscale2(x))  # [4Y, 4X, D / 8]
        first = jax.tree.map(lambda a: a[0], self.hyper)
        return x @ first(tokens[1]), self.iou_head(tokens[0])[0]


class UpscaleBy2(nnx.Module):
    """Transposed convolution with kernel 2 and stride 2; kernel [D in, 2 * 2 * D out]."""

    def __init__(self, in_width: int, out_width: int):
        self.kernel = parameter((in_width, 4 * out_width), lecun(in_width))
        self.bias = nnx.Param(jnp.zeros(out_width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [Y, X, D] -> [2Y, 2X, F]."""
        y = einops.rearrange(x @ self.kernel[...].astype(x.dtype),
                             "Y X (a b F) -> (Y a) (X b) F", a=2, b=2)
        return y + self.bias[...].astype(x.dtype)
