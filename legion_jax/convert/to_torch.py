"""A checkpoint or a training run -> PyTorch folders, whole or not there at all."""

import pathlib
import re

from input_pipeline import files
from legion_jax.convert import export_adapter, origin, to_hf
from legion_jax.convert.config_files import published_configs
from legion_jax.convert.model_folder import NAMES, Files, encode
from legion_jax.convert.names import PUBLISHED
from legion_jax.convert.roles import ADDED
from legion_jax.convert.tensor_folder import SourceError
from legion_jax.convert.values import Values, main_dtype, post_norm, split_tower

LAYOUTS = ("legion", "hf", "adapter")


def export(folder: str, output: str, *, layout: str = "legion", file_format: str | None = None,
           progress: bool = True) -> dict[str, int]:
    """Write `output` in one of `LAYOUTS`.

    * legion: the published layout, LoRA merged in float32. Weights that came in this layout go
      back to the files, names and dtypes they came from, an adapter's into those of its base;
      others are laid out as the published ones are, with the vision tower in `output`/clip.
    * hf: folders that transformers opens (`export_hf`).
    * adapter: LoRA for PEFT and the fully trained modules (`export_adapter`).

    Args:
        folder: converted checkpoint or training run.
        output: new folder on a local disk.
        file_format: "bin" or "safetensors", for layout legion; None is the format the weights came
            in, "bin" for weights that came in another layout.

    Returns:
        {weights file: number of tensors}.
    """
    if layout not in LAYOUTS:
        raise SourceError(f"layout: {', '.join(LAYOUTS)}, not {layout!r}")
    if file_format not in (None, *NAMES):
        raise SourceError(f"file_format: {', '.join(NAMES)}, not {file_format!r}")
    if layout != "legion" and file_format == "bin":
        raise SourceError(f"layout {layout} is always safetensors; --format bin is for legion")
    with files.new_folder(output) as building:
        if layout == "legion":
            export = legion(Values(folder), file_format)
        else:
            export = {"hf": to_hf.hf, "adapter": export_adapter.adapter_layout}[layout](folder)
        tokenizer = origin.read_tokenizer(folder, origin.read_meta(folder).config)
        for name, content in tokenizer.files.items():
            export.small.setdefault(f"{'llava/' if layout == 'hf' else ''}{name}", content)
        export.write(building, progress=progress)
    return {file: len(tensors) for file, tensors in export.weights.items()}


def legion(values: Values, file_format: str | None) -> Files:
    """The published layout; as it came, if it came so and every tensor has a place there."""
    base = {role: described for role, described in values.roles.items() if role not in ADDED}
    main = base.get("main", {"spelling": None, "tensors": {}, "files": []})
    there = {t["published"] for role in base.values() for t in role["tensors"].values()}
    as_it_came = (main["spelling"] == PUBLISHED.name and values.tensors.keys() <= there
                  and all(t["published"] in values.tensors or f"main/{key}" in values.carried
                          for key, t in main["tensors"].items()))  # LoRA and PEFT's copies
    if as_it_came:
        return _as_it_came(values, base, file_format)
    came = {pathlib.PurePath(file).suffix for file in main["files"]}
    return _anew(values, file_format or ("safetensors" if came == {".safetensors"} else "bin"))


def _as_it_came(values: Values, roles: dict[str, dict], file_format: str | None) -> Files:
    files = Files()
    for role, described in roles.items():
        renamed = {file: in_format(file, file_format) for file in described["files"]}
        if len(set(renamed.values())) < len(renamed):
            raise SourceError(f"{role}: {', '.join(renamed)} would have the same names as "
                              f"{file_format}; leave --format out")
        place = "" if role == "main" else f"{role}/"
        for file in described["files"]:
            files.weights[place + renamed[file]] = {
                key: values.tensors.get(t["published"]) or values.carried[f"{role}/{key}"]
                for key, t in described["tensors"].items() if t["file"] == file}
        if index := described["index"]:
            weight_map = {key: renamed[file] for key, file in index["weight_map"].items()}
            files.small[place + in_format(described["index_name"], file_format)] = encode(
                index | {"weight_map": weight_map})
        files.add_small(place, {f.name: f.read_bytes() for f in (values.source / role).iterdir()})
    return files


def in_format(file: str, file_format: str | None) -> str:
    """Name of a weights file, or of its index, in another format; its own where that is its own.

    >>> in_format("pytorch_model-00001-of-00002.bin", "safetensors")
    'model-00001-of-00002.safetensors'
    """
    name, dot, index = file.partition(".index.json")
    if file_format is None or name.endswith(".safetensors") == (file_format == "safetensors"):
        return file
    stem, _ = name.rsplit(".", 1)
    old, new = (NAMES[f].split(".")[0] for f in ("bin", "safetensors"))
    if file_format == "bin":
        old, new = new, old
    if re.fullmatch(rf"{old}(-\d+-of-\d+)?", stem):
        stem = stem.replace(old, new, 1)
    return f"{stem}.{file_format}{dot}{index}"


def _anew(values: Values, file_format: str) -> Files:
    files = Files()
    tensors, main = dict(values.tensors), values.roles.get("main", {"tensors": {}})
    own = ({t["published"] for t in main["tensors"].values()}
           if main.get("spelling") == PUBLISHED.name else set())
    for name, tensor in values.published_carried().items():
        if name in own or PUBLISHED.from_published(name) or name.startswith("vision_model."):
            tensors.setdefault(name, tensor)
    tower, rest = split_tower(tensors)
    configs = published_configs(values.config, main_dtype(values))
    files.add_model("", rest, file_format=file_format)
    files.add_small("", configs["legion"])
    if tower:
        files.add_model("clip/", tower | post_norm(values, tower), file_format=file_format)
        files.add_small("clip/", configs["clip"])
    return files
