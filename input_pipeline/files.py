"""Files and folders that are complete or not there at all, and locks on what is being made.

A file is written under another name in the folder of its target and gets the target's name when it
is complete. That name cannot be guessed and is created exclusively. What a killed process leaves
unfinished is removed by the next one that writes the same target: whoever writes holds a lock on
the unfinished file or folder, so nobody removes what is in use.
"""

import contextlib
import fcntl
import glob
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from typing import IO, Any

from etils import epath

from input_pipeline.errors import UserError


class FilesError(UserError):
    """A folder that cannot be made; the message names it."""


def write_json(path: epath.PathLike, value: Any) -> None:
    """Indented JSON in UTF-8, complete or not there at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: epath.PathLike, text: str) -> None:
    """Text in UTF-8, complete or not there at all."""
    write_bytes(path, text.encode())


def write_bytes(path: epath.PathLike, content: bytes, *,
                temporary: epath.Path | None = None) -> None:
    """A file, complete or not there at all; `temporary` as of `whole_file`."""
    if _is_uri(path):  # an object has no name before it is complete
        epath.Path(path).write_bytes(content)
        return
    with whole_file(path, temporary=temporary) as file:
        file.write(content)


class WholeFile:
    """A file being written, which counts its bytes."""

    def __init__(self, file: IO[bytes]):
        """`file`: open for writing bytes."""
        self._file, self.num_bytes = file, 0

    def write(self, content: str | bytes) -> None:
        """Writes bytes, or text in UTF-8. A lone surrogate, which a file name may hold, becomes
        "?"."""
        if isinstance(content, str):
            content = content.encode("utf-8", "replace")
        self._file.write(content)
        self.num_bytes += len(content)


@contextlib.contextmanager
def whole_file(path: epath.PathLike, *,
               temporary: epath.Path | None = None) -> Iterator[WholeFile]:
    """Writes a file piece by piece: it is there once all is written, and never in part.

    Args:
        path: a local file, or one behind a URI.
        temporary: name of the local file while it is written, on the same file system; no such
            file may exist. For callers that write very many files into a folder and remove by
            themselves what killed processes left.
    """
    path = epath.Path(path)
    if _is_uri(path):
        unfinished = path.parent / f"{_prefix(path)}{secrets.token_hex(8)}"
        file = unfinished.open("wb")
    elif temporary:
        unfinished, file = temporary, open(temporary, "xb")
    else:
        unfinished, descriptor = _begin(path, _create_file)
        file = open(descriptor, "wb")
    try:
        yield WholeFile(file)
        if _is_uri(path):
            file.close()
        else:
            file.flush()  # closed only afterwards: until then the lock is needed
        unfinished.replace(path)
        file.close()
    except BaseException:
        with contextlib.suppress(OSError):  # what is left in the buffer may not fit the disk
            file.close()
        unfinished.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_folder(output: epath.PathLike) -> Iterator[pathlib.Path]:
    """A folder to fill, which takes its name when the block ends well and is removed otherwise.

    What killed processes left behind is removed; of two processes that write the same output at
    once, the first to finish wins and the other fails.
    """
    target = pathlib.Path(output)
    if _is_uri(output):
        raise FilesError(f"{output}: values are written at offsets, which needs a local folder; "
                         f"copy it there afterwards")
    if not str(output):
        raise FilesError("the name of the output folder is empty")
    if target.exists() or target.is_symlink():
        raise _exists(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    building, descriptor = _begin(target, _create_folder)
    try:
        yield building
        try:
            building.rename(target)
        except OSError as error:
            raise (_exists(output) if target.exists() else error) from error
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def lock(file: int | IO, busy: Exception, *, part: int | None = None) -> None:
    """Locks an open local file or folder until it is closed; raises `busy` if others hold it.

    A lock of the whole belongs to the open file: child processes that inherit the file keep the
    lock. With `part`, the number of one byte, that byte alone is locked, for this process alone,
    so that as many processes as there are bytes can share the file.
    """
    try:
        if part is None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, part)
    except (BlockingIOError, PermissionError) as error:
        raise busy from error


def _is_uri(path: epath.PathLike) -> bool:
    return "://" in str(path)


def _prefix(target: pathlib.PurePath) -> str:
    """How the names of unfinished files and folders beside their target begin."""
    return f".{target.name}.writing-"


def _create_file(path: pathlib.Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _create_folder(path: pathlib.Path) -> int:
    os.mkdir(path)
    return os.open(path, os.O_RDONLY)


def _begin(target: pathlib.Path,
           create: Callable[[pathlib.Path], int]) -> tuple[pathlib.Path, int]:
    """An unfinished file or folder beside `target`, and its descriptor from `create`, locked."""
    for left in target.parent.glob(glob.escape(_prefix(target)) + "*"):
        _remove_if_left(left)
    while True:
        unfinished = target.parent / f"{_prefix(target)}{secrets.token_hex(8)}"
        try:
            descriptor = create(unfinished)
        except FileNotFoundError:
            if not target.parent.exists():
                raise
            continue  # another process took the new folder for one that was left
        with contextlib.suppress(OSError):  # without locks, nobody removes what is left either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if unfinished.exists():
            return unfinished, descriptor
        os.close(descriptor)


def _exists(output: epath.PathLike) -> FilesError:
    return FilesError(f"{output}: already exists; choose another output folder")


def _remove_if_left(path: pathlib.Path) -> None:
    """Removes an unfinished file or folder unless the process that fills it is alive."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        return
    finally:
        os.close(descriptor)
