"""What a weights file of PyTorch asks for, looked at before PyTorch reads it.

`torch.load(weights_only=True)` executes nothing of a file, but it takes whatever memory the file
names: bytearrays of any size, and records that inflate a thousandfold.
"""

import pathlib
import pickletools
import zipfile
from typing import BinaryIO

LARGEST_PICKLE = 64 << 20  # bytes; that of a model of 100,000 tensors has 20 MB
PICKLES_BEFORE_1_6 = 4  # magic number, version, system, and the names and shapes

# What tensors and the dictionaries that hold them are made of.
MODULES = {"collections": {"OrderedDict"},
           "torch._utils": {"_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter"},
           "torch.storage": {"UntypedStorage", "TypedStorage"}}


def problem_of(file: pathlib.Path) -> str | None:
    """Why PyTorch should not read this file; None for one that holds tensors and names alone.

    Raises OSError, zipfile.BadZipFile, and ValueError for pickles that are damaged.
    """
    if not zipfile.is_zipfile(file):
        with file.open("rb") as opened:
            for _ in range(PICKLES_BEFORE_1_6):
                if problem := _problem_of_pickle(opened):
                    return problem
        return None
    size = file.stat().st_size
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if any(r.compress_type != zipfile.ZIP_STORED for r in records):
            return "a compressed archive, which cannot be mapped"
        if sum(r.file_size for r in records) > size:
            return f"its records claim more than its {size} bytes"
        pickles = [r for r in records if r.filename.lower().endswith(".pkl")]
        for record in pickles:
            if record.file_size > LARGEST_PICKLE:
                return f"{record.filename} has {record.file_size} bytes, limit {LARGEST_PICKLE}"
            with archive.open(record) as opened:
                if problem := _problem_of_pickle(opened):
                    return problem
    return None


def _problem_of_pickle(opened: BinaryIO) -> str | None:
    for code, value, _ in pickletools.genops(opened):
        if code.name == "STACK_GLOBAL":  # of protocol 4, which torch.save does not write by itself
            return "its pickle has another protocol than torch.load reads"
        if code.name in ("GLOBAL", "INST") and not _is_of_tensors(*value.split(" ", 1)):
            return f"it holds more than tensors: {value.replace(' ', '.')[:80]!a}"
    return None


def _is_of_tensors(module: str, name: str) -> bool:
    if module == "torch":  # dtypes, and storages by the type of their values
        return name.endswith("Storage") or name in ("Size", "device") or (
            name.rstrip("0123456789") in ("float", "bfloat", "int", "uint", "complex", "bool"))
    return name in MODULES.get(module, ())
