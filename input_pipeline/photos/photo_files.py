"""Photos as files, local ones or behind URIs: walking folders, opening, and naming what fails."""

import contextlib
import errno
import heapq
import os
import posixpath
import stat
from collections.abc import Iterator
from typing import BinaryIO

from etils import epath

from input_pipeline.errors import UserError, reason
from input_pipeline.paths import is_uri
from input_pipeline.photos.images import ImageError

MOST_LINKS = 4


def walk(root: str, *, hidden: bool = False, repeat: bool = False) -> Iterator[str]:
    """Names of all entries below a folder that are no folders themselves, in no order.

    Args:
        root: a local folder, whose links are followed, or a URI.
        hidden: list what begins with a dot too.
        repeat: enter a folder again by every link that leads there, though none inside itself;
            otherwise every folder is entered once.

    Raises OSError, also for more than MOST_LINKS links one inside another, and behind a URI
    whatever its client raises.
    """
    if is_uri(root):
        return _walk_uri(epath.Path(root), hidden)
    return _walk_local(root, hidden, repeat)


def _walk_local(root: str, hidden: bool, repeat: bool) -> Iterator[str]:
    entered: set[str] = set()
    # (name, real folders whose links led there); links last, so that a photo has the name of where
    # it really is.
    folders, links = [("", ())], []
    while folders or links:
        inside, led = folders.pop() if folders else heapq.heappop(links)
        resolved = os.path.realpath(f"{root}/{inside}")
        if resolved in entered or any(_holds(resolved, folder) for folder in led):
            continue
        if not repeat:
            entered.add(resolved)
        with os.scandir(f"{root}/{inside}") as entries:
            listed = [entry for entry in entries if hidden or not entry.name.startswith(".")]
        for entry in listed:
            name = f"{inside}/{entry.name}" if inside else entry.name
            link = entry.is_symlink()
            if not (os.path.isdir(entry.path) if link else entry.is_dir()):
                yield name  # also a link to nothing: it gets its sentence when it is read
            elif link:
                if len(led) == MOST_LINKS:
                    raise OSError(errno.ELOOP, f"more than {MOST_LINKS} links to folders one "
                                               f"inside another", f"{root}/{name}")
                heapq.heappush(links, (name, (*led, resolved) if repeat else ()))
            else:
                folders.append((name, led))


def _holds(folder: str, other: str) -> bool:
    """Whether a real folder is another one or lies above it."""
    return f"{other}/".startswith(f"{folder.rstrip('/')}/")


def _walk_uri(root: epath.Path, hidden: bool) -> Iterator[str]:
    """The same for a folder behind a URI, which has no links."""
    start = None
    for folder, _, files in root.walk():
        # The first is the root, which some file systems call by another name than was asked for.
        start = len(str(folder).rstrip("/")) + 1 if start is None else start
        for file in files:
            name = f"{str(folder).rstrip('/')}/{file}"[start:]
            if file and (hidden or not any(part.startswith(".") for part in name.split("/"))):
                yield name


def open_file(path: str) -> BinaryIO:
    """Open for reading. Raises ImageError for what is no plain file, OSError."""
    if is_uri(path):
        return epath.Path(path).open("rb")
    # A pipe without a writer would be waited for.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise ImageError(f"{printable(path)}: {'a folder' if os.path.isdir(path) else 'a device'}"
                         f", not a file")
    return open(number, "rb")


@contextlib.contextmanager
def failing(path: str, kind: type[UserError] = ImageError) -> Iterator[None]:
    """Whatever goes wrong with a path becomes one sentence: clients of clouds raise anything."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        culprit = getattr(error, "filename", None) or path
        raise kind(f"{printable(str(culprit))}: {reason(error)}") from error


def absolute(path: str) -> str:
    """Path or URI without . and .. and, if local, from the root on."""
    if is_uri(path):
        scheme, rest = path.split("://", 1)
        return f"{scheme}://{posixpath.normpath(rest)}"
    return os.path.abspath(path)


def real(path: str) -> str:
    """The same with all links followed."""
    return absolute(path) if is_uri(path) else os.path.realpath(path)


def printable(path: str) -> str:
    """Path as text; bytes that are no UTF-8 become question marks."""
    return path.encode("utf-8", "replace").decode()
