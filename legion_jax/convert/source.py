"""Reading checkpoint folders: `.safetensors`, `.bin` and `.pth`, sharded or not."""

import dataclasses
import hashlib
import json
import pathlib
import pickle
import zipfile
from collections.abc import Iterable

import ml_dtypes
import numpy as np
import safetensors

from input_pipeline.errors import UserError

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = ("model.safetensors", "pytorch_model.bin")


class SourceError(UserError):
    """A checkpoint file that cannot be read; the message names file and tensor."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a tensor lies and what it is."""

    file: str
    shape: tuple[int, ...]
    dtype: str


class TensorFolder:
    """The tensors of one folder (or one file), opened lazily.

    Attributes:
        entries: {key: Entry} in the order of the files.
        index: the parsed index file, or None when the folder has a single weights file.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)
        self.index_name, self.index = None, None
        self._open = {}
        files = [self.path] if self.path.is_file() else self._weight_files()
        self.root = self.path.parent if self.path.is_file() else self.path
        self.files = [f.name for f in files]
        self.entries: dict[str, Entry] = {}
        for file in files:
            for key, shape, dtype in self._list(file):
                if key in self.entries:
                    raise SourceError(f"{file}: {key} is also in {self.entries[key].file}")
                self.entries[key] = Entry(file.name, shape, dtype)
        self._check_index()

    def read(self, key: str) -> np.ndarray:
        """One tensor, bfloat16 as ml_dtypes.bfloat16."""
        file = self.root / self.entries[key].file
        handle = self._handle(file)
        if file.suffix == ".safetensors":
            return handle.get_tensor(key)
        return _to_numpy(handle[key])

    def sha256(self) -> dict[str, str]:
        """Hash of every weights file."""
        hashes = {}
        for name in self.files:
            with (self.root / name).open("rb") as file:
                hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
        return hashes

    def _weight_files(self) -> list[pathlib.Path]:
        if not self.path.is_dir():
            raise SourceError(f"{self.path}: no such file or folder")
        for name in INDEXES:
            if (self.path / name).exists():
                self.index_name, self.index = name, read_json(self.path / name)
                weight_map = self.index.get("weight_map")
                if not isinstance(weight_map, dict) or not weight_map:
                    raise SourceError(f"{self.path / name}: no weight_map")
                names = sorted(set(weight_map.values()))
                if outside := [n for n in names if pathlib.PurePath(n).name != n]:
                    raise SourceError(f"{self.path / name}: {outside[0]!r} is not a file name")
                if missing := [n for n in names if not (self.path / n).exists()]:
                    raise SourceError(f"{self.path / missing[0]}: listed in {name}, not there")
                return [self.path / n for n in names]
        for name in SINGLES:
            if (self.path / name).exists():
                return [self.path / name]
        loose = sorted(p for s in ("*.safetensors", "*.bin", "*.pth") for p in self.path.glob(s))
        if len(loose) == 1:
            return loose
        raise SourceError(f"{self.path}: expected one of {', '.join(INDEXES + SINGLES)}, found "
                          f"{', '.join(p.name for p in loose) or 'no weights file'}")

    def _check_index(self) -> None:
        if self.index is None:
            return
        listed = self.index["weight_map"]
        where = self.path / self.index_name
        for key in listed.keys() - self.entries.keys():
            raise SourceError(f"{where}: {key} is listed, but {listed[key]} does not hold it")
        for key in self.entries.keys() - listed.keys():
            raise SourceError(f"{where}: {key} of {self.entries[key].file} is not listed")
        for key, entry in self.entries.items():
            if listed[key] != entry.file:
                raise SourceError(f"{where}: {key} is listed in {listed[key]}, "
                                  f"found in {entry.file}")

    def _list(self, file: pathlib.Path) -> Iterable[tuple[str, tuple[int, ...], str]]:
        handle = self._handle(file)
        if file.suffix == ".safetensors":
            for key in handle.keys():
                part = handle.get_slice(key)
                yield key, tuple(part.get_shape()), _SAFETENSORS_DTYPES[part.get_dtype()]
            return
        for key, tensor in handle.items():
            yield key, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")

    def _handle(self, file: pathlib.Path):
        if file not in self._open:
            self._open[file] = (_open_safetensors if file.suffix == ".safetensors"
                                else _open_torch)(file)
        return self._open[file]


_SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
                       "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
                       "BOOL": "bool"}


def _open_safetensors(file: pathlib.Path):
    try:
        return safetensors.safe_open(file, framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise SourceError(f"{file}: not a readable safetensors file ({error})") from error


def _open_torch(file: pathlib.Path) -> dict:
    try:
        import torch
    except ImportError as error:
        raise SourceError(f"{file}: reading it needs PyTorch: "
                          f"pip install torch==2.13.0") from error
    try:
        # weights_only refuses every class but tensors: nothing in the file is executed. Files of
        # PyTorch before 1.6 are no zip archives and cannot be mapped.
        state = torch.load(file, map_location="cpu", weights_only=True,
                           mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise SourceError(f"{file}: not a readable PyTorch weights file (it holds more than "
                          f"tensors, or is damaged)") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise SourceError(f"{file}: not a readable PyTorch weights file "
                          f"({str(error).splitlines()[0]})") from error
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise SourceError(f"{file}: holds no plain dict of tensors")
    return state


def _to_numpy(tensor) -> np.ndarray:
    import torch
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def read_json(path: pathlib.Path) -> dict:
    """Parse a JSON object. Raises SourceError naming the file."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise SourceError(f"{path}: not found") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise SourceError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value
