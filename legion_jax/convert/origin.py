"""What a conversion recorded, read back with every field checked: legion.json and source/."""

import dataclasses
import math
import pathlib
import typing
from typing import Any

from etils import epath

from input_pipeline.text.tokenizer import Tokenizer
from legion_jax.config import LegionConfig
from legion_jax.convert.from_torch import CARRIED, LAYOUT
from legion_jax.convert.roles import LORA
from legion_jax.convert.tensor_folder import INDEXES, SourceError, open_safetensors, read_json
from legion_jax.models import param_tree
from legion_jax.weights import checkpoint, tensor_file

ROLES = ("main", "clip", "sam", "head", "adapter", "modules")
LARGEST = 1 << 31  # of any size, and far above all of them
MANY = 10_000  # layers of a tower
SIGNED = ("select_layer", "rank")


def read_meta(folder: epath.PathLike) -> dict:
    """As `checkpoint.read_meta`, for sizes of which a table of tensors can be made.

    Raises SourceError naming the field.
    """
    path = epath.Path(folder) / checkpoint.META
    if path.exists():
        _check_config(read_json(path).get("config"), LegionConfig, f"{path}: config")
    try:
        meta = checkpoint.read_meta(folder)
    except checkpoint.CheckpointError as error:
        named = str(folder) in str(error)
        raise SourceError(str(error) if named else f"{path}: {error}") from error
    if problem := _problem_of_meta(meta):
        raise SourceError(f"{path}: {problem}")
    return meta


def _problem_of_meta(meta: dict) -> str | None:
    """A field beside the config that a conversion or a run would not have written."""
    blocks, layers = meta["config"].sam.global_blocks, meta["config"].sam.layers
    if list(blocks) != sorted(set(blocks) & set(range(layers))):
        return f"config.sam.global_blocks {list(blocks)} of {layers} layers"
    sources = meta.get("sources", {})
    if not isinstance(sources, dict) or not all(
            isinstance(s, dict) and isinstance(s.get("path"), str) for s in sources.values()):
        return "sources must be objects with a path"
    base, vocabulary = meta["base"], meta.get("vocabulary")
    if vocabulary is not None and not (
            isinstance(vocabulary, dict) and vocabulary.keys() == {"rows", "image_token"}
            and type(vocabulary["rows"]) is int
            and type(vocabulary["image_token"]) in (int, type(None))
            and 0 <= (vocabulary["image_token"] or 0) <= vocabulary["rows"] < LARGEST):
        return f"vocabulary cannot be {vocabulary!r}"
    for name in ("absent", "trained"):
        names = meta.get(name, [])
        if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
            return f"{name} must be a list of names, not {meta[name]!r}"
    if base is not None and not (isinstance(base, dict) and isinstance(base.get("path"), str)
                                 and {"fingerprint", "step"} <= base.keys()):
        return f"base must be an object with path, fingerprint and step, not {base!r}"
    return None


def _check_config(values: Any, kind: type, where: str) -> None:
    """Types and ranges of the fields that are there."""
    if not isinstance(values, dict):
        raise SourceError(f"{where} must be an object, not {values!r}")
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        hint = hints.get(name)
        if dataclasses.is_dataclass(hint):
            _check_config(value, hint, f"{where}.{name}")
        elif hint and not _fits(name, value, hint):
            raise SourceError(f"{where}.{name} cannot be {value!r}")


def _fits(name: str, value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return isinstance(value, list) and all(type(v) is item for v in value)
    if hint is float:
        return type(value) in (int, float) and 0 <= value < math.inf
    if type(value) is not hint or hint is not int:
        return type(value) is hint
    largest = MANY if name.endswith("layers") else LARGEST
    return (-largest if name in SIGNED else 1) <= value < largest


def check_params(folder: epath.PathLike, meta: dict, entries: dict[str, Any], *,
                 absent: set[str]) -> None:
    """Compare {path: shape and dtype} with the model.

    Towers in `absent` may be missing whole; so may LoRA that a run did not train.

    Raises SourceError naming folder and parameter.
    """
    def is_optional(path):
        untrained = meta["base"] and not {f"{path[:-1]}{f}" for f in "ab"} & entries.keys()
        return path.split("/")[0] in towers or ("/lora_" in path and untrained)

    towers = absent - {path.split("/")[0] for path in entries}
    try:
        abstract = param_tree.abstract_params(meta["config"])
        checkpoint.check_shapes(str(folder), entries, {
            path: a for path, a in abstract.items() if path in entries or not is_optional(path)})
    except checkpoint.CheckpointError as error:
        raise SourceError(str(error)) from error
    except (ArithmeticError, TypeError, ValueError) as error:  # of JAX, for sizes that fit nothing
        raise SourceError(f"{folder}: no model has the sizes of {checkpoint.META} ({error})"
                          ) from error
    for path, entry in entries.items():
        if not str(entry.dtype).startswith(("float", "bfloat")) or "float8" in str(entry.dtype):
            raise SourceError(f"{folder}: {path}: {entry.dtype}, a parameter is a float")


def read_tokenizer(folder: epath.PathLike, config: LegionConfig) -> Tokenizer:
    """The tokenizer of a checkpoint. Raises TokenizerError, or SourceError naming both sizes."""
    tokenizer = Tokenizer.from_folder(epath.Path(folder) / "tokenizer")
    if tokenizer.vocab_size != config.language.vocab:
        raise SourceError(f"{folder}/tokenizer: {tokenizer.vocab_size} tokens, the model has "
                          f"{config.language.vocab}")
    return tokenizer


def read_layout(source: pathlib.Path) -> dict[str, dict]:
    """{role: what `load` recorded of its files}; {} of a model that came from no files."""
    path = source / LAYOUT
    if not path.exists():
        return {}
    roles = read_json(path)
    for role, described in roles.items():
        if role not in ROLES:
            raise SourceError(f"{path}: {role!r} is none of {', '.join(ROLES)}")
        if problem := _problem_of_role(described):
            raise SourceError(f"{path}: {role}: {problem}")
    return roles


def _problem_of_role(described: Any) -> str | None:
    """What a conversion would not have recorded."""
    fields = {"spelling", "files", "index_name", "index", "tensors"}
    if not isinstance(described, dict) or not fields <= described.keys():
        return f"not an object with {', '.join(sorted(fields))}"
    files, tensors, index = described["files"], described["tensors"], described["index"]
    if not isinstance(described["spelling"], str) or not isinstance(tensors, dict):
        return "spelling must be a name and tensors an object"
    if not isinstance(files, list) or len(set(map(str, files))) < len(files):
        return "files must be a list without repetition"
    for name in files:
        if not isinstance(name, str) or "\0" in name or pathlib.PurePath(name).name != name:
            return f"{name!r} is not a file name"
    published = set()
    for key, tensor in tensors.items():
        if not _is_tensor(tensor, files) or tensor["published"] in published:
            return f"tensors: {key} cannot be {tensor!r}"
        published |= {tensor["published"]} - {None}
    if index is None and described["index_name"] is None:
        return None
    if not isinstance(index, dict) or described["index_name"] not in INDEXES:
        return f"index_name {described['index_name']!r} with an index of {type(index).__name__}"
    if index.get("weight_map") != {key: tensor["file"] for key, tensor in tensors.items()}:
        return "index and tensors disagree about the files"
    return None


def _is_tensor(value: Any, files: list[str]) -> bool:
    return (isinstance(value, dict) and {"file", "shape", "dtype", "published"} <= value.keys()
            and value["file"] in files and isinstance(value["shape"], list)
            and all(type(n) is int and n >= 0 for n in value["shape"])
            and isinstance(value["dtype"], str) and value["dtype"] in tensor_file.NAMES
            and isinstance(value["published"], str | None))


def open_carried(source: pathlib.Path, roles: dict[str, dict],
                 modelled: set[str]) -> tensor_file.SafetensorsReader | None:
    """The tensors that were carried through; None when there is no such file and none is missed.

    Args:
        modelled: published names of the tensors that the parameters hold.

    Raises SourceError naming a tensor that is not there or not as it was recorded.
    """
    file = source / CARRIED
    kept = open_safetensors(file) if file.exists() else None
    found = kept.tensors if kept else {}
    owner = {t["published"]: role for role, described in roles.items()
             for t in described["tensors"].values()}  # an adapter's tensors come last
    for role, described in roles.items():
        for key, t in described["tensors"].items():
            name, published = f"{role}/{key}", t["published"]
            if name in found and found[name] != (tuple(t["shape"]), t["dtype"]):
                raise SourceError(f"{file}: {name}: {found[name]}, recorded as {t['dtype']} "
                                  f"{t['shape']}")
            if published and not (name in found or published in modelled
                                  or owner[published] != role or LORA.match(published)):
                raise SourceError(f"{file}: {name}: missing")
    return kept
