"""A checkpoint or a training run -> PyTorch folders, LoRA merged, untouched tensors unchanged."""

import dataclasses
import json
import pathlib

import ml_dtypes
import numpy as np
import safetensors.numpy
from etils import epath
from tqdm import tqdm

from legion_jax import checkpoint, partition, report
from legion_jax.config import LegionConfig
from legion_jax.convert import load
from legion_jax.convert.rules import Rule, rules
from legion_jax.convert.source import SourceError


def merged(params: dict[str, np.ndarray], config: LegionConfig) -> dict[str, np.ndarray]:
    """Fold LoRA factors into their kernels, W + alpha / rank * A B in float32."""
    out = {}
    for path, value in params.items():
        base, _, name = path.rpartition("/")
        if name in ("lora_a", "lora_b"):
            continue
        if name == "kernel" and f"{base}/lora_a" in params:
            a, b = (params[f"{base}/lora_{f}"].astype(np.float32) for f in "ab")
            value = value.astype(np.float32) + config.lora.alpha / config.lora.rank * (a @ b)
        out[path] = value
    return out


def to_torch_tensors(params: dict[str, np.ndarray], table: list[Rule]) -> dict[str, np.ndarray]:
    """{published name: array in PyTorch layout}, dtypes unchanged."""
    out = {}
    for rule in table:
        stacked = params[rule.path].reshape(-1, *params[rule.path].shape[rule.keys.ndim:])
        for key, value in zip(rule.keys.ravel(), stacked, strict=True):
            out[key] = rule.layout.to_torch(value)
    return out


def export(folder: str, output: str, *, file_format: str = "bin", progress: bool = True) -> dict:
    """Write `output`/ in the published layout, and `output`/clip/ with the vision tower.

    Weights that came from PyTorch go back to the files, names and dtypes they came from; a model
    trained from scratch is written as float32, in the files the published layout would use.

    Args:
        folder: converted checkpoint or training run.
        output: new folder; nothing is there unless everything is.
        file_format: "bin" or "safetensors", for models that have no source files.

    Returns:
        {role: number of tensors written}.
    """
    target = epath.Path(output)
    if target.exists():
        raise SourceError(f"{output}: already exists; choose another output folder")
    if file_format not in ("bin", "safetensors"):
        raise SourceError(f"file_format: bin or safetensors, not {file_format!r}")
    config = checkpoint.read_meta(folder)["config"]
    params = checkpoint.to_host(checkpoint.load_params(folder, checkpoint.as_stored(
        folder, partition.abstract_params(config))))
    tensors = to_torch_tensors(merged(params, config), rules(config))
    origin = epath.Path(folder)
    while base := checkpoint.read_meta(origin)["base"]:
        origin = epath.Path(base["path"])
    if (origin / "source").exists():
        plan = Plan.from_source(origin / "source")
    else:
        plan = Plan.from_scratch(config, tensors, file_format)
    building = target.parent / f".{target.name}.writing"
    building.rmtree(missing_ok=True)
    building.mkdir(parents=True)
    try:
        written = plan.write(building, tensors, progress=progress)
        for file in (epath.Path(folder) / "tokenizer").iterdir():
            file.copy(building / file.name)
        building.rename(target)
    except BaseException:
        building.rmtree(missing_ok=True)
        raise
    return written


@dataclasses.dataclass
class Plan:
    """Which tensor goes to which file of which folder, and the small files beside them.

    Attributes:
        roles: {role: {"files", "index_name", "index", "tensors": {key: {"file", "dtype"}}}}.
        small: {role: {file name: bytes}}.
        carried: tensors the model does not hold.
    """

    roles: dict
    small: dict[str, dict[str, bytes]]
    carried: dict[str, np.ndarray]

    @classmethod
    def from_source(cls, folder: epath.Path) -> "Plan":
        roles = json.loads((folder / load.LAYOUT).read_text())
        small = {role: {f.name: f.read_bytes() for f in (folder / role).iterdir()}
                 for role in roles}
        return cls(roles, small, safetensors.numpy.load_file(folder / load.CARRIED))

    @classmethod
    def from_scratch(cls, config: LegionConfig, tensors: dict, file_format: str) -> "Plan":
        name = {"bin": "pytorch_model.bin", "safetensors": "model.safetensors"}[file_format]
        roles = {}
        for role, keys in (("legion", [k for k in tensors if not k.startswith("vision_model.")]),
                           ("clip", [k for k in tensors if k.startswith("vision_model.")])):
            roles[role] = {"files": [name], "index_name": None, "index": None,
                           "tensors": {k: {"file": name, "dtype": "float32"} for k in keys}}
        # CLIP's last norm is part of every vision tower file, though LEGION never runs it.
        extra = {"vision_model.post_layernorm.weight": np.ones(config.clip.width, np.float32),
                 "vision_model.post_layernorm.bias": np.zeros(config.clip.width, np.float32)}
        for key in extra:
            roles["clip"]["tensors"][key] = {"file": name, "dtype": "float32"}
        return cls(roles, published_configs(config), extra)

    def write(self, folder: epath.Path, tensors: dict, *, progress: bool) -> dict:
        written = {}
        for role, layout in self.roles.items():
            place = folder if role == "legion" else folder / role
            place.mkdir(parents=True, exist_ok=True)
            for file in tqdm(layout["files"], desc=f"writing {role}", disable=not progress):
                _save(place / file, {key: self._tensor(key, tensors, t["dtype"])
                                     for key, t in layout["tensors"].items() if t["file"] == file})
            if layout["index"]:
                report.write_json(place / layout["index_name"], layout["index"])
            for name, content in self.small.get(role, {}).items():
                (place / name).write_bytes(content)
            written[role] = len(layout["tensors"])
        return written

    def _tensor(self, key: str, tensors: dict, dtype: str) -> np.ndarray:
        value = tensors[key] if key in tensors else self.carried[key]
        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
        return np.asarray(value.astype(kind), order="C")  # keeps tensors without axes


def _save(path: epath.Path, tensors: dict[str, np.ndarray]) -> None:
    if pathlib.PurePath(path).suffix == ".safetensors":
        safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
        return
    import torch
    state = {}
    for key, value in tensors.items():
        if value.dtype == ml_dtypes.bfloat16:
            state[key] = torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
        else:
            state[key] = torch.from_numpy(value.copy())
    torch.save(state, path)


def published_configs(config: LegionConfig) -> dict[str, dict[str, bytes]]:
    """config.json files of a model that was not converted from PyTorch."""
    c, v, s = config.language, config.clip, config.sam
    legion = {
        "architectures": ["LegionForCls" if config.verdict_classes else "LegionForCausalLM"],
        "model_type": "llava", "hidden_act": "silu", "hidden_size": c.width,
        "intermediate_size": c.mlp, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "rms_norm_eps": c.norm_eps, "max_position_embeddings": c.max_positions,
        "vocab_size": c.vocab, "tie_word_embeddings": False, "torch_dtype": "float32",
        "use_cache": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "mm_hidden_size": v.width, "mm_vision_select_layer": v.select_layer,
        "mm_vision_select_feature": "patch", "mm_use_im_start_end": True,
        "vision_tower": "clip", "mm_vision_tower": "clip", "out_dim": s.prompt_width,
        "train_mask_decoder": True, "with_region": True, "num_level_reg_features": 4,
        "tune_mm_mlp_adapter": False}
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
