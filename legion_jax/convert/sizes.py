"""Architecture of a checkpoint: from its config files and from the shapes of its tensors.

No config.json of LEGION, LISA or SIDA says anything about SAM, whose sizes are fixed in the
published code.
"""

import re
from collections.abc import Mapping
from typing import Any

from input_pipeline.records import verdict_classes
from legion_jax.config import (
    ClipConfig,
    LanguageConfig,
    LegionConfig,
    LoraConfig,
    SamConfig,
    VerdictConfig,
)
from legion_jax.convert.family import LEGION, System
from legion_jax.convert.table import FUSION_ATTENTION, FUSION_QUERY, PROJECTOR, SAM, VERDICT
from legion_jax.convert.tensor_folder import Entry
from legion_jax.weights.checkpoint_error import CheckpointError

# The one size of SAM that no tensor's shape tells, by the width of its prompts where they are
# those of the published SAM.
DECODER_HEADS = {256: 8}
CLIP_HEAD_WIDTH = 64
# What other LLaVAs have otherwise, and no tensor's shape tells.
FIXED = {"mm_vision_select_feature": "patch", "vision_feature_select_strategy": "default",
         "projector_hidden_act": "gelu", "multimodal_projector_bias": True}
# What Hugging Face leaves out of a text_config because it is LLaMA's default.
LLAMA_DEFAULTS = {"num_attention_heads": 32, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048}
# The same of a flat config.json. A LEGION's, which is a Vicuna's, has another and always says it.
FLAT_DEFAULTS = {"rms_norm_eps": 1e-6}


def read_config(configs: Mapping[str, dict], entries: Mapping[str, Entry], *, vocab: int,
                lora: LoraConfig, system: System, sam: dict | None = None) -> LegionConfig:
    """Assemble the architecture.

    Args:
        configs: {role: config.json} of the folders that have one; "main" must be there.
        entries: all tensors under their published names.
        vocab: number of rows of the vocabulary that can be said.
        lora: low-rank update the tensors hold unmerged.
        system: which member of the family it is.
        sam: sizes of a SAM other than the published one, for what shapes do not tell.

    Raises:
        CheckpointError: naming the field that is missing or not supported.
    """
    main = configs["main"]
    projector = "linear" if f"{PROJECTOR}.weight" in entries else "mlp2x_gelu"
    for name, wanted in (FIXED | {"mm_projector_type": projector}).items():
        if main.get(name, wanted) not in (wanted, None):
            raise CheckpointError(f"config.json: {name} must be {wanted!r}, not {main[name]!r}")
    select = main.get("mm_vision_select_layer", main.get("vision_feature_layer", -2))
    # The code of LEGION and LISA, whose config.json is flat, rounds what transformers does not.
    position = main.get("position_dtype", "float32" if "text_config" in main else "bfloat16")
    if position not in ("float32", "bfloat16"):
        raise CheckpointError(f"config.json: position_dtype must be float32 or bfloat16, not "
                              f"{position!r}")
    tower = configs.get("clip") or (
        _part(main, "vision_config") if main.get("vision_config") else {})
    language = _language(main if system == LEGION else FLAT_DEFAULTS | main, entries, vocab)
    return LegionConfig(
        vision=_clip(tower, entries, select), projector=projector, language=language, lora=lora,
        sam=_sam(entries, sam or hf_sam(configs.get("sam", {}))) if system.masks else None,
        verdict=_verdict(main, entries, system, language.width),
        fusion=_fusion(entries, system), position_dtype=position)


def _verdict(config: dict, entries: Mapping[str, Entry], system: System,
             width: int) -> VerdictConfig | None:
    """A head that is there tells its sizes; SIDA has one even where it is still to be trained."""
    source = system.source
    if source is None:
        return None
    if source not in VERDICT:
        return VerdictConfig(source, _classes(config, system), hidden=0)
    up, down = (f"{layer}.weight" for layer in VERDICT[source])
    if up in entries:
        rows, _ = _shape(entries, down, 2)
        return VerdictConfig(source, _classes(config, system, rows=rows, layer=down),
                             _shape(entries, up, 2)[0])
    return VerdictConfig(source, system.classes, width // 2) if system.fusion else None


def _fusion(entries: Mapping[str, Entry], system: System) -> bool:
    """Whether the verdict looks at the masks: where its tensors are, or are still to be trained."""
    if not system.fusion:
        return False
    there = any(name.startswith((FUSION_QUERY, FUSION_ATTENTION)) for name in entries)
    return there or f"{VERDICT[system.source][0]}.weight" not in entries


def _classes(config: dict, system: System, *, rows: int | None = None,
             layer: str = "") -> tuple[str, ...]:
    """Names of the verdict's classes; those of the published system where the config has none.

    Args:
        rows: how many there must be, as `layer`, the last of the head, has rows; None: any number.
    """
    classes = config.get("verdict_classes") or system.classes
    if not isinstance(classes, list | tuple) or not all(isinstance(n, str) for n in classes) or (
            rows not in (None, len(classes))):
        wanted = f"{rows} names, as many as {layer} has rows" if rows else "names"
        raise CheckpointError(f"config.json: verdict_classes must be {wanted}, not {classes!r}")
    try:
        verdict_classes.check_names(classes)
    except verdict_classes.ClassError as error:
        raise CheckpointError(f"config.json: {error}") from error
    return tuple(classes)


def _language(config: dict, entries: Mapping[str, Entry], vocab: int) -> LanguageConfig:
    text = config
    if "text_config" in config:
        text = LLAMA_DEFAULTS | _part(config, "text_config")
    rows, width = _shape(entries, "model.embed_tokens.weight", 2)
    heads = _number(text, "num_attention_heads")
    for name, wanted in (("vocab_size", rows), ("hidden_size", width),
                         ("num_key_value_heads", heads), ("hidden_act", "silu"),
                         ("attention_bias", False), ("mlp_bias", False), ("rope_scaling", None),
                         ("tie_word_embeddings", False), ("head_dim", width // heads)):
        if text.get(name, wanted) not in (wanted, None):
            raise CheckpointError(f"config.json: {name} {text[name]!r}; this checkpoint's language "
                                  f"model needs {wanted!r}")
    layers = _count(entries, r"model\.layers\.(\d+)\.")
    if text.get("num_hidden_layers", layers) != layers:
        raise CheckpointError(f"config.json: num_hidden_layers {text['num_hidden_layers']!r} "
                              f"leaves no place for the {layers} layers in the files")
    for name, entry in entries.items():  # half a head's width, one per layer in older files
        if name.endswith("self_attn.rotary_emb.inv_freq") and entry.shape != (width // heads // 2,):
            raise CheckpointError(f"config.json: num_attention_heads {heads} of width {width} "
                                  f"needs {width // heads // 2} frequencies, {name} is "
                                  f"{entry.shape}")
    rope = _part(text, "rope_parameters") if text.get("rope_parameters") else {}
    if (kind := rope.get("rope_type", "default")) != "default":
        raise CheckpointError(f"config.json: rope_type {kind!r} of rope_parameters is not "
                              f"supported, only 'default'")
    rope = {"rope_theta": text.get("rope_theta", 10000.0)} | rope
    multiple = LanguageConfig.vocab_multiple
    return LanguageConfig(
        vocab=vocab, width=width, heads=heads, layers=layers,
        mlp=_shape(entries, "model.layers.0.mlp.up_proj.weight", 2)[0],
        norm_eps=_number(text, "rms_norm_eps", float),
        rope_base=float(_number(rope, "rope_theta", float)),
        # Rows that belong to no token must fit into the padding.
        vocab_multiple=multiple if rows <= vocab + -vocab % multiple else rows + -rows % multiple,
        max_positions=_number({"max_position_embeddings": 2048} | text, "max_position_embeddings"))


def _clip(config: dict, entries: Mapping[str, Entry], select: Any) -> ClipConfig:
    if type(select) is not int:
        raise CheckpointError(f"config.json: the selected vision layer must be a whole number, not "
                              f"{select!r}")
    root = "vision_model."
    if root + "embeddings.position_embedding.weight" not in entries:
        return ClipConfig(select_layer=select)
    blocks = _count(entries, rf"{re.escape(root)}encoder\.layers\.(\d+)\.")
    if "vision_config" in config:
        config = _part(config, "vision_config")
    config = {"layer_norm_eps": 1e-5, "num_hidden_layers": blocks} | config
    layers = _number(config, "num_hidden_layers", owner="CLIP ")
    if blocks > layers:
        raise CheckpointError(f"CLIP config.json: num_hidden_layers {layers}, there are {blocks} "
                              f"layers in the files")
    if not -layers <= select <= layers or select % (layers + 1) > blocks:
        raise CheckpointError(f"config.json: vision layer {select} of {layers} is selected, there "
                              f"are {blocks} in the files")
    if config.get("hidden_act", "quick_gelu") != "quick_gelu":
        raise CheckpointError(f"CLIP config.json: hidden_act {config['hidden_act']!r}; "
                              f"CLIP ViT-L/14 uses quick_gelu")
    width = _shape(entries, root + "embeddings.class_embedding", 1)[0]
    patch = _shape(entries, root + "embeddings.patch_embedding.weight", 4)[-1]
    rows = _shape(entries, root + "embeddings.position_embedding.weight", 2)[0]
    heads = width // CLIP_HEAD_WIDTH
    if "num_attention_heads" in config or width % CLIP_HEAD_WIDTH:
        heads = _number(config, "num_attention_heads", owner="CLIP ")
    tower = ClipConfig(
        image_size=round((rows - 1) ** 0.5) * patch, patch=patch, width=width, heads=heads,
        layers=layers, select_layer=select, norm_eps=_number(config, "layer_norm_eps", float),
        mlp=_shape(entries, root + "encoder.layers.0.mlp.fc1.weight", 2)[0])
    if tower.num_patches < 1 or tower.num_patches != rows - 1:
        raise CheckpointError(f"{root}embeddings.position_embedding.weight: {rows} rows are no "
                              f"square of patches and one more")
    for name, value in (("image_size", tower.image_size), ("patch_size", patch),
                        ("hidden_size", width)):
        if config.get(name, value) != value:
            raise CheckpointError(f"CLIP config.json: {name} {config[name]!r}, its tensors say "
                                  f"{value}")
    return tower


def _sam(entries: Mapping[str, Entry], given: dict) -> SamConfig:
    encoder, decoder = SAM + "image_encoder.", SAM + "mask_decoder."
    if encoder + "pos_embed" not in entries:
        return SamConfig()
    _, grid, _, width = _shape(entries, encoder + "pos_embed", 4)
    patch = _shape(entries, encoder + "patch_embed.proj.weight", 4)[-1]
    layers = _count(entries, rf"{re.escape(encoder)}blocks\.(\d+)\.")
    if given.get("depth", layers) != layers:
        raise CheckpointError(f"{encoder}blocks: {layers} blocks in the files, {given['depth']!r} "
                              f"in the SAM config")
    sides, head_width = [], 1
    for i in range(layers):
        rows, head_width = _shape(entries, f"{encoder}blocks.{i}.attn.rel_pos_h", 2)
        sides.append((rows + 1) // 2)
    windows = {s for s in sides if s != grid}
    if len(windows) > 1:
        raise CheckpointError(f"{encoder}blocks: relative positions of {len(windows)} window sizes "
                              f"{sorted(windows)}; SAM has one")
    channels = entries.get(SAM + "prompt_encoder.mask_downscaling.3.weight")
    prompt_width = _shape(entries, encoder + "neck.0.weight", 4)[0]
    decoder_heads = given.get("decoder_num_heads", DECODER_HEADS.get(prompt_width))
    if decoder_heads is None:
        raise CheckpointError(f"{encoder}neck.0.weight: {prompt_width} channels, the published SAM "
                              f"has 256; how many heads its mask decoder has must be said, as "
                              f"decoder_num_heads in a JSON file (--sam_config)")
    return SamConfig(
        image_size=grid * patch, patch=patch, width=width, layers=layers,
        heads=max(width // max(head_width, 1), 1),
        mlp=_shape(entries, encoder + "blocks.0.mlp.lin1.weight", 2)[0],
        window=windows.pop() if windows else grid,
        global_blocks=tuple(i for i, s in enumerate(sides) if s == grid),
        prompt_width=prompt_width,
        mask_channels=channels.shape[0] if channels and channels.shape else 16,
        decoder_layers=_count(entries, rf"{re.escape(decoder)}transformer\.layers\.(\d+)\."),
        decoder_heads=_number({"decoder_num_heads": decoder_heads}, "decoder_num_heads",
                              owner="SAM "),
        decoder_mlp=_shape(entries, decoder + "transformer.layers.0.mlp.lin1.weight", 2)[0],
        iou_layers=_count(entries, rf"{re.escape(decoder)}iou_prediction_head\.layers\.(\d+)\."),
        iou_hidden=_shape(entries, decoder + "iou_prediction_head.layers.0.weight", 2)[0])


def hf_sam(config: dict) -> dict:
    """The one size of interest, from the config.json of a `SamModel`."""
    decoder = config.get("mask_decoder_config")
    heads = decoder.get("num_attention_heads") if isinstance(decoder, dict) else None
    return {"decoder_num_heads": heads} if heads else {}


def _part(config: dict, name: str) -> dict:
    if not isinstance(config[name], dict):
        raise CheckpointError(f"config.json: {name} must be an object, not {config[name]!r}")
    return config[name]


def _number(config: dict, name: str, kind: type = int, *, owner: str = "") -> Any:
    """A positive number of a config file."""
    if name not in config:
        raise CheckpointError(f"{owner}config.json: {name} is missing")
    value = config[name]
    if type(value) not in (int, kind) or not 0 < value < 1 << 31:
        raise CheckpointError(f"{owner}config.json: {name} must be a positive "
                              f"{'whole ' if kind is int else ''}number, not {value!r}")
    return value


def _shape(entries: Mapping[str, Entry], key: str, axes: int) -> tuple[int, ...]:
    if key not in entries:
        raise CheckpointError(f"{key}: missing")
    if len(entries[key].shape) != axes or 0 in entries[key].shape:
        raise CheckpointError(f"{key}: {entries[key].shape} in the files, expected {axes} axes, "
                              f"none of them empty")
    return entries[key].shape


def _count(entries: Mapping[str, Entry], pattern: str) -> int:
    """How many numbers the pattern finds in the keys; they must run from 0 without a gap."""
    key_of = {m[1]: key for key in entries if (m := re.match(pattern, key))}
    for number in range(len(key_of)):
        if str(number) not in key_of:
            last = key_of[max(key_of, key=lambda digits: (len(digits), digits))]
            raise CheckpointError(f"{last}: number {number} of {len(key_of)} is missing")
    return len(key_of)
