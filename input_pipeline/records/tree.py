"""Files of a data set as downloaded: a folder, a zip or a tar, read without unpacking anything."""

import lzma
import os
import posixpath
import struct
import tarfile
import threading
import zipfile
import zlib

from etils import epath

from input_pipeline.files import check_plain
from input_pipeline.paths import is_uri, parse
from input_pipeline.photos.images import MAX_BYTES
from input_pipeline.photos.photo_files import failing, walk
from input_pipeline.records.record import DataError, RecordError

ARCHIVES = (".zip", ".tar")
LARGEST = 1 << 31  # bytes of an annotation file, which is read whole
LONGEST_NAME = 4096  # characters


class Tree:
    """Names and contents below one root. Picklable; reading is safe from several threads.

    Names are relative, with forward slashes. An archive's links, devices and names that lead
    outside are not in the tree; in a folder, links are followed as a download cache needs it.
    """

    def __init__(self, path: epath.PathLike):
        """Raises DataError when there is nothing to open."""
        self.path = str(parse(path))
        self._lock, self._archive, self._names = threading.Lock(), None, None
        root = parse(path)
        if not root.exists():
            raise DataError(f"{path}: no such file or folder")
        self.is_archive = not root.is_dir()
        if self.is_archive and not self.path.endswith(ARCHIVES):
            raise DataError(f"{path}: a folder, or a {' or '.join(ARCHIVES)} file, is expected; "
                            f"decompress others first")

    def names(self, under: str = "") -> list[str]:
        """Sorted names of the files, below a folder of the tree if one is given."""
        start = f"{under}/" if under else ""
        if self.is_archive:
            return sorted(name for name in self._index() if name.startswith(start))
        folder = epath.Path(self.path) / under if under else epath.Path(self.path)
        if not folder.is_dir():
            return []
        with failing(str(folder), DataError):
            # Test sets may share their real photos by links, and each needs them.
            return sorted(start + name
                          for name in walk(str(folder), hidden=True, repeat=True))

    def folders(self, under: str = "") -> list[str]:
        """Sorted names of the folders directly below the root, or below `under`."""
        start = f"{under}/" if under else ""
        if self.is_archive:
            inside = (n.removeprefix(start) for n in self._index() if n.startswith(start))
            return sorted({name.split("/")[0] for name in inside if "/" in name})
        root = epath.Path(self.path) / under if under else epath.Path(self.path)
        return sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        name = clean(name)
        if self.is_archive:
            return name in self._index()
        path = epath.Path(self.path) / name
        try:
            return path.exists() and not path.is_dir()
        except OSError:  # no file can have such a name
            return False

    def read(self, name: str, largest: int = MAX_BYTES) -> bytes:
        """Content of a file, by default of a photo or mask.

        Raises RecordError when it is missing, unreadable, outside, or has more than `largest` bytes
        or claims to.
        """
        name = clean(name)
        try:
            path = epath.Path(self.path) / name
            if not self.is_archive and not is_uri(path) and (
                    os.path.exists(path) and not os.path.isfile(path)):
                raise RecordError("file unreadable", f"{name}: not a plain file")
            if (size := self.size(name)) > largest:
                raise RecordError("file unreadable", f"{name}: {size} bytes, limit {largest}")
            if not self.is_archive:
                return path.read_bytes()
            entry = self._index()[name]
            with self._lock:  # an archive has one position
                if self.path.endswith(".zip"):
                    return self._archive.read(entry)
                return self._archive.extractfile(entry).read()
        except (KeyError, FileNotFoundError) as error:
            raise RecordError("file missing", name) from error
        except (OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, tarfile.TarError,
                RuntimeError, EOFError) as error:
            raise RecordError("file unreadable", f"{name}: {error}") from error

    def size(self, name: str) -> int:
        """Bytes of a file, without reading it. Raises RecordError when it is missing or outside."""
        name = clean(name)
        try:
            if not self.is_archive:
                return (epath.Path(self.path) / name).stat().length
            entry = self._index()[name]
            return entry.file_size if self.path.endswith(".zip") else entry.size
        except (KeyError, OSError) as error:
            raise RecordError("file missing", name) from error

    def _index(self) -> dict:
        with self._lock:
            if self._names is None:
                self._archive, self._names = _open(self.path)
            return self._names

    def __getstate__(self):
        return {"path": self.path, "is_archive": self.is_archive}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock(), _archive=None, _names=None)


def clean(name: str) -> str:
    """A normal relative name. Raises RecordError for one that leads outside."""
    if len(name) > LONGEST_NAME:  # no system has one, and there are places that look at each part
        raise RecordError("name outside the source", f"{name[:100]}...: {len(name)} characters")
    plain = posixpath.normpath(name.replace("\\", "/"))
    # Judged by its words alone: following links would refuse the links of a download cache.
    if plain.startswith(("/", "../")) or plain in (".", "..") or "\0" in plain:
        raise RecordError("name outside the source", name)
    return plain


class _Clamped:
    """A file open for reading, asked for no more than it has: headers of archives claim anything.

    A reader would take the memory for what it asks before it learns that there is less.
    """

    def __init__(self, path: epath.Path):
        self._file, self._size = path.open("rb"), path.stat().length
        self.seek, self.tell, self.close = self._file.seek, self._file.tell, self._file.close

    def read(self, size: int = -1) -> bytes:
        left = max(self._size - self.tell(), 0)
        return self._file.read(left if size is None or size < 0 else min(size, left))

    def seekable(self) -> bool:
        return True


def _check_end(file, offset: int) -> None:
    """`tarfile` takes a damaged header for the end; an end is zeros and nothing else."""
    file.seek(offset)
    block = file.read(tarfile.RECORDSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"cut short after {offset} bytes")
    while block:
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"damaged, or another archive begins, after {offset} bytes")
        block = file.read(tarfile.RECORDSIZE)


def _files_of(archive: tarfile.TarFile) -> list[tuple[str, tarfile.TarInfo]]:
    """(name, entry with the content) of all files, hard links to files before them included."""
    entries, known = [], {}
    for entry in archive:
        content = known.get(posixpath.normpath(entry.linkname)) if entry.islnk() else entry
        if content is not None and content.isfile():
            known[posixpath.normpath(entry.name)] = content
            entries.append((entry.name, content))
    return entries


def _open(path: str):
    """(archive, {clean name: entry}) of a zip or tar."""
    check_plain(path, DataError)
    try:
        file = _Clamped(epath.Path(path))
        if path.endswith(".zip"):
            archive = zipfile.ZipFile(file)
            # The upper half of the attributes is the file's mode on Unix: links are 0o12xxxx.
            entries = [(e.filename, e) for e in archive.infolist()
                       if not e.is_dir() and (e.external_attr >> 28) != 0o12]
        else:
            archive = tarfile.open(fileobj=file, mode="r:")
            entries = _files_of(archive)
            _check_end(file, archive.offset)
    except (OSError, zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError, RuntimeError,
            IndexError, struct.error, MemoryError) as error:
        raise DataError(f"{path}: not a readable archive ({error})") from error
    names = {}
    for name, entry in entries:
        try:
            names[clean(name)] = entry
        except RecordError:
            continue
    return archive, names
