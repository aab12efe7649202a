"""Reading checkpoint folders tensor by tensor: `.safetensors`, `.bin`, `.pth`, sharded or not."""

import dataclasses
import hashlib
import math
import os
import pathlib
import pickle
import threading
import zipfile
from collections.abc import Iterable

import numpy as np
import safetensors
from etils import epath

from input_pipeline.errors import first_line
from legion_jax import memory
from legion_jax.convert import torch_file, torch_pickle
from legion_jax.convert.weight_sets import WeightSet, is_text, survey
from legion_jax.weights.checkpoint_error import CheckpointError, parse_json
from legion_jax.weights.tensor_file import NAMES, SafetensorsReader, numpy_dtype

# Pages of a memory-mapped file count as memory of the process until the file is closed.
MAPPED_BYTES = 1 << 29
LESS = "safetensors files, of which one tensor at a time is read"  # takes less memory


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a tensor lies and what it is."""

    file: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * numpy_dtype(self.dtype).itemsize


class TensorFolder:
    """The tensors of one folder (or one file). Reading is safe from several threads.

    Attributes:
        entries: {key: Entry} in the order of the files.
        index: the parsed index file, or None when the folder has a single weights file.
        found: all weights files of the folder; None of a file, and of weights that were given.
    """

    def __init__(self, path: str | pathlib.Path, weights: WeightSet | None = None, *,
                 is_adapter: bool = False):
        """Open a file, or these weights of a folder; without any, those that `survey` chooses.

        Raises CheckpointError.
        """
        self.path = pathlib.Path(path)
        if not is_text(os.path.realpath(self.path)):
            raise CheckpointError(f"{ascii(str(path))}: a name that is not UTF-8 cannot be "
                                  f"recorded; rename it")
        is_folder = self.path.is_dir()
        if not is_folder and not self.path.is_file():
            raise CheckpointError(f"{self.path}: no such file or folder")
        self._open, self._lock = {}, threading.Lock()
        self.root = self.path if is_folder else self.path.parent
        self.found = None
        if not is_folder:
            weights = WeightSet(self.path.name, (self.path.name,))
        elif weights is None:
            self.found = survey(self.path, is_adapter=is_adapter)
            weights = self.found.chosen
        self.index, self.index_name = weights.index, weights.name if weights.index else None
        self.files = list(weights.files)
        self.entries: dict[str, Entry] = {}
        for file in (self.root / name for name in self.files):
            for key, shape, dtype in self._list(file):
                if key in self.entries:
                    raise CheckpointError(f"{file}: {key} is also in {self.entries[key].file}")
                if dtype not in NAMES:
                    raise CheckpointError(f"{file}: {key} is {dtype}, which is not supported; "
                                          f"known: {', '.join(NAMES)}")
                self.entries[key] = Entry(file.name, shape, dtype)
        self._check_index()

    def read(self, key: str) -> np.ndarray:
        """One tensor, bfloat16 as ml_dtypes.bfloat16."""
        file = self.root / self.entries[key].file
        try:
            if file.suffix == ".safetensors":
                return self._open[file].read(key)
            return torch_file.to_numpy(self._torch_state(file, self.entries[key].nbytes)[key])
        except (safetensors.SafetensorError, OSError, RuntimeError, KeyError,
                ValueError) as error:
            raise CheckpointError(f"{file}: {key} cannot be read ({first_line(error)})") from error

    def sha256(self) -> dict[str, str]:
        """Hash of every weights file."""
        return {name: sha256(self.root / name) for name in self.files}

    def _check_index(self) -> None:
        if self.index is None:
            return
        listed = self.index["weight_map"]
        listing = self.path / self.index_name
        for key in listed.keys() - self.entries.keys():
            raise CheckpointError(f"{listing}: {key} is listed, but {listed[key]} does not hold it")
        for key in self.entries.keys() - listed.keys():
            raise CheckpointError(f"{listing}: {key} of {self.entries[key].file} is not listed")
        for key, entry in self.entries.items():
            if listed[key] != entry.file:
                raise CheckpointError(f"{listing}: {key} is listed in {listed[key]}, "
                                      f"found in {entry.file}")

    def _list(self, file: pathlib.Path) -> Iterable[tuple[str, tuple[int, ...], str]]:
        if not file.is_file():  # reading a device would take the memory, or never end
            raise CheckpointError(f"{file}: not a plain file")
        if file.suffix == ".safetensors":
            self._open[file] = open_safetensors(file)
            for key, (shape, dtype) in self._open[file].tensors.items():
                yield key, shape, dtype
            return
        for key, tensor in self._torch_state(file, 0).items():
            if not isinstance(key, str) or not is_text(key):
                raise CheckpointError(f"{file}: {key!r} is not a tensor name")
            if tensor.nbytes > tensor.untyped_storage().nbytes():
                raise CheckpointError(f"{file}: {key} has {tuple(tensor.shape)}, more values than "
                                      f"the file holds of it")
            yield key, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")

    def _torch_state(self, file: pathlib.Path, nbytes: int) -> dict:
        """The open file, opened anew after some reading so that its pages are given back."""
        with self._lock:
            state, used = self._open.pop(file, (None, 0))
            if state is None or used > MAPPED_BYTES:
                state, used = _open_torch(file), 0
            self._open[file] = (state, used + nbytes)
            return state


def sha256(file: pathlib.Path) -> str:
    """Hash of a file, as `sha256sum` prints it."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def open_safetensors(file: epath.Path) -> SafetensorsReader:
    """Open a safetensors file. Raises CheckpointError when it is damaged."""
    try:
        reader = SafetensorsReader(file)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not a readable safetensors file "
                              f"({first_line(error)})") from error
    parse_json(file, reader.header)  # finds names that are there twice
    return reader


def _open_torch(file: pathlib.Path) -> dict:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(f"{file}: reading it needs PyTorch: "
                              f"pip install torch==2.13.0") from error
    try:
        if problem := torch_pickle.problem_of(file):
            raise CheckpointError(f"{file}: {problem}")
        # weights_only refuses every class but tensors: nothing in the file is executed. Files of
        # PyTorch before 1.6 are no zip archives and cannot be mapped.
        is_archive = zipfile.is_zipfile(file)
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=is_archive)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{file}: not a readable PyTorch weights file (it holds more than "
                              f"tensors, or is damaged)") from error
    except Exception as error:  # damaged archives fail in every way a parser can
        if full := memory.explained(error, f"reading {file}", LESS):
            raise full from error
        raise CheckpointError(f"{file}: not a readable PyTorch weights file "
                              f"({first_line(error)})") from error
    if not isinstance(state, dict) or not all(
            isinstance(t, torch.Tensor) and t.layout == torch.strided and t.device.type == "cpu"
            for t in state.values()):
        raise CheckpointError(f"{file}: holds no plain dict of dense tensors")
    if is_archive and (problem := torch_file.problem_of(file, state)):
        raise CheckpointError(f"{file}: {problem}")
    return state
