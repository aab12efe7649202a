"""Published tensors of a checkpoint or a training run, one at a time, LoRA merged."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import numpy as np
from etils import epath

from legion_jax.config import LegionConfig
from legion_jax.convert import origin as origin_lib, streaming
from legion_jax.convert.table import lora_rules, rules
from legion_jax.convert.tensor_folder import SourceError
from legion_jax.weights import params_files, tensor_file
from tools.verify_case.whole import with_lora


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that can be read later.

    Attributes:
        shape: in PyTorch's layout.
        dtype: of the file it came from; of the parameter if it came from none.
        read: gives the value in that dtype.
        order: tensors read in this order read each parameter once.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]
    order: int


def origin_of(folder: epath.PathLike) -> epath.Path:
    """The converted checkpoint, or the run from scratch, that a chain of runs began with."""
    origin, seen = epath.Path(folder), set()
    while base := origin_lib.read_meta(origin).base:
        seen.add(str(origin))
        origin = epath.Path(base["path"])
        if str(origin) in seen:
            raise SourceError(f"{folder}: {origin} is among its own bases")
    return origin


class Values:
    """Everything that an export may need of a folder.

    Attributes:
        roles: what `load.write_source` recorded of the source; {} when there was none.
        tensors: {published name: Tensor}; LoRA factors too when they are not merged.
        carried: {"role/name": Tensor} of what the model does not hold.
    """

    def __init__(self, folder: epath.PathLike, *, rows: int | None = None, merge: bool = True):
        """`rows`: of the vocabulary matrices, if not one per token."""
        self.meta, origin = origin_lib.read_meta(folder), origin_of(folder)
        self.config: LegionConfig = self.meta["config"]
        self.source = pathlib.Path(origin) / "source"
        self.roles = origin_lib.read_layout(self.source)
        if origin_lib.read_meta(origin).get("sources") and not self.roles:
            raise SourceError(f"{self.source / origin_lib.LAYOUT}: not there; without it nothing "
                              f"go back to where it came from")
        self._reader = params_files.Reader(folder)
        origin_lib.check_params(folder, self.meta, self._reader.entries, absent={
            *self.meta.get("absent", []), *origin_lib.read_meta(origin).get("absent", [])})
        # Merged, a tensor is back in the base's files, in their dtype; apart, in the adapter's.
        order = [*self.roles.values()][::-1 if merge else 1]
        self._dtypes = {t["published"]: t["dtype"] for role in order
                        for t in role["tensors"].values() if t["published"]}
        self.tensors = self._table(rules(self.config, rows), merge)
        if not merge:
            self.tensors |= self._table(lora_rules(self.config), merge)
        self.carried = self._carried()

    def published_carried(self) -> dict[str, Tensor]:
        """`carried` under its published names."""
        names = {f"{role}/{key}": t["published"] for role, described in self.roles.items()
                 for key, t in described["tensors"].items()}
        return {names[name]: t for name, t in self.carried.items() if names.get(name)}

    def _table(self, table, merge: bool) -> dict[str, Tensor]:
        out = {}
        for rule in table:
            if rule.path not in self._reader.entries:
                continue  # a tower this checkpoint was converted without
            entry = self._reader.entries[rule.path]
            shape = rule.layout.torch_shape(tuple(entry.shape[rule.keys.ndim:]))
            for index, key in np.ndenumerate(rule.keys):
                dtype = self._dtypes.get(key, str(entry.dtype))
                read = self._read(rule, index, dtype, merge)
                out[key] = Tensor(shape, dtype, read, len(out))
        return out

    def _read(self, rule, index: tuple[int, ...], dtype: str, merge: bool):
        base = rule.path.rpartition("/")[0]
        adapted = (merge and rule.path.endswith("/kernel")
                   and f"{base}/lora_a" in self._reader.entries)

        def read():
            value = self._reader.read(rule.path, index)
            if adapted:
                a, b = (self._reader.read(f"{base}/lora_{f}", index) for f in "ab")
                value = with_lora(value, a, b, self.config.lora)
            return streaming.cast(rule.layout.to_torch(value), dtype)
        return read

    def _carried(self) -> dict[str, Tensor]:
        kept, out = origin_lib.open_carried(self.source, self.roles, self.tensors.keys()), {}
        if kept is None:
            return {}
        for role, described in self.roles.items():
            for key, t in described["tensors"].items():
                if (name := f"{role}/{key}") in kept.tensors:
                    out[name] = Tensor(tuple(t["shape"]), t["dtype"],
                                       functools.partial(kept.read, name),
                                       len(self.tensors) + len(out))
        return out


def constant(shape: tuple[int, ...], dtype: str, value: float) -> Tensor:
    """A tensor that holds one value."""
    return Tensor(shape, dtype,
                  lambda: np.full(shape, value, tensor_file.numpy_dtype(dtype)), 1 << 30)


def split_tower(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(CLIP's tensors, all others)."""
    tower = {k: t for k, t in tensors.items() if k.startswith("vision_model.")}
    return tower, {k: t for k, t in tensors.items() if k not in tower}


def post_norm(values: Values, tower: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's last norm, part of every vision tower file though LEGION never runs it."""
    root, width = "vision_model.post_layernorm.", (values.config.clip.width,)
    return {key: constant(width, "float32", number)
            for key, number in ((f"{root}weight", 1), (f"{root}bias", 0)) if key not in tower}


def main_dtype(values: Values) -> str:
    """The dtype most of the language model is in."""
    dtypes = [t.dtype for k, t in values.tensors.items() if k.startswith("model.layers.")]
    return max(set(dtypes), key=dtypes.count, default="float32")
