"""What a conversion or an export must have written, by readers that share no code with it."""

import os
import pathlib

import ml_dtypes
import numpy as np
import safetensors.torch
import torch

from legion_jax.convert.from_torch import verify
from legion_jax.convert.names import LISA, LLAVA_OLD
from legion_jax.convert.roles import open_sources
from legion_jax.convert.table import lora_rules, rules
from legion_jax.models import param_tree
from legion_jax.weights import checkpoint

# What lies in the thirds of a tensor.
PACKED = {f"model.attention_layer.in_proj_{kind}": ["fusion/query", "fusion/key", "fusion/value"]
          for kind in ("weight", "bias")}


def load_files(place: pathlib.Path, files) -> dict[str, torch.Tensor]:
    """All tensors of some files, read by PyTorch and safetensors themselves."""
    out = {}
    for name in files:
        file = (place if place.is_dir() else place.parent) / name
        out |= (safetensors.torch.load(file.read_bytes()) if file.suffix == ".safetensors"
                else torch.load(file, map_location="cpu", weights_only=True))
    return out


def values_of(sources) -> dict[str, np.ndarray]:
    """{published name: array} of what a conversion would use."""
    read = {role: load_files(s.folder.path, s.folder.files) for role, s in sources.roles.items()}
    for role, source in sources.roles.items():
        assert read[role].keys() == source.folder.entries.keys(), "other tensors than PyTorch finds"
    return {name: to_array(read[role][sources.roles[role].names[name]])
            for name, role in sources.owner.items()}


def to_array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return (one.shape == other.shape and one.dtype == other.dtype
            and np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes())


def parameters(folder: pathlib.Path, *, partly: bool = False) -> dict[str, np.ndarray]:
    """{path: array} of a converted checkpoint; `partly`: of the files that can be read."""
    out = {}
    for name in sorted(os.listdir(folder / "params")):
        try:
            out |= load_files(folder / "params", [name])
        except safetensors.SafetensorError:
            assert partly, name
    return {path: to_array(t) for path, t in out.items()}


def check_converted(root: pathlib.Path, output: pathlib.Path, roles: dict[str, str]) -> None:
    """Compare a conversion with its sources, tensor by tensor."""
    folders = {role: str(root / name) for role, name in roles.items()}
    sources = open_sources(folders.pop("main"), **folders)
    values, params = values_of(sources), parameters(output)
    config = checkpoint.read_meta(output).config
    table = rules(config, len(values["model.embed_tokens.weight"])) + lora_rules(config)
    assert params.keys() == {rule.path for rule in table}
    assert params.keys() == param_tree.abstract_params(config).keys()
    for rule in table:
        stored = params[rule.path]
        assert np.isfinite(stored.astype(np.float32)).all(), rule.path
        for index, key in np.ndenumerate(rule.keys):
            wanted = rule.layout.to_jax(values[key])
            assert same(wanted.astype(stored.dtype), stored[index]), key
            assert np.array_equal(wanted.astype(np.float64), stored[index].astype(np.float64)), key
    used = {key for rule in table for key in rule.keys.ravel()}
    carried = load_files(output / "source", ["carried.safetensors"])
    names = {f"{role}/{sources.roles[role].names[name]}": name
             for name, role in sources.owner.items() if name not in used}
    assert carried.keys() == names.keys()
    for key, name in names.items():
        assert same(to_array(carried[key]), values[name]), key
    problems = verify(output, progress=False)
    assert not problems, problems


def exported(output: pathlib.Path, layout: str) -> dict[str, np.ndarray]:
    """{published name: array} of an export."""
    if layout != "adapter":
        clip = str(output / "clip") if (output / "clip").exists() else None
        return values_of(open_sources(str(output), clip=clip))
    files = sorted(p.name for p in output.glob("*.safetensors"))
    return {key.removeprefix("base_model.model."): to_array(t)
            for key, t in load_files(output, files).items()}


def check_exported(root: pathlib.Path, output: pathlib.Path, layout: str) -> None:
    """Compare an export with the converted checkpoint root/jax, tensor by tensor."""
    folder, values = root / "jax", exported(output, layout)
    params = parameters(folder, partly=layout == "adapter")  # which needs some of them alone
    config = checkpoint.read_meta(folder).config
    table = rules(config) + lora_rules(config)
    assert values
    assert layout == "adapter" or params.keys() == {rule.path for rule in table}
    for rule in table:
        for index, key in np.ndenumerate(rule.keys):
            if layout == "adapter" and key not in values:
                continue
            wanted, value = rule.layout.to_torch(params[rule.path][index]), values[key]
            if key in PACKED:
                value = np.split(value, 3)[PACKED[key].index(rule.path.rpartition("/")[0])]
            if layout == "hf":
                value = value[:len(wanted)]  # a row more for `<image>`
            assert same(wanted.astype(value.dtype), value), key
    if layout == "legion":
        for name, tensor in load_files(folder / "source", ["carried.safetensors"]).items():
            key = name.split("/", 1)[1]
            published = LISA.to_published(key) or LLAVA_OLD.to_published(key) or key
            assert same(to_array(tensor), values[published]), name
