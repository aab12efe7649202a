"""Tensors of published checkpoints that LEGION never runs: known, carried through, not modelled."""

import re

from legion_jax.config import LegionConfig
from legion_jax.convert.table import SAM

# Anything else that no rule uses is reported by name.
KNOWN = (
    r"^model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$",  # rounded; recomputed exactly
    r"^model\.region_encoder\.",
    rf"^{re.escape(SAM)}prompt_encoder\.(point_embeddings|not_a_point_embed|mask_downscaling)",
    r"^vision_model\.(encoder\.layers|post_layernorm|embeddings\.position_ids)",
    r"^model\.vision_tower\.",  # of detection checkpoints; CLIP comes from its own folder
    r"^(text_model\.|text_projection\.|visual_projection\.|logit_scale$)",  # rest of a CLIP folder
)


# Names of what is modelled; one that no rule uses means that files and config disagree.
MODELLED = (r"^model\.(layers|embed_tokens|norm|mm_projector|text_hidden_fcs)\.", r"^lm_head\.",
            rf"^{re.escape(SAM)}(image_encoder|mask_decoder)\.", r"^prediction_head\.")


def belongs_to_model(key: str) -> bool:
    """Whether a tensor that no rule uses should have been used."""
    return not is_known(key) and any(re.search(pattern, key) for pattern in MODELLED)


def is_known(key: str) -> bool:
    return any(re.search(pattern, key) for pattern in KNOWN)


def published_shapes(config: LegionConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every unmodelled tensor of a published LEGION checkpoint of this size."""
    return (_rotary(config) | _prompt_extras(config) | _region_encoder(config))


def _rotary(config):
    half = config.language.head_width // 2
    return {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": (half,)
            for i in range(config.language.layers)}


def _prompt_extras(config):
    D, C = config.sam.prompt_width, config.sam.mask_channels
    root = SAM + "prompt_encoder."
    shapes = {f"{root}point_embeddings.{i}.weight": (1, D) for i in range(4)}
    shapes[f"{root}not_a_point_embed.weight"] = (1, D)
    for number, shape in ((0, (C // 4, 1, 2, 2)), (1, (C // 4,)), (3, (C, C // 4, 2, 2)),
                          (4, (C,)), (6, (D, C, 1, 1))):
        shapes[f"{root}mask_downscaling.{number}.weight"] = shape
        shapes[f"{root}mask_downscaling.{number}.bias"] = shape[:1]
    return shapes


def _region_encoder(config):
    """GLaMM's region-of-interest branch on CLIP width C and language width D."""
    C, D, side, levels = config.clip.width, config.language.width, 14, 4
    quarter = C // 4
    fuse, roi = "model.region_encoder.mlvl_fuse.", "model.region_encoder.roi_align."
    shapes = {}
    for i in range(levels):
        shapes |= _with_bias(f"{fuse}input_conv.{i}", (C, C + 2, 1, 1))
        shapes |= _with_bias(f"{roi}pconvs.{i}", (C, C, 3, 3))
    for i in range(5):
        shapes[f"{fuse}fuse_convs.{i}.conv.weight"] = (C, C, 3, 3)
        shapes |= _with_bias(f"{fuse}fuse_convs.{i}.gn", (C,))
    for number, shape in ((0, (quarter, 4)), (2, (quarter,)), (3, (C, quarter)), (5, (C,))):
        shapes |= _with_bias(f"{roi}pos_embedd.{number}", shape)
    shapes |= _with_bias(f"{roi}updims", (D, C))
    shapes |= _with_bias(f"{roi}flatten_linear", (C, C * side * side))
    return shapes


def _with_bias(key, shape):
    return {f"{key}.weight": shape, f"{key}.bias": shape[:1]}
