"""Small checkpoint folders in the published layout, with every tensor random."""

import json
import pathlib

import ml_dtypes
import numpy as np
import safetensors.numpy
import torch

from input_pipeline.text.tokenizer import train_tokenizer
from legion_jax.config import LegionConfig
from legion_jax.convert.config_files import published_configs
from legion_jax.convert.table import rules
from legion_jax.models import param_tree
from tools.make_random_checkpoint import published_shapes

TEXTS = ["A grainy patch at the upper left.", "Nothing here is wrong at all."] * 40


def random_tensors(config: LegionConfig, dtype: str, *, seed: int = 0) -> dict[str, np.ndarray]:
    """{name: array} of a whole LEGION checkpoint, and of CLIP with its unused last blocks."""
    rng = np.random.default_rng(seed)
    abstract = param_tree.abstract_params(config)
    shapes = published_shapes(config)
    for rule in rules(config):
        shape = rule.layout.torch_shape(tuple(abstract[rule.path].shape[rule.keys.ndim:]))
        shapes |= {key: shape for key in rule.keys.ravel()}
    for key in [k for k in shapes if k.startswith("vision_model.encoder.layers.0.")]:
        shapes |= {key.replace("layers.0.", f"layers.{unused}."): shapes[key]
                   for unused in range(1, config.vision.layers)}
    shapes["vision_model.post_layernorm.weight"] = (config.vision.width,)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    return {key: rng.normal(size=shape).astype(np.float32).astype(kind)
            for key, shape in shapes.items()}


def to_torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def to_array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def save(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(tensors, path)
    else:
        torch.save({key: to_torch(value) for key, value in tensors.items()}, path)


def save_shards(folder: pathlib.Path, tensors: dict[str, np.ndarray], *, suffix: str,
                shards: int) -> None:
    """One file, or `shards` of them and an index, named as transformers names them."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    if shards == 1:
        save(folder / f"{stem}{suffix}", tensors)
        return
    weight_map = {}
    for number in range(shards):
        name = f"{stem}-{number + 1:05d}-of-{shards:05d}{suffix}"
        part = {k: tensors[k] for k in list(tensors)[number::shards]}
        save(folder / name, part)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))


def load(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, read by PyTorch and safetensors themselves."""
    out = {}
    for file in [*sorted(folder.glob("*.bin")), *sorted(folder.glob("*.safetensors"))]:
        out |= load_file(file)
    return out


def load_file(file: pathlib.Path) -> dict[str, torch.Tensor]:
    """All tensors of a file."""
    if file.suffix != ".safetensors":
        return torch.load(file, weights_only=True)
    return {k: to_torch(v) for k, v in safetensors.numpy.load_file(file).items()}


def make(folder: pathlib.Path, config: LegionConfig, *, dtype: str = "bfloat16",
         suffix: str = ".bin", shards: int = 2) -> tuple[pathlib.Path, pathlib.Path]:
    """Write folder/legion and folder/clip; returns both. The vocabulary must be the tokenizer's."""
    tensors = random_tensors(config, dtype)
    legion, clip = folder / "legion", folder / "clip"
    clip.mkdir(parents=True)
    tokenizer = train_tokenizer(TEXTS, config.language.vocab - 7, legion)
    assert tokenizer.vocab_size == config.language.vocab, tokenizer.vocab_size
    for role, files in published_configs(config).items():
        for name, content in files.items():
            (folder / role / name).write_bytes(content)
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    save(clip / f"{stem}{suffix}",
         {k: v for k, v in tensors.items() if k.startswith("vision_model.")})
    save_shards(legion, {k: tensors[k] for k in sorted(tensors) if not k.startswith(
        "vision_model.")}, suffix=suffix, shards=shards)
    return legion, clip
