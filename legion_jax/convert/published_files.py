"""The small files of LEGION and CLIP folders, for a model that did not come in these layouts."""

import json

from legion_jax.config import LegionConfig


def published_configs(config: LegionConfig, dtype: str = "float32") -> dict[str, dict[str, bytes]]:
    """{role: {file name: content}} for weights of this dtype."""
    c, v, s = config.language, config.clip, config.sam
    legion = {
        "architectures": ["LegionForCls" if config.verdict_classes else "LegionForCausalLM"],
        "model_type": "llava", "hidden_act": "silu", "hidden_size": c.width,
        "intermediate_size": c.mlp, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "rms_norm_eps": c.norm_eps, "max_position_embeddings": c.max_positions,
        "rope_theta": c.rope_base, "vocab_size": c.vocab, "tie_word_embeddings": False,
        "torch_dtype": dtype, "use_cache": False,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "mm_hidden_size": v.width, "mm_vision_select_layer": v.select_layer,
        "mm_vision_select_feature": "patch", "mm_use_im_start_end": True,
        "vision_tower": "clip", "mm_vision_tower": "clip", "out_dim": s.prompt_width,
        "train_mask_decoder": True, "with_region": True, "num_level_reg_features": 4,
        "tune_mm_mlp_adapter": False,
        # Not of the published code: what this one cannot tell from tensors.
        "verdict_classes": list(config.verdict_classes), "position_dtype": config.position_dtype}
    clip = {
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
    preprocessor = {"do_resize": True, "size": v.image_size, "resample": 3,
                    "do_center_crop": True, "crop_size": v.image_size, "do_normalize": True,
                    "feature_extractor_type": "CLIPFeatureExtractor",
                    "image_mean": [0.48145466, 0.4578275, 0.40821073],
                    "image_std": [0.26862954, 0.26130258, 0.27577711]}

    def encode(value):
        return (json.dumps(value, indent=2) + "\n").encode()

    return {"legion": {"config.json": encode(legion), "sam_config.json": encode(sam),
                       "generation_config.json": encode(
                           {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
                            "use_cache": False})},
            "clip": {"config.json": encode(clip), "preprocessor_config.json": encode(preprocessor)}}
