"""The small files of exports: configs and image processors of LLaVA, SAM, LEGION and CLIP.

Fields of LLaVA and SAM that transformers has renamed are written under both names, so that 4.4x
and 5.x read them.
"""

import json

from input_pipeline.text.tokenizer import IMAGE_TOKEN
from legion_jax.config import TOKEN, LegionConfig
from legion_jax.models import clip, sam_encoder
from legion_jax.models.sam_decoder import TOKEN_EPS

BICUBIC, BILINEAR = 3, 2  # PIL's numbers
CHAT_TEMPLATE = "chat_template.json"
# Jinja: a turn is its role, then its photos, then its texts; the system has no role.
TEMPLATE = (
    "{%- for turn in messages -%}",
    "{%- if turn.role != 'system' %}{{ turn.role | upper ~ ': ' }}{% endif -%}",
    "{%- for part in turn.content if part.type == 'image' %}{{ '<image>\n' }}{% endfor -%}",
    "{%- for part in turn.content if part.type == 'text' %}{{ part.text ~ ' ' }}{% endfor -%}",
    "{%- endfor -%}",
    "{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif -%}")


def llava_files(config: LegionConfig, *, blocks: int, rows: int, image_token: int,
                dtype: str, pad_token: int = 0, says_image: bool = False) -> dict[str, bytes]:
    """What `LlavaForConditionalGeneration` and its processor read beside weights and tokenizer.

    Args:
        blocks: number of CLIP blocks in the weights, at least `config.vision.depth`.
        rows: rows of the vocabulary matrices; image_token: the one that stands for `<image>`.
        dtype: of the weights.
        pad_token: the row that pads.
        says_image: whether `<image>` may be generated, as by the published FakeVLM.

    Returns:
        {file name: content}.
    """
    text = _text_config(config, rows, dtype)
    llava = {
        "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava",
        "torch_dtype": dtype, "tie_word_embeddings": False,
        "image_token_index": image_token, "image_token_id": image_token,
        "image_seq_length": config.vision.num_patches, "pad_token_id": pad_token,
        "projector_hidden_act": "gelu", "multimodal_projector_bias": True,
        "vision_feature_layer": config.vision.depth - blocks - 1,  # the first entry: embeddings
        "vision_feature_select_strategy": "default",
        # Not of transformers: what legion_jax cannot tell from tensors.
        "verdict_classes": list(config.classes), "position_dtype": config.position_dtype,
        "text_config": text, "vision_config": _vision_config(config, blocks, dtype)}
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": pad_token,
                  "do_sample": False} | ({} if says_image else {"suppress_tokens": [image_token]})
    side = config.vision.image_size
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor",
        "do_convert_rgb": True, "do_resize": True, "size": {"shortest_edge": side},
        "resample": BICUBIC, "do_center_crop": True, "crop_size": {"height": side, "width": side},
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": list(clip.MEAN), "image_std": list(clip.STD)}
    return {"config.json": encode(llava), "generation_config.json": encode(generation),
            "preprocessor_config.json": encode(preprocessor)}


def processor_files(config: LegionConfig) -> dict[str, bytes]:
    """{file name: content} of what `LlavaProcessor` reads beside images and tokenizer.

    The one additional token is CLIP's class token, which is counted and then left out. The template
    writes conversations as `dialogue.LLAVA15_CHAT` does.
    """
    processor = {
        "processor_class": "LlavaProcessor", "image_token": IMAGE_TOKEN,
        "patch_size": config.vision.patch, "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default"}
    return {"processor_config.json": encode(processor),
            CHAT_TEMPLATE: encode({"chat_template": "".join(TEMPLATE)})}


def _text_config(config: LegionConfig, rows: int, dtype: str) -> dict:
    c = config.language
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": dtype,
        "vocab_size": rows, "hidden_size": c.width, "intermediate_size": c.mlp,
        "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "num_key_value_heads": c.heads, "head_dim": c.head_width, "hidden_act": "silu",
        "rms_norm_eps": c.norm_eps, "max_position_embeddings": c.max_positions,
        "rope_theta": c.rope_base, "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_base},
        "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _vision_config(config: LegionConfig, blocks: int, dtype: str) -> dict:
    c = config.vision
    return {
        "model_type": "clip_vision_model", "torch_dtype": dtype, "hidden_act": "quick_gelu",
        "hidden_size": c.width, "intermediate_size": c.mlp, "num_hidden_layers": blocks,
        "num_attention_heads": c.heads, "num_channels": 3, "image_size": c.image_size,
        "patch_size": c.patch, "layer_norm_eps": c.norm_eps, "projection_dim": 768}


def sam_files(config: LegionConfig) -> dict[str, bytes]:
    """{file name: content} of what `SamModel` and its processor read beside the weights."""
    c = config.sam
    vision = {
        "model_type": "sam_vision_model", "hidden_size": c.width, "mlp_dim": c.mlp,
        "mlp_ratio": c.mlp / c.width, "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads, "num_channels": 3, "image_size": c.image_size,
        "patch_size": c.patch, "hidden_act": "gelu", "layer_norm_eps": c.norm_eps,
        "qkv_bias": True, "use_abs_pos": True, "use_rel_pos": True, "window_size": c.window,
        "global_attn_indexes": list(c.global_blocks), "output_channels": c.prompt_width,
        "num_pos_feats": c.prompt_width // 2}
    prompt = {
        "model_type": "sam_prompt_encoder", "hidden_size": c.prompt_width,
        "image_size": c.image_size, "patch_size": c.patch, "image_embedding_size": c.grid,
        "mask_input_channels": c.mask_channels, "num_point_embeddings": 4, "hidden_act": "gelu",
        "layer_norm_eps": c.norm_eps}
    decoder = {
        "model_type": "sam_mask_decoder", "hidden_size": c.prompt_width, "mlp_dim": c.decoder_mlp,
        "num_hidden_layers": c.decoder_layers, "num_attention_heads": c.decoder_heads,
        "attention_downsample_rate": 2, "hidden_act": "relu", "num_multimask_outputs": 3,
        "iou_head_depth": c.iou_layers, "iou_head_hidden_dim": c.iou_hidden,
        "layer_norm_eps": TOKEN_EPS}  # as in Meta's code; transformers' default is another
    sam = {"architectures": ["SamModel"], "model_type": "sam", "torch_dtype": "float32",
           "vision_config": vision, "prompt_encoder_config": prompt,
           "mask_decoder_config": decoder}
    low = 4 * c.grid  # side of a mask before it is enlarged
    preprocessor = {
        "image_processor_type": "SamImageProcessor", "processor_class": "SamProcessor",
        "do_convert_rgb": True, "do_resize": True, "size": {"longest_edge": c.image_size},
        "resample": BILINEAR, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": _unit(sam_encoder.MEAN), "image_std": _unit(sam_encoder.STD),
        "do_pad": True, "pad_size": {"height": c.image_size, "width": c.image_size},
        "mask_size": {"longest_edge": low}, "mask_pad_size": {"height": low, "width": low}}
    return {"config.json": encode(sam), "preprocessor_config.json": encode(preprocessor)}


def published_configs(config: LegionConfig, dtype: str = "float32") -> dict[str, dict[str, bytes]]:
    """The small files of LEGION (or LISA, or SIDA) and CLIP folders, for weights of this dtype.

    Returns:
        {"legion" or "clip": {file name: content}}.
    """
    c, v, s = config.language, config.vision, config.sam
    legion = {
        "architectures": [_architecture(config)],
        "model_type": "llava", "hidden_act": "silu", "hidden_size": c.width,
        "intermediate_size": c.mlp, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "rms_norm_eps": c.norm_eps, "max_position_embeddings": c.max_positions,
        "rope_theta": c.rope_base, "vocab_size": c.vocab, "tie_word_embeddings": False,
        "torch_dtype": dtype, "use_cache": False,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "mm_hidden_size": v.width, "mm_vision_select_layer": v.select_layer,
        "mm_vision_select_feature": "patch", "mm_use_im_start_end": True,
        "vision_tower": "clip", "mm_vision_tower": "clip", "out_dim": s.prompt_width,
        "train_mask_decoder": True,
        **({"mm_projector_type": "linear"} if config.projector == "linear" else
           {"with_region": True, "num_level_reg_features": 4}),
        "tune_mm_mlp_adapter": False,
        # Not of the published code: what this one cannot tell from tensors.
        "verdict_classes": list(config.classes), "position_dtype": config.position_dtype}
    tower = {
        "architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model",
        "hidden_act": "quick_gelu", "hidden_size": v.width, "intermediate_size": v.mlp,
        "num_hidden_layers": v.layers, "num_attention_heads": v.heads,
        "image_size": v.image_size, "patch_size": v.patch, "layer_norm_eps": v.norm_eps,
        "num_channels": 3}
    sam = {"image_size": s.image_size, "patch_size": s.patch, "embed_dim": s.width,
           "depth": s.layers, "num_heads": s.heads, "mlp_ratio": s.mlp / s.width,
           "window_size": s.window, "global_attn_indexes": list(s.global_blocks),
           "prompt_embed_dim": s.prompt_width, "decoder_depth": s.decoder_layers,
           "decoder_mlp_dim": s.decoder_mlp, "decoder_num_heads": s.decoder_heads,
           "iou_head_depth": s.iou_layers, "iou_head_hidden_dim": s.iou_hidden}
    preprocessor = {"do_resize": True, "size": v.image_size, "resample": BICUBIC,
                    "do_center_crop": True, "crop_size": v.image_size, "do_normalize": True,
                    "feature_extractor_type": "CLIPFeatureExtractor",
                    "image_mean": list(clip.MEAN), "image_std": list(clip.STD)}
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "use_cache": False}
    return {"legion": {"config.json": encode(legion), "sam_config.json": encode(sam),
                       "generation_config.json": encode(generation)},
            "clip": {"config.json": encode(tower),
                     "preprocessor_config.json": encode(preprocessor)}}


def _architecture(config: LegionConfig) -> str:
    """The class of the published code."""
    if config.verdict_source == TOKEN:
        return "SIDAForCausalLM"
    if config.projector == "linear":
        return "LISAForCausalLM"
    return "LegionForCls" if config.classes else "LegionForCausalLM"


def _unit(values: tuple[float, ...]) -> list[float]:
    """Statistics of bytes as those of values up to 1."""
    return [round(value / 255, 6) for value in values]


def encode(value: dict) -> bytes:
    """JSON in ASCII, indented by two, with a line end."""
    return (json.dumps(value, indent=2) + "\n").encode()
