"""Safetensors files a piece at a time: their tensors never are in memory together."""

import contextlib
import io
import json
import math
import os
import pathlib
import weakref
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from input_pipeline import files

NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
         "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"}
LARGEST_HEADER = 32 << 20  # bytes: of a quarter of a million tensors, which take seconds to list
DTYPES = {code: name for name, code in NAMES.items()}


def numpy_dtype(name: str) -> np.dtype:
    """numpy's dtype for a name such as "bfloat16"."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def raw_bytes(array: np.ndarray) -> memoryview:
    """The bytes of an array in row-major order, copied only when it is laid out otherwise."""
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


class SafetensorsReader:
    """Tensors of a file, or slices of them, as views of the file itself.

    The library reads by copying through memory of its own, which takes twice as long.

    Attributes:
        tensors: {name: (shape, dtype name as the file spells it if it is none of `NAMES`)}, in the
            order of their values.
    """

    def __init__(self, path: epath.PathLike):
        """Opens a file; of one in a bucket there is a local copy as long as the reader lives.

        Raises SafetensorError when the file is damaged or shorter than it says.
        """
        with contextlib.ExitStack() as copy:
            self.path = copy.enter_context(files.local_copy(path))
            weakref.finalize(self, copy.pop_all().close)
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LARGEST_HEADER:
                raise ValueError(f"its header claims {length} bytes, limit {LARGEST_HEADER}")
            self.header = file.read(length)
        with safetensors.safe_open(self.path, framework="numpy") as checked:
            names = checked.offset_keys()
        header = json.loads(self.header)
        self.tensors = {name: (tuple(header[name]["shape"]),
                               DTYPES.get(header[name]["dtype"], header[name]["dtype"]))
                        for name in names}
        self._starts = {name: 8 + length + header[name]["data_offsets"][0] for name in names}

    def read(self, name: str, index: tuple[int, ...] = ()) -> np.ndarray:
        """The tensor at `index` of its leading axes, read-only; its pages go with the array."""
        shape, dtype = self.tensors[name][0], numpy_dtype(self.tensors[name][1])
        number = int(np.ravel_multi_index(index, shape[:len(index)])) if index else 0
        shape = shape[len(index):]
        nbytes = math.prod(shape) * dtype.itemsize
        if not nbytes:
            return np.empty(shape, dtype)
        raw = np.memmap(self.path, np.uint8, "r", self._starts[name] + number * nbytes, (nbytes,))
        return np.asarray(raw).view(dtype).reshape(shape)


class SafetensorsWriter:
    """Lays out all tensors of a file first, then takes them, or slices of them, in any order.

    Writing from several threads is safe as long as no place is written twice.
    """

    def __init__(self, path: os.PathLike, tensors: dict[str, tuple[tuple[int, ...], str]], *,
                 metadata: dict[str, str] | None = None):
        """Create `path` with room for `tensors`, {name: (shape, dtype name)}."""
        self.path = pathlib.Path(path)
        header, end = {"__metadata__": metadata} if metadata else {}, 0
        for name, (shape, dtype) in tensors.items():
            start, end = end, end + math.prod(shape) * numpy_dtype(dtype).itemsize
            header[name] = {"dtype": NAMES[dtype], "shape": list(shape),
                            "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # data starts at a multiple of eight bytes
        self._tensors, self._header, self._base = tensors, header, 8 + len(text)
        self._file = self.path.open("wb", buffering=0)
        with naming(self.path):
            self._file.write(len(text).to_bytes(8, "little") + text)
            self._file.truncate(self._base + end)

    def write(self, name: str, array: np.ndarray, index: tuple[int, ...] = ()) -> None:
        """Put `array` at `index` of the tensor's leading axes; () is the whole tensor.

        Raises ValueError when shape or dtype is not what was laid out.
        """
        shape, dtype = self._tensors[name]
        if shape[len(index):] != array.shape or numpy_dtype(dtype) != array.dtype:
            raise ValueError(f"{self.path}: {name}: {array.dtype} {array.shape} written to "
                             f"{dtype} {shape} at {index}")
        number = np.ravel_multi_index(index, shape[:len(index)]) if index else 0
        start = self._header[name]["data_offsets"][0] + int(number) * array.nbytes
        write_at(self._file, raw_bytes(array), self._base + start)

    def close(self) -> None:
        """Everything is written."""
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def write_at(file: io.RawIOBase, data: memoryview, offset: int) -> None:
    """pwrite that goes on until everything is written. Raises OSError naming the file."""
    with naming(file.name):
        while data:
            done = os.pwrite(file.fileno(), data, offset)
            data, offset = data[done:], offset + done


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Gives an OSError of the block, such as that of a full disk, the path it lacks."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
