"""The composition: vision tower -> projector -> language model; watched states -> verdict, masks.

Which parts there are, the config says. The state that a watched token stands for is the one that
*predicts* it, that is the state one position before it, after the final norm: that of a [SEG]
drives a mask, that of [CLS] a verdict. (LISA, Lai et al., 2024; GLaMM, Rasheed et al., 2024; SIDA,
Huang et al., 2025.)
"""

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from legion_jax.config import VISION, LegionConfig, remat_by_tower
from legion_jax.models import clip, sam_encoder
from legion_jax.models.fusion import Fusion
from legion_jax.models.layers import Dense, Mlp, gelu
from legion_jax.models.llama import Llama
from legion_jax.models.sam_decoder import MaskDecoder, PromptEncoder
from legion_jax.sharding import BATCH, SEQUENCE, constrain


@flax.struct.dataclass
class Seen:
    """What a vision tower makes of a batch of photos.

    Attributes:
        patches: [B, P, D], row by row, for the language model.
        summary: [B, D], of the whole photo, for a verdict head.
    """

    patches: jax.Array
    summary: jax.Array

    @property
    def rows(self) -> jax.Array:
        """Both as one array [B, 1 + P, D], to be kept or sent; `from_rows` reads it back."""
        return jnp.concatenate([self.summary[:, None], self.patches], axis=1)

    @classmethod
    def from_rows(cls, rows: jax.Array) -> "Seen":
        """Inverse of `rows`."""
        return cls(patches=rows[:, 1:], summary=rows[:, 0])


class Legion(nnx.Module):
    """All parts of a config. Most parameters are zero: `param_tree.new_params` makes random ones.

    A part that the config leaves out is None here, and has no parameters.
    """

    def __init__(self, config: LegionConfig, *, int8: bool = False):
        dtype = jnp.dtype(config.dtype)
        C, D = config.vision.width, config.language.width
        remat = remat_by_tower(config.remat)
        self.vision = clip.ClipTower(config.vision, dtype, remat=remat["vision"])
        self.projector = Dense(C, D) if config.projector == "linear" else Mlp(C, D, D)
        self.language = Llama(config.language, config.lora, dtype, remat=remat["language"],
                              position_dtype=config.position_dtype, int8=int8)
        sam, verdict = config.sam, config.verdict
        self.sam_encoder = sam and sam_encoder.SamEncoder(sam, dtype, remat=remat["sam_encoder"])
        self.prompt_encoder = sam and PromptEncoder(sam, position_dtype=config.position_dtype)
        self.mask_decoder = sam and MaskDecoder(sam)
        self.text_projection = sam and Mlp(D, D, sam.prompt_width)
        judges = verdict is not None and verdict.has_head
        self.verdict = Mlp(C if verdict.source == VISION else D, verdict.hidden,
                           len(verdict.classes)) if judges else None
        self.fusion = Fusion(len(verdict.classes), sam.prompt_width) if config.fusion else None
        self.config = config

    def see(self, image: jax.Array) -> Seen:
        """uint8[B, C, C, 3], the vision tower's view -> what it makes of it."""
        return Seen.from_rows(self.vision(clip.normalize(image)))

    def embed(self, ids: jax.Array, seen: Seen, image_index: int) -> jax.Array:
        """Token embeddings with the image placeholder replaced by projected patches.

        Args:
            ids: int[B, T]; the placeholder stands at `image_index` in every row.
            seen: of `see`.
            image_index: static; everything before the image is constant text.

        Returns:
            [B, T - 1 + P, D].
        """
        before = self.language.embed(ids[:, :image_index])
        after = self.language.embed(ids[:, image_index + 1:])
        patches = self.project(seen.patches).astype(before.dtype)
        x = jnp.concatenate([before, patches, after], axis=1)
        return constrain(x, BATCH, SEQUENCE, None)

    def project(self, patches: jax.Array) -> jax.Array:
        """Patches [..., width of vision] -> [..., D], as the language model reads them."""
        if self.config.projector == "linear":
            return self.projector(patches)
        return self.projector(patches, gelu)

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

    def fuse(self, prompts: jax.Array, logits: jax.Array | None, valid: jax.Array) -> jax.Array:
        """Mask prompts [B, K, D] that the verdict's logits have looked at, where there is fusion.

        `logits`: float32[B, classes]; None of a model whose verdict is not on a token. `valid`:
        bool[B, K], which prompts there are.
        """
        if self.fusion is None:
            return prompts
        return self.fusion(prompts.astype(jnp.float32), logits, valid)

    def draw(self, image_embedding: jax.Array, prompts: jax.Array):
        """[B, Y, X, D] and prompts [B, K, D] -> mask logits [B, K, 4Y, 4X] and IoU [B, K]."""
        dense = self.prompt_encoder.no_mask[...].astype(jnp.float32)
        positions = self.prompt_encoder.positions()
        return self.mask_decoder(image_embedding, dense, positions, prompts)

    def judge(self, state: jax.Array) -> jax.Array:
        """Verdict logits float32[..., classes].

        Args:
            state: [..., D], what the verdict's source says: `Seen.summary`, or the state that
                predicts [CLS].

        Raises ValueError when the model has no verdict head.
        """
        if self.verdict is None:
            raise ValueError("this model has no verdict head (config.verdict)")
        return self.verdict(state.astype(jnp.float32), jax.nn.relu)


def splice_flags(flags: jax.Array, image_index: int, num_patches: int, fill: bool) -> jax.Array:
    """Per-token flags bool[B, T] -> bool[B, T - 1 + P]; image positions hold `fill`."""
    image = jnp.full((flags.shape[0], num_patches), fill)
    return jnp.concatenate([flags[:, :image_index], image, flags[:, image_index + 1:]], axis=1)


def token_slots(ids: jax.Array, token_id: int, slots: int, num_patches: int):
    """Where the states that predict a watched token are in each row.

    Args:
        ids: int[B, T] with one image placeholder in front of every such token.

    Returns:
        positions int[B, K] in the spliced sequence, in reading order (0 where unused);
        valid bool[B, K]; count int[B], which exceeds `slots` when some had no slot.
    """
    is_token = ids == token_id

    def columns(row):
        return jnp.nonzero(row, size=slots, fill_value=-1)[0]

    tokens = jax.vmap(columns)(is_token)
    # Token k stands at k + P - 1 once the placeholder has become P patches; minus one is the
    # position before it.
    positions = jnp.where(tokens >= 0, tokens + num_patches - 2, 0)
    return positions, tokens >= 0, is_token.sum(axis=1)


def last_token(ids: jax.Array, token_id: int, num_patches: int) -> tuple[jax.Array, jax.Array]:
    """As `token_slots`, of the last such token alone: positions int[B] and valid bool[B]."""
    is_token = ids == token_id
    last = ids.shape[1] - 1 - jnp.argmax(is_token[:, ::-1], axis=1)
    valid = is_token.any(axis=1)
    return jnp.where(valid, last + num_patches - 2, 0), valid
