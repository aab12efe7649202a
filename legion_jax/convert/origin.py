"""A checkpoint as the PyTorch tensors it came from: what its conversion recorded, and every value.

A conversion leaves `source/` beside the parameters: `layout.json` with every tensor of every file,
`carried.safetensors` with those the model does not hold, and the small files. All of it is read
back with every field checked.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from etils import epath

from input_pipeline import files, strict_json
from legion_jax.convert import streaming
from legion_jax.convert.layout_json import (
    CARRIED,
    LAYOUT,
    RecordedFolder,
    RecordedTensor,
    read_layout,
)
from legion_jax.convert.lora import with_lora
from legion_jax.convert.roles import LORA, SMALL_FILES
from legion_jax.convert.table import Rule, lora_rules, rules
from legion_jax.convert.tensor_folder import open_safetensors
from legion_jax.models import param_tree
from legion_jax.weights import checkpoint, params_files, tensor_file
from legion_jax.weights.checkpoint import Checkpoint
from legion_jax.weights.checkpoint_error import CheckpointError


@dataclasses.dataclass(frozen=True)
class Origin:
    """A checkpoint and what its conversion recorded.

    Attributes:
        opened: the checkpoint.
        first: the converted checkpoint, or the run from scratch, that its chain of runs began with.
        roles: {role: the folder as layout.json has it}; {} of a model that came from no files.
    """

    opened: Checkpoint
    first: Checkpoint
    roles: dict[str, RecordedFolder]

    @classmethod
    def read(cls, opened: Checkpoint) -> "Origin":
        """Raises CheckpointError when a base is not there, or layout.json is damaged."""
        first = opened.chain[-1]
        return cls(opened, first, read_layout(epath.Path(first.folder) / "source" / LAYOUT))

    @property
    def source(self) -> epath.Path:
        """Folder of what the conversion recorded."""
        return epath.Path(self.first.folder) / "source"

    def small_files(self, role: str) -> dict[str, bytes]:
        """{name: content} of the configuration files beside the weights. Raises CheckpointError."""
        folder = self.source / role
        return {file.name: files.read_plain(file, largest=strict_json.LARGEST, links=False,
                                            error=CheckpointError)
                for file in (folder.iterdir() if folder.exists() else ())
                if file.name in SMALL_FILES}

    @property
    def spelling(self) -> str:
        """Layout that the language model came in; "" when it came from no files."""
        return self.roles["main"].spelling if "main" in self.roles else ""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that can be read later.

    Attributes:
        shape: in PyTorch's layout.
        dtype: name of the dtype of the file it came from; of the parameter if it came from none.
        read: gives the value in that dtype.
        order: tensors read in this order read each parameter once.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]
    order: int


class Values:
    """Every tensor that an export may need of a checkpoint, each read when it is written.

    Attributes:
        origin: the checkpoint and what its conversion recorded.
        config: its architecture.
        tensors: {published name: Tensor}; LoRA factors too when they are not merged.
        carried: {"role/name": Tensor} of what the model does not hold.
    """

    def __init__(self, origin: Origin, *, rows: int | None = None, merge: bool = True):
        """Compare the stored parameters with the model and with the record.

        Args:
            rows: of the vocabulary matrices, if not one per token.
            merge: fold LoRA into its kernels.

        Raises CheckpointError naming folder and parameter, or file and tensor.
        """
        self.origin, self.config = origin, origin.opened.meta.config
        if origin.first.meta.sources and not origin.roles:
            raise CheckpointError(f"{origin.source / LAYOUT}: not there; without it nothing can "
                                  f"go back to where it came from")
        self._reader = params_files.Reader(origin.opened)
        _check_params(origin.opened, {*origin.opened.meta.absent, *origin.first.meta.absent})
        # Merged, a tensor is back in the base's files, in their dtype; apart, in the adapter's.
        order = [*origin.roles.values()][::-1 if merge else 1]
        self._dtypes = {tensor.published: tensor.dtype for folder in order
                        for tensor in folder.tensors.values() if tensor.published}
        self.tensors = self._table(rules(self.config, rows), merge)
        if not merge:
            self.tensors |= self._table(lora_rules(self.config), merge)
        self.carried = self._carried()

    def published_carried(self) -> dict[str, Tensor]:
        """`carried` under its published names."""
        names = {name: recorded.published for name, recorded in _carried_names(self.origin)}
        return {names[name]: t for name, t in self.carried.items() if names[name]}

    def main_dtype(self) -> str:
        """Name of the dtype that most of the language model is in."""
        dtypes = [t.dtype for k, t in self.tensors.items() if k.startswith("model.layers.")]
        return max(set(dtypes), key=dtypes.count, default="float32")

    def post_norm(self, tower: dict[str, Tensor]) -> dict[str, Tensor]:
        """CLIP's last norm, part of every vision tower file though LEGION never runs it."""
        root, width = "vision_model.post_layernorm.", (self.config.vision.width,)
        return {key: constant(width, "float32", number)
                for key, number in ((f"{root}weight", 1), (f"{root}bias", 0)) if key not in tower}

    def _table(self, table: list[Rule], merge: bool) -> dict[str, Tensor]:
        parts: dict[str, list[tuple[Rule, tuple[int, ...]]]] = {}
        for rule in table:
            if rule.path in self._reader.entries:  # else of a tower it was converted without
                for index, key in np.ndenumerate(rule.keys):
                    parts.setdefault(key, []).append((rule, index))
        tensors = {}
        for key, (first, *others) in parts.items():
            rule, entry = first[0], self._reader.entries[first[0].path]
            shape = rule.layout.torch_shape(tuple(entry.shape[rule.keys.ndim:]))
            dtype = self._dtypes.get(key, str(entry.dtype))
            tensors[key] = Tensor(shape, dtype, self._read([first, *others], dtype, merge),
                                  len(tensors))
        return tensors

    def _read(self, parts: list[tuple[Rule, tuple[int, ...]]], dtype: str,
              merge: bool) -> Callable[[], np.ndarray]:
        def read_part(rule: Rule, index: tuple[int, ...]) -> np.ndarray:
            module, value = rule.path.rpartition("/")[0], self._reader.read(rule.path, index)
            if merge and rule.path.endswith("/kernel") and (
                    f"{module}/lora_a" in self._reader.entries):
                a, b = (self._reader.read(f"{module}/lora_{f}", index) for f in "ab")
                value = with_lora(value, a, b, self.config.lora)
            return streaming.cast(rule.layout.to_torch(value), dtype)

        def read() -> np.ndarray:
            arrays = [read_part(rule, index) for rule, index in parts]
            return np.concatenate(arrays) if arrays[1:] else arrays[0]
        return read

    def _carried(self) -> dict[str, Tensor]:
        file = _open_carried(self.origin, self.tensors.keys())
        if file is None:
            return {}
        return {name: Tensor(recorded.shape, recorded.dtype, functools.partial(file.read, name),
                             len(self.tensors) + number)
                for number, (name, recorded) in enumerate(_carried_names(self.origin))
                if name in file.tensors}


def _carried_names(origin: Origin) -> list[tuple[str, RecordedTensor]]:
    """(name that a tensor would have in carried.safetensors, the tensor) of all files."""
    return [(f"{role}/{key}", tensor) for role, folder in origin.roles.items()
            for key, tensor in folder.tensors.items()]


def _check_params(opened: Checkpoint, absent: set[str]) -> None:
    """Compare the stored parameters with the model.

    Towers in `absent` may be missing whole; so may LoRA that a run did not train.

    Raises CheckpointError naming folder and parameter.
    """
    folder, entries = opened.folder, opened.entries
    towers = absent - {path.split("/")[0] for path in entries}

    def is_optional(path):
        untrained = opened.base and not {f"{path[:-1]}{f}" for f in "ab"} & entries.keys()
        return path.split("/")[0] in towers or ("/lora_" in path and untrained)

    try:
        abstract = param_tree.abstract_params(opened.meta.config)
    except (ArithmeticError, TypeError, ValueError) as error:  # of JAX, for sizes that fit nothing
        raise CheckpointError(f"{folder}: no model has the sizes of {checkpoint.META} ({error})"
                              ) from error
    checkpoint.check_shapes(str(folder), entries, {
        path: a for path, a in abstract.items() if path in entries or not is_optional(path)})
    for path, entry in entries.items():
        if not str(entry.dtype).startswith(("float", "bfloat")) or "float8" in str(entry.dtype):
            raise CheckpointError(f"{folder}: {path}: {entry.dtype}, a parameter is a float")


def _open_carried(origin: Origin, modelled: set[str]) -> tensor_file.SafetensorsReader | None:
    """The tensors that were carried through; None when there is no such file and none is missed.

    Args:
        modelled: published names of the tensors that the parameters hold.

    Raises CheckpointError naming a tensor that is not there or not as it was recorded.
    """
    path = origin.source / CARRIED
    file = open_safetensors(path) if path.exists() else None
    carried = file.tensors if file else {}
    owner = {tensor.published: role for role, folder in origin.roles.items()
             for tensor in folder.tensors.values()}  # an adapter's tensors come last
    for name, tensor in _carried_names(origin):
        role, published = name.split("/", 1)[0], tensor.published
        if name in carried and carried[name] != (tensor.shape, tensor.dtype):
            raise CheckpointError(f"{path}: {name}: {carried[name]}, recorded as {tensor.dtype} "
                                  f"{list(tensor.shape)}")
        if published and not (name in carried or published in modelled
                              or owner[published] != role or LORA.match(published)):
            raise CheckpointError(f"{path}: {name}: missing")
    return file


def constant(shape: tuple[int, ...], dtype: str, value: float) -> Tensor:
    """A tensor that holds one value."""
    return Tensor(shape, dtype,
                  lambda: np.full(shape, value, tensor_file.numpy_dtype(dtype)), 1 << 30)


def split_tower(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(CLIP's tensors, all others)."""
    tower = {k: t for k, t in tensors.items() if k.startswith("vision_model.")}
    return tower, {k: t for k, t in tensors.items() if k not in tower}
