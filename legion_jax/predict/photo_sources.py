"""Where the photos of a job come from: a folder, files, a list, a pattern, or a prepared data set.

A source knows the names of all its photos, in an order that is always the same, and reads the bytes
of one at a time. Names are held, photos never are.
"""

import fnmatch
import glob
import hashlib
import os
import posixpath
from collections.abc import Sequence

from etils import epath

from input_pipeline.errors import UserError
from input_pipeline.paths import find, is_uri
from input_pipeline.photos.images import check_bytes
from input_pipeline.photos.photo_files import absolute, failing, open_file, printable, real, walk
from input_pipeline.records import prepared

LARGEST_LIST, MOST_LINES = 256 << 20, 10_000_000  # what they take in memory is some 4 GB


class SourceError(UserError):
    """A source that cannot be used; the message names it and says why."""


class FileSource:
    """Photos in files, local ones or behind URIs. Reading is safe from several threads.

    Attributes:
        kind, place: what `identity` tells of the source beside its names.
        names: unique paths below the source's folder, which results are named after.
        repeated: files that a list names once more; each is taken once.
    """

    def __init__(self, kind: str, place: str, root: str, names: Sequence[str], *,
                 repeated: int = 0):
        """Files `root`/`names`; with an empty root the names are whole paths or URIs."""
        self.kind, self.place, self.names, self.repeated = kind, place, names, repeated
        self._root = root

    def identity(self) -> dict:
        """What tells this source from another one, as JSON."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        return {"kind": self.kind, "place": printable(self.place), "photos": len(self.names),
                "names": digest.hexdigest()}

    def image(self, index: int) -> str:
        """Where a photo lies, for people."""
        return printable(self._path(index))

    def size(self, index: int) -> int:
        """Bytes of the file. Raises ImageError."""
        path = self._path(index)
        with failing(path):
            return epath.Path(path).stat().length if is_uri(path) else os.stat(path).st_size

    def read(self, index: int, limit: int) -> tuple[str, bytes]:
        """(`image`, encoded file). Raises ImageError: no plain file, or above `limit` bytes."""
        path = self._path(index)
        with failing(path):
            with open_file(path) as file:
                content = file.read(limit + 1)
        check_bytes(len(content), limit, name=printable(path))  # more than `size` told
        return printable(path), content

    def folders(self) -> tuple[set[str], set[str]]:
        """Folders whose files, and folders below which everything, may be taken for photos."""
        if self.kind == "folder" or "**" in self.place:
            return set(), {self._root}
        return {posixpath.dirname(self._path(i)) or "." for i in range(len(self.names))}, set()

    def _path(self, index: int) -> str:
        name = self.names[index]
        return f"{self._root.rstrip('/')}/{name}" if self._root else name


class RecordSource:
    """The images of a split of a prepared data set."""

    repeated = 0

    def __init__(self, data_dir: epath.PathLike, split: str):
        """Raises DataError as `prepared.open_split` does."""
        self.place, self._split = str(prepared.find_version(data_dir)), split
        self._records = prepared.open_split(data_dir, split)
        self.names = [f"{number:08d}" for number in range(len(self._records))]

    def identity(self) -> dict:
        """What tells this source from another one, as JSON."""
        info = (epath.Path(self.place) / "dataset_info.json").read_bytes()
        return {"kind": "split", "place": self.place, "split": self._split,
                "photos": len(self.names), "names": hashlib.sha256(info).hexdigest()}

    def image(self, index: int) -> str:
        """The record by its number; its id is known when it was read."""
        return f"{self._split} record {index}"

    def size(self, index: int) -> int:
        """Unknown before it is read: 0."""
        return 0

    def read(self, index: int, limit: int) -> tuple[str, bytes]:
        """(id of the record, encoded image). Raises ImageError or RecordError."""
        record = self._records[index]
        check_bytes(len(record.image), limit, name=record.id)
        return record.id, record.image

    def folders(self) -> tuple[set[str], set[str]]:
        """As of FileSource; no data set is read twice because of results beside it."""
        return set(), set()


Source = FileSource | RecordSource


def open_source(images: str) -> FileSource:
    """The source a command line names.

    Args:
        images: a folder (all levels, hidden files left out, links followed, each folder once), a
            file, `@LIST` (a path or URI per line, relative ones to the list; blank lines and lines
            that begin with # are skipped), or a pattern with * ? [ ] (and ** in local ones).
            What exists under the very name is never taken for a pattern. Local or a URI (gs://).

    Raises SourceError when there is nothing to read.
    """
    if images.startswith("@"):
        return _from_list(images[1:])
    path, images = find(images, "--images"), images.removeprefix("file://")
    with failing(images, SourceError):
        if path.is_dir():
            folder = images.rstrip("/") or "/"
            names = sorted(walk(folder))
            if not names:
                raise SourceError(f"{images}: the folder holds no files")
            return FileSource("folder", absolute(folder), folder, names)
        if path.exists() or os.path.lexists(images):
            root, name = posixpath.split(images)
            return FileSource("file", absolute(images), root or ".", [name])
    if not glob.has_magic(images):
        raise SourceError(f"{images}: no such file or folder")
    return _from_pattern(images)


def check_apart(source: Source, output: str) -> None:
    """Raises SourceError when results would land among the photos, or these among the results."""
    results = real(output)
    folders, trees = source.folders()
    for folder in {real(f) for f in folders} & {results}:
        raise SourceError(f"{output}: is {folder}, where the photos are; a second run would take "
                          f"the results for photos")
    for tree in map(real, trees):
        if results == tree or results.startswith(tree.rstrip("/") + "/"):
            raise SourceError(f"{output}: lies in {tree}, where the photos are; a second run would "
                              f"take the results for photos")
        if tree.startswith(results.rstrip("/") + "/"):
            raise SourceError(f"{tree}: the photos lie in {output}, where results shall go; "
                              f"choose another folder for these")


def _from_list(path: str) -> FileSource:
    with failing(path, SourceError), epath.Path(path).open("rb") as file:  # may be a pipe
        content = file.read(LARGEST_LIST + 1)
    if len(content) > LARGEST_LIST:
        raise SourceError(f"{path}: more than {LARGEST_LIST} bytes; divide the list")
    if (ends := content.count(b"\n")) > MOST_LINES:
        raise SourceError(f"{path}: {ends} lines, limit {MOST_LINES}; divide the list")
    # What begins with a mark of UTF-16, as lists of Windows' PowerShell do, is UTF-16.
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = content.decode("utf-16") if wide else content.decode("utf-8-sig", "surrogateescape")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: begins as UTF-16, and is none ({error})") from error
    lines = [line for line in text.replace("\r\n", "\n").split("\n")
             if line.strip() and not line.startswith("#")]
    if not lines:
        raise SourceError(f"{path}: the list names no files")
    root = posixpath.dirname(path)
    number = len(lines)
    lines = [line.removeprefix("file://") for line in lines]
    for uri in dict.fromkeys(line.partition("://")[0] + "://" for line in lines if is_uri(line)):
        find(uri, path)
    paths = list(dict.fromkeys(
        absolute(line if is_uri(line) or line.startswith("/") or not root else f"{root}/{line}")
        for line in lines))
    del lines  # of a million photos, names alone are much
    common = _common_folder(paths)
    names = [p[len(common):].lstrip("/") for p in paths] if common else paths
    return FileSource("list", absolute(path), common, names, repeated=number - len(paths))


def _common_folder(paths: Sequence[str]) -> str:
    """The folder all absolute local paths lie in; "" with URIs among them."""
    if any(map(is_uri, paths)):
        return ""
    # What the first and the last by the alphabet share, all between them share too.
    return os.path.commonpath([posixpath.dirname(pick(paths)) for pick in (min, max)])


def _fits(names: list[str], parts: list[str]) -> bool:
    """Whether names of folders and a file fit the parts of a pattern, ** as any number of them.

    As the shell has it, what begins with a dot fits a part that does, and no other.
    """
    reached = {0}  # places in `parts` that the names so far may have come to
    for name in names:
        hidden = name.startswith(".")
        opened = set(reached)
        for place in sorted(reached):  # ** may stand for nothing
            while place < len(parts) and parts[place] == "**":
                place += 1
                opened.add(place)
        reached = set()
        for place in opened:
            if place == len(parts):
                continue
            if parts[place] == "**":
                reached |= set() if hidden else {place}
            elif fnmatch.fnmatchcase(name, parts[place]) and (
                    not hidden or parts[place].startswith(".")):
                reached.add(place + 1)
    return any(all(part == "**" for part in parts[place:]) for place in reached)


def _from_pattern(pattern: str) -> FileSource:
    parts = pattern.split("/")
    fixed = next(k for k, part in enumerate(parts) if glob.has_magic(part))
    root, rest = "/".join(parts[:fixed]), "/".join(parts[fixed:])
    if is_uri(pattern):
        if "**" in rest:
            raise SourceError(f"{pattern}: ** is for local folders; name the folder itself")
        with failing(pattern, SourceError):
            names = sorted(str(p)[len(root) + 1:] for p in epath.Path(root).glob(rest))
    else:
        root = root or ("/" if pattern.startswith("/") else ".")
        if "**" in parts[fixed:]:  # by a walk, which enters each folder once, whatever links there
            names = sorted(name for name in walk(root, hidden=True)
                           if _fits(name.split("/"), parts[fixed:]))
        else:
            names = sorted(name for name in glob.glob(rest, root_dir=root)
                           if not os.path.isdir(f"{root}/{name}"))
    if not names:
        raise SourceError(f"{pattern}: no file matches")
    return FileSource("pattern", f"{absolute(root)}/{rest}", root, names)
