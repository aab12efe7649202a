"""The composition: CLIP -> projector -> LLaMA; [SEG] states -> SAM masks; CLS state -> verdict.

The state that drives a mask is the one that *predicts* its [SEG] token, that is the state one
position before it, after the final norm. (LISA, Lai et al., 2024; GLaMM, Rasheed et al., 2024.)
"""

import jax
import jax.numpy as jnp
from flax import nnx

from legion_jax.config import LegionConfig, remat_by_tower
from legion_jax.models import clip, sam_encoder
from legion_jax.models.layers import Mlp, gelu
from legion_jax.models.llama import Llama
from legion_jax.models.sam_decoder import MaskDecoder, PromptEncoder
from legion_jax.sharding import BATCH, SEQUENCE, constrain


class Legion(nnx.Module):
    """All towers. Most parameters are zero: `param_tree.new_params` makes random ones."""

    def __init__(self, config: LegionConfig, *, int8: bool = False):
        dtype = jnp.dtype(config.dtype)
        C, D, W = config.clip.width, config.language.width, config.sam.prompt_width
        remat = remat_by_tower(config.remat)
        self.clip = clip.ClipTower(config.clip, dtype, remat=remat["clip"])
        self.projector = Mlp(C, D, D)
        self.language = Llama(config.language, config.lora, dtype, remat=remat["language"],
                              position_dtype=config.position_dtype, int8=int8)
        self.sam_encoder = sam_encoder.SamEncoder(config.sam, dtype, remat=remat["sam_encoder"])
        self.prompt_encoder = PromptEncoder(config.sam, position_dtype=config.position_dtype)
        self.mask_decoder = MaskDecoder(config.sam)
        self.text_projection = Mlp(D, D, W)
        classes = len(config.verdict_classes)
        self.verdict = Mlp(C, config.verdict_hidden, classes) if classes else None
        self.config = config

    def see(self, image: jax.Array) -> jax.Array:
        """uint8[B, C, C, 3] as prepared for CLIP -> hidden states [B, 1 + P, D], CLS first."""
        return self.clip(clip.normalize(image))

    def embed(self, ids: jax.Array, image_states: jax.Array, image_index: int) -> jax.Array:
        """Token embeddings with the image placeholder replaced by projected patches.

        Args:
            ids: int[B, T]; the placeholder stands at `image_index` in every row.
            image_states: `see`'s output [B, 1 + P, D].
            image_index: static; everything before the image is constant text.

        Returns:
            [B, T - 1 + P, D].
        """
        patches = self.projector(image_states[:, 1:], gelu)
        before = self.language.embed(ids[:, :image_index])
        after = self.language.embed(ids[:, image_index + 1:])
        x = jnp.concatenate([before, patches.astype(before.dtype), after], axis=1)
        return constrain(x, BATCH, SEQUENCE, None)

    def read(self, embeddings: jax.Array, valid: jax.Array, *, key=None, capture: bool = False):
        """Uncached causal pass over spliced embeddings.

        Args:
            embeddings: [B, S, D]; valid: bool[B, S], False at padding, which nobody attends to.
                Padding still counts as a position, as in the reference.
            key: switches LoRA dropout on.

        Returns:
            What `Llama.__call__` returns.
        """
        B, S, _ = embeddings.shape
        positions = jnp.broadcast_to(jnp.arange(S), (B, S))
        return self.language(embeddings, positions, valid, key=key, capture=capture)

    def ground(self, image: jax.Array, size: jax.Array) -> jax.Array:
        """SAM canvas uint8[B, C, C, 3] with valid int[B, 2] -> image embedding [B, Y, X, D]."""
        return self.sam_encoder(sam_encoder.normalize(image, size))

    def prompt(self, states: jax.Array) -> jax.Array:
        """Hidden states that predict [SEG], [..., D] -> mask prompts [..., prompt width]."""
        return self.text_projection(states, jax.nn.relu)

    def draw(self, image_embedding: jax.Array, prompts: jax.Array):
        """[B, Y, X, D] and prompts [B, K, D] -> mask logits [B, K, 4Y, 4X] and IoU [B, K]."""
        dense = self.prompt_encoder.no_mask[...].astype(jnp.float32)
        positions = self.prompt_encoder.positions()
        return self.mask_decoder(image_embedding, dense, positions, prompts)

    def judge(self, image_states: jax.Array) -> jax.Array:
        """`see`'s output -> verdict logits float32[B, classes] from the raw CLS state.

        Raises ValueError when the model has no verdict head.
        """
        if self.verdict is None:
            raise ValueError("this model has no verdict head (config.verdict_classes is empty)")
        return self.verdict(image_states[:, 0].astype(jnp.float32), jax.nn.relu)


def splice_flags(flags: jax.Array, image_index: int, num_patches: int, fill: bool) -> jax.Array:
    """Per-token flags bool[B, T] -> bool[B, T - 1 + P]; image positions hold `fill`."""
    image = jnp.full((flags.shape[0], num_patches), fill)
    return jnp.concatenate([flags[:, :image_index], image, flags[:, image_index + 1:]], axis=1)


def seg_slots(ids: jax.Array, seg_id: int, slots: int, num_patches: int):
    """Where the states that predict the [SEG] tokens of each row are.

    Args:
        ids: int[B, T] with one image placeholder in front of every [SEG].

    Returns:
        positions int[B, K] in the spliced sequence, in reading order (0 where unused);
        valid bool[B, K]; count int[B], which exceeds `slots` when some [SEG]s had no slot.
    """
    is_seg = ids == seg_id

    def columns(row):
        return jnp.nonzero(row, size=slots, fill_value=-1)[0]

    tokens = jax.vmap(columns)(is_seg)
    # Token k stands at k + P - 1 once the placeholder has become P patches; minus one is the
    # position before it.
    positions = jnp.where(tokens >= 0, tokens + num_patches - 2, 0)
    return positions, tokens >= 0, is_seg.sum(axis=1)
