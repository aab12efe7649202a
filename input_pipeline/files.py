"""Files and folders that are complete or not there at all, and locks on what is being made.

A file is written under another name in the folder of its target and gets the target's name when it
is complete. That name cannot be guessed and is created exclusively. What a killed process leaves
unfinished is removed by the next one that writes the same target: whoever writes holds a lock on
the unfinished file or folder, so nobody removes what is in use.

In a bucket the same is done with what a bucket has, see `input_pipeline.buckets`; there are no
locks there, so whoever writes one target from two processes at once has to keep them apart, as
`input_pipeline.in_use` does.
"""

import contextlib
import fcntl
import glob
import json
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from etils import epath

from input_pipeline import buckets
from input_pipeline.errors import UserError, reason
from input_pipeline.paths import is_link, is_special, is_uri, parse


class FilesError(UserError):
    """A folder that cannot be made; the message names it."""


def check_plain(path: epath.PathLike, error: type[UserError] = FilesError) -> None:
    """Raise `error` for a local path that leads to a folder, a device, a pipe or a socket."""
    if is_special(path) or not is_uri(path) and parse(path).is_dir():
        raise error(f"{path}: not a plain file")


def check_plain_below(folder: epath.PathLike, error: type[UserError] = FilesError) -> None:
    """`check_plain` of everything below a local folder; nothing of one that is not there."""
    if is_uri(folder):
        return
    for inside, _, names in os.walk(parse(folder)):
        for name in names:
            if is_special(file := os.path.join(inside, name)):
                raise error(f"{file}: not a plain file")


def read_plain(path: epath.PathLike, *, largest: int, links: bool = True,
               error: type[UserError] = FilesError) -> bytes:
    """Content of a file that anybody may have put there.

    Reading a device, a pipe or a file of a terabyte would take the memory, or never end. Raises
    `error` naming the file when it is none of its kind, a link (unless `links` are followed), has
    more than `largest` bytes, or cannot be read.
    """
    path = parse(path)
    try:
        if not links and is_link(path):
            raise error(f"{path}: a link; such a file is copied on, so it has to be here itself")
        check_plain(path, error)
        if (size := path.stat().length) > largest:
            raise error(f"{path}: {size} bytes; such a file has at most {largest}")
        return path.read_bytes()
    except FileNotFoundError as missing:
        raise error(f"{path}: not found") from missing
    except OSError as unreadable:
        raise error(f"{path}: cannot be read ({reason(unreadable)})") from unreadable


def write_json(path: epath.PathLike, value: Any) -> None:
    """Indented JSON in UTF-8, complete or not there at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: epath.PathLike, text: str) -> None:
    """Text in UTF-8, complete or not there at all."""
    write_bytes(path, text.encode())


def write_bytes(path: epath.PathLike, content: bytes, *,
                temporary: epath.Path | None = None) -> None:
    """A file, complete or not there at all; `temporary` as of `whole_file`."""
    if is_uri(path):
        buckets.write_bytes(path, content)
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
    if is_uri(path):
        with tempfile.NamedTemporaryFile(prefix="legion-") as file:
            yield WholeFile(file)
            file.flush()
            buckets.put(pathlib.Path(file.name), path)
        return
    path = parse(path)
    if temporary:
        unfinished, file = temporary, open(temporary, "xb")
    else:
        unfinished, descriptor = _begin(path, _create_file)
        file = open(descriptor, "wb")
    try:
        yield WholeFile(file)
        file.flush()  # closed only afterwards: until then the lock is needed
        unfinished.replace(path)
        file.close()
    except BaseException:
        with contextlib.suppress(OSError):  # what is left in the buffer may not fit the disk
            file.close()
        unfinished.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_folder(output: epath.PathLike, *, last: str | None = None) -> Iterator[pathlib.Path]:
    """A local folder to fill, which takes its name when the block ends well, else is removed.

    What killed processes left behind is removed; of two processes that write the same output at
    once, the first to finish wins and the other fails. Into a bucket the folder is copied when it
    is filled, and needs room under TMPDIR until then.

    Args:
        output: the folder; nothing may be there yet.
        last: file that comes into a bucket after all others, by which readers know a whole folder.
    """
    check_free(output)
    with _new_objects(output, last) if is_uri(output) else _new_folder(
            pathlib.Path(parse(output))) as building:
        yield building


def check_free(output: epath.PathLike) -> None:
    """Raises FilesError where `new_folder` could not make this folder, before any work is done."""
    if not str(output):
        raise FilesError("the name of the output folder is empty")
    if is_uri(output):
        buckets.clear_unfinished(parse(output))
    elif pathlib.Path(parse(output)).is_symlink():
        raise _exists(output)
    if parse(output).exists():
        raise _exists(output)


@contextlib.contextmanager
def _new_objects(output: epath.PathLike, last: str | None) -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix="legion-") as scratch:
        building = pathlib.Path(scratch) / "folder"
        building.mkdir()
        yield building
        buckets.upload(building, parse(output), last=last)


@contextlib.contextmanager
def _new_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    building, descriptor = _begin(target, _create_folder)
    try:
        yield building
        try:
            building.rename(target)
        except OSError as error:
            raise (_exists(target) if target.exists() else error) from error
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def local_copy(path: epath.PathLike) -> contextlib.AbstractContextManager[pathlib.Path]:
    """A local file or folder itself, or a copy of what a URI names for as long as the block lasts.

    For what reads files in ways that only a disk has. The copy needs room under TMPDIR. Raises
    FileNotFoundError where nothing is in the bucket, FilesError for a device or a pipe.
    """
    if is_uri(path):
        return buckets.fetched(path)
    if is_special(path):
        raise FilesError(f"{path}: not a plain file")
    return contextlib.nullcontext(pathlib.Path(parse(path)))


def listed(folder: epath.PathLike) -> list[epath.Path]:
    """What lies directly in a folder, by name; nothing where it is not there.

    In a bucket a folder that was made and is still empty is not there.
    """
    try:
        return sorted(path for path in parse(folder).iterdir() if path.name)
    except FileNotFoundError:
        return []


def make_folder(folder: epath.PathLike) -> None:
    """A folder and those above it; a bucket has none to make."""
    if not is_uri(folder):
        parse(folder).mkdir(parents=True, exist_ok=True)


def remove_if_empty(folder: epath.PathLike) -> None:
    """A local folder that nothing is in."""
    with contextlib.suppress(OSError):
        os.rmdir(parse(folder))


def remove_tree(folder: epath.PathLike) -> None:
    """A folder with all that is in it, if it is there."""
    if is_uri(folder):
        buckets.remove_tree(folder)
    elif parse(folder).exists():
        parse(folder).rmtree()


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


@contextlib.contextmanager
def locked_file(path: epath.PathLike, busy: Exception) -> Iterator[IO[bytes]]:
    """An empty local file, open for writing and locked, which is removed when the block ends.

    One that a killed process left is used again; the folder is made. Raises `busy` if others hold
    it, and OSError for a link and on a disk that has no locks.
    """
    path = os.fspath(parse(path))
    check_plain(path)
    while True:
        with _opened(path) as file:
            try:
                lock(file, busy)
            except OSError:  # a disk without locks
                if not os.fstat(file.fileno()).st_size:
                    os.unlink(path)
                raise
            if not _is_same(file, path):
                continue  # who held it has just removed it
            file.truncate()
            try:
                yield file
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)  # only then does the lock go
            return


def _opened(path: str) -> IO[bytes]:
    """A file to write, made with its folder where it is not there, and no link."""
    while True:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            return open(os.open(path, flags, 0o666), "r+b")
        except FileNotFoundError:  # the folder, which another process has just removed
            continue


def _is_same(file: IO, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


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
