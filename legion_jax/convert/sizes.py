"""Architecture of a published checkpoint: from its config files and, for SAM, its tensor shapes.

LEGION's config.json says nothing about SAM, whose sizes are fixed in the published code.
"""

import re
from collections.abc import Mapping

from legion_jax.config import ClipConfig, LanguageConfig, LegionConfig, SamConfig
from legion_jax.convert.rules import SAM
from legion_jax.convert.source import Entry, SourceError

PUBLISHED_DECODER_HEADS = 8  # the one size of SAM that no tensor's shape tells
VERDICT_CLASSES = ("synthetic", "real")  # index order of the published head


def read_config(config: dict, clip: dict, entries: Mapping[str, Entry], *,
                sam: dict | None = None) -> LegionConfig:
    """Assemble the architecture.

    Args:
        config: config.json of the LEGION folder.
        clip: config.json of the CLIP folder, of a vision tower or of a whole CLIP.
        entries: all tensors of all folders.
        sam: sizes of a SAM other than the published one, for what shapes do not tell.

    Raises:
        SourceError: naming the field that is missing or not supported.
    """
    language = LanguageConfig(
        vocab=_shape(entries, "model.embed_tokens.weight")[0], width=_field(config, "hidden_size"),
        mlp=_field(config, "intermediate_size"), heads=_field(config, "num_attention_heads"),
        layers=_field(config, "num_hidden_layers"), norm_eps=_field(config, "rms_norm_eps"),
        max_positions=config.get("max_position_embeddings", 2048))
    if config.get("vocab_size", language.vocab) != language.vocab:
        raise SourceError(f"config.json: vocab_size {config['vocab_size']}, "
                          f"model.embed_tokens.weight has {language.vocab} rows")
    groups = config.get("num_key_value_heads", language.heads)
    if groups != language.heads:
        raise SourceError(f"config.json: num_key_value_heads {groups}: grouped attention is not "
                          f"part of LEGION's language model")
    if config.get("mm_vision_select_feature", "patch") != "patch":
        raise SourceError("config.json: mm_vision_select_feature must be 'patch', not "
                          f"{config['mm_vision_select_feature']!r}")
    has_head = any(key.startswith("prediction_head.") for key in entries)
    return LegionConfig(
        clip=_clip(clip, config.get("mm_vision_select_layer", -2)), language=language,
        sam=_sam(entries, sam or {}),
        verdict_classes=VERDICT_CLASSES if has_head else (),
        verdict_hidden=(_shape(entries, "prediction_head.0.weight")[0] if has_head
                        else LegionConfig.verdict_hidden),
        position_dtype="bfloat16")


def _clip(config: dict, select_layer: int) -> ClipConfig:
    config = config.get("vision_config", config)
    layers = _field(config, "num_hidden_layers", "CLIP ")
    if not -layers <= select_layer <= layers:
        raise SourceError(f"config.json: mm_vision_select_layer {select_layer}, CLIP has {layers} "
                          f"layers")
    if config.get("hidden_act", "quick_gelu") != "quick_gelu":
        raise SourceError(f"CLIP config.json: hidden_act {config['hidden_act']!r}; "
                          f"CLIP ViT-L/14 uses quick_gelu")
    return ClipConfig(
        image_size=_field(config, "image_size", "CLIP "),
        patch=_field(config, "patch_size", "CLIP "), width=_field(config, "hidden_size", "CLIP "),
        mlp=_field(config, "intermediate_size", "CLIP "),
        heads=_field(config, "num_attention_heads", "CLIP "),
        layers=layers, select_layer=select_layer,
        norm_eps=config.get("layer_norm_eps", 1e-5))


def _sam(entries: Mapping[str, Entry], given: dict) -> SamConfig:
    encoder, decoder = SAM + "image_encoder.", SAM + "mask_decoder."
    _, grid, _, width = _shape(entries, encoder + "pos_embed")
    patch = _shape(entries, encoder + "patch_embed.proj.weight")[-1]
    layers = _count(entries, rf"{re.escape(encoder)}blocks\.(\d+)\.")
    if given.get("depth", layers) != layers:
        raise SourceError(f"{encoder}blocks: {layers} blocks in the files, {given['depth']} in "
                          f"the SAM config")
    sides, head_width = [], 1
    for i in range(layers):
        rows, head_width = _shape(entries, f"{encoder}blocks.{i}.attn.rel_pos_h")
        sides.append((rows + 1) // 2)
    windows = {s for s in sides if s != grid}
    if len(windows) > 1:
        raise SourceError(f"{encoder}blocks: relative positions of {len(windows)} window sizes "
                          f"{sorted(windows)}; SAM has one")
    channels = entries.get(SAM + "prompt_encoder.mask_downscaling.3.weight")
    return SamConfig(
        image_size=grid * patch, patch=patch, width=width, layers=layers,
        heads=width // head_width, mlp=_shape(entries, encoder + "blocks.0.mlp.lin1.weight")[0],
        window=windows.pop() if windows else grid,
        global_blocks=tuple(i for i, s in enumerate(sides) if s == grid),
        prompt_width=_shape(entries, encoder + "neck.0.weight")[0],
        mask_channels=channels.shape[0] if channels else SamConfig.mask_channels,
        decoder_layers=_count(entries, rf"{re.escape(decoder)}transformer\.layers\.(\d+)\."),
        decoder_heads=given.get("decoder_num_heads", PUBLISHED_DECODER_HEADS),
        decoder_mlp=_shape(entries, decoder + "transformer.layers.0.mlp.lin1.weight")[0],
        iou_layers=_count(entries, rf"{re.escape(decoder)}iou_prediction_head\.layers\.(\d+)\."),
        iou_hidden=_shape(entries, decoder + "iou_prediction_head.layers.0.weight")[0])


def _field(config: dict, name: str, owner: str = ""):
    if name not in config:
        raise SourceError(f"{owner}config.json: {name} is missing")
    return config[name]


def _shape(entries: Mapping[str, Entry], key: str) -> tuple[int, ...]:
    if key not in entries:
        raise SourceError(f"{key}: missing")
    return entries[key].shape


def _count(entries: Mapping[str, Entry], pattern: str) -> int:
    """1 + the highest number that the pattern finds in any key."""
    return 1 + max((int(m[1]) for key in entries if (m := re.match(pattern, key))), default=-1)
