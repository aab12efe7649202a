"""Files and folders that are complete or not there at all, and locks on those being made."""

import contextlib
import fcntl
import glob
import io
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from etils import epath

from input_pipeline.errors import UserError


class FilesError(UserError):
    """A folder that cannot be made; the message names it."""


def write_json(path: epath.PathLike, value: Any) -> None:
    """Indented JSON, complete or not there at all."""
    write_text(epath.Path(path), json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: epath.Path, text: str) -> None:
    """Text, complete or not there at all."""
    write_bytes(path, text.encode())


def write_bytes(path: epath.Path, content: bytes, *, temporary: epath.Path | None = None) -> None:
    """A file, complete or not there at all; `temporary` is its name while it is written."""
    if "://" in str(path):  # an object has no name before it is complete
        path.write_bytes(content)
        return
    temporary = temporary or path.parent / f".{path.name}.writing"
    temporary.write_bytes(content)
    temporary.replace(path)


class WholeFile:
    """A file being written, which counts its bytes."""

    def __init__(self, file: io.BufferedIOBase):
        """`file`: open for writing bytes."""
        self._file, self.num_bytes = file, 0

    def write(self, text: str) -> None:
        """Writes in UTF-8. A lone surrogate, which a file name may hold, becomes "?"."""
        content = text.encode("utf-8", "replace")
        self._file.write(content)
        self.num_bytes += len(content)


@contextlib.contextmanager
def whole_file(path: epath.PathLike) -> Iterator[WholeFile]:
    """Writes a file piece by piece: it is there once all is written, and never in part."""
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.writing"
    try:
        with temporary.open("wb") as file:
            yield WholeFile(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_folder(output: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to fill, which takes its name when the block ends well and is removed otherwise.

    What killed processes left behind is removed; of two processes that write the same output at
    once, the first to finish wins and the other fails.
    """
    target = pathlib.Path(output)
    if "://" in str(output):
        raise FilesError(f"{output}: values are written at offsets, which needs a local folder; "
                         f"copy it there afterwards")
    if not str(output):
        raise FilesError("the name of the output folder is empty")
    if target.exists() or target.is_symlink():
        raise _exists(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.writing-"
    for left in target.parent.glob(glob.escape(prefix) + "*"):
        _remove_if_left(left)
    building, lock = _locked_folder(prefix, target.parent)
    try:
        building.chmod(0o777 & ~_umask())
        yield building
        try:
            building.rename(target)
        except OSError as error:
            raise (_exists(output) if target.exists() else error) from error
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _locked_folder(prefix: str, parent: pathlib.Path) -> tuple[pathlib.Path, int]:
    """A new folder and the lock that tells others it is in use, as long as the process lives."""
    while True:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process took it for one that was left
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)


def _exists(output: str | pathlib.Path) -> FilesError:
    return FilesError(f"{output}: already exists; choose another output folder")


def _remove_if_left(folder: pathlib.Path) -> None:
    """Remove an unfinished folder unless the process that fills it is alive."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return
    finally:
        os.close(lock)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
