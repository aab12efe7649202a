"""Weights files of PyTorch that are written piece by piece, and copies between torch and numpy."""

import pathlib
import re
import struct
import threading
import zipfile
import zlib

import ml_dtypes
import numpy as np

from input_pipeline.errors import first_line
from legion_jax.weights import tensor_file


def to_numpy(tensor) -> np.ndarray:
    """A CPU tensor as an array that shares its memory, bfloat16 as ml_dtypes.bfloat16."""
    import torch
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def problem_of(file: pathlib.Path, state: dict) -> str | None:
    """What is wrong with an archive that PyTorch has mapped; it compares no sizes itself.

    Args:
        state: {name: tensor} of the whole file.
    """
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in state.values())}
    with zipfile.ZipFile(file) as archive:
        records = [r for r in archive.infolist() if re.fullmatch(r"[^/]+/data/\d+", r.filename)]
    if sorted(filter(None, storages.values())) != sorted(r.file_size for r in records
                                                         if r.file_size):
        return "damaged, its records have other sizes than its tensors"
    return None


class TorchWriter:
    """A `.bin` file as `torch.save` makes it, filled in any order; see `SafetensorsWriter`.

    PyTorch writes the archive with holes in place of the values. They are filled here, and the
    checksums that a zip archive keeps of them are put right on closing.
    """

    def __init__(self, path: pathlib.Path, tensors: dict[str, tuple[tuple[int, ...], str]]):
        import torch
        self.path, self._tensors = pathlib.Path(path), tensors
        # Memory that is never touched takes no room.
        state = {name: torch.empty(shape, dtype=getattr(torch, dtype))
                 for name, (shape, dtype) in tensors.items()}
        try:
            with torch.serialization.skip_data():
                torch.save(state, self.path)
        except RuntimeError as error:  # of PyTorch's own writer, for a full disk
            raise OSError(f"{self.path}: cannot be written, perhaps for want of room "
                          f"({first_line(error)})") from error
        with zipfile.ZipFile(self.path) as archive:
            root = archive.namelist()[0].split("/")[0]
            self._records = {name: archive.getinfo(f"{root}/data/{number}")
                             for number, name in enumerate(tensors)}
            self._directory = archive.start_dir
        self._file = self.path.open("r+b", buffering=0)
        self._starts = {name: self._data_start(r) for name, r in self._records.items()}
        self._checksums, self._lock = {}, threading.Lock()

    def write(self, name: str, array: np.ndarray) -> None:
        """Put a whole tensor. Raises ValueError when shape or dtype is not what was laid out."""
        shape, dtype = self._tensors[name]
        if shape != array.shape or tensor_file.numpy_dtype(dtype) != array.dtype:
            raise ValueError(f"{self.path}: {name}: {array.dtype} {array.shape} written to "
                             f"{dtype} {shape}")
        data = tensor_file.raw_bytes(array)
        tensor_file.write_at(self._file, data, self._starts[name])
        checksum = zlib.crc32(data)
        with self._lock:
            self._checksums[self._records[name].header_offset] = checksum

    def close(self) -> None:
        """Write the checksums, beside each record and in the directory at the end."""
        for name, record in self._records.items():
            if record.flag_bits & 8 and (value := self._checksums.get(record.header_offset)):
                after = self._starts[name] + record.file_size
                self._patch(after + 4, value, expect=(after, b"PK\x07\x08"))
        self._file.seek(self._directory)
        directory, entry = self._file.read(), 0
        while directory[entry:entry + 4] == b"PK\x01\x02":
            name, extra, comment = struct.unpack_from("<3H", directory, entry + 28)
            if value := self._checksums.get(self._header_of(directory, entry)):
                self._patch(self._directory + entry + 16, value)
            entry += 46 + name + extra + comment
        self._file.close()

    def _header_of(self, directory: bytes, entry: int) -> int:
        """Offset of the record a directory entry describes, wherever zip64 has put it."""
        compressed, size = struct.unpack_from("<2L", directory, entry + 20)
        length, extra = struct.unpack_from("<2H", directory, entry + 28)
        offset = struct.unpack_from("<L", directory, entry + 42)[0]
        if offset != 0xFFFFFFFF:
            return offset
        field = entry + 46 + length
        while field < entry + 46 + length + extra:
            kind, width = struct.unpack_from("<2H", directory, field)
            if kind == 1:
                before = 8 * ((size == 0xFFFFFFFF) + (compressed == 0xFFFFFFFF))
                return struct.unpack_from("<Q", directory, field + 4 + before)[0]
            field += 4 + width
        raise ValueError(f"{self.path}: PyTorch wrote a directory this version cannot read")

    def _data_start(self, record: zipfile.ZipInfo) -> int:
        self._file.seek(record.header_offset + 26)
        name, extra = struct.unpack("<2H", self._file.read(4))
        return record.header_offset + 30 + name + extra

    def _patch(self, offset: int, value: int, *, expect: tuple[int, bytes] | None = None) -> None:
        if expect:
            self._file.seek(expect[0])
            if self._file.read(len(expect[1])) != expect[1]:
                raise ValueError(f"{self.path}: PyTorch wrote an archive this version cannot read")
        self._file.seek(offset)
        self._file.write(struct.pack("<L", value))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
