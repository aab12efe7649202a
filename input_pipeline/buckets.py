"""Objects in buckets, for `input_pipeline.files`: no appending, no renaming, no locks, no folders.

An object is there whole or not at all. A folder is no more than what the names of objects have in
common, so one of several files is never complete at a stroke: `upload` notes first which objects
will come, brings the one that readers look for last, and takes the note away when all are there.
"""

import contextlib
import json
import pathlib
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import fsspec
from etils import epath
from tqdm import tqdm

from input_pipeline.errors import UserError, first_line

UNFINISHED = ".uploading"  # note of an upload: the names that will come, as JSON
AT_ONCE = 8


class BucketError(UserError):
    """An object that cannot be written; the message names it."""


def client(uri: epath.PathLike) -> tuple[fsspec.AbstractFileSystem, str]:
    """The client of a URI's bucket, and the name it knows the object by."""
    return fsspec.core.url_to_fs(str(uri))


def write_bytes(uri: epath.PathLike, content: bytes) -> None:
    """One object. Raises BucketError."""
    store, name = client(uri)
    with _writing(uri):
        store.pipe_file(name, content)


def create(uri: epath.PathLike, content: bytes) -> bool:
    """One object, unless there is one of that name; returns whether it was made.

    Of several processes that try at once one succeeds. Raises BucketError.
    """
    store, name = client(uri)
    with _writing(uri):
        try:
            store.pipe_file(name, content, mode="create")
        except FileExistsError:
            return False
        return True


def age(uri: epath.PathLike) -> float:
    """Seconds since an object was written, by the clock of its bucket; 0 if it is not there.

    For that another one is written beside it and removed. Raises BucketError.
    """
    store, name = client(uri)
    asking = f"{name}.asked-{secrets.token_hex(8)}"
    with _writing(uri):
        store.pipe_file(asking, b"")
        try:
            return max(0.0, (store.modified(asking) - store.modified(name)).total_seconds())
        except FileNotFoundError:
            return 0.0
        finally:
            store.rm_file(asking)


def put(file: pathlib.Path, uri: epath.PathLike) -> None:
    """One object with the content of a local file, or nothing of it. Raises BucketError."""
    store, name = client(uri)
    with _writing(uri):
        store.put_file(str(file), name)


@contextlib.contextmanager
def _writing(uri: epath.PathLike) -> Iterator[None]:
    """One sentence that names the object, whatever its client raises."""
    try:
        yield
    except FileNotFoundError as error:  # of the bucket: there are no folders to miss
        raise BucketError(f"{uri}: cannot be written: there is no such bucket") from error
    except Exception as error:
        reason = first_line(error)
        raise BucketError(f"{uri}: cannot be written: {reason}") from error


def read_all(uris: Sequence[epath.PathLike]) -> list[bytes]:
    """The contents of many small objects, fetched side by side."""
    if not uris:
        return []
    store, _ = client(uris[0])
    names = [client(uri)[1] for uri in uris]
    contents = store.cat(names) if len(names) > 1 else {names[0]: store.cat_file(names[0])}
    return [contents[name] for name in names]


def upload(folder: pathlib.Path, target: epath.Path, *, last: str | None = None) -> None:
    """Every file below a local folder; `last` is the one whose presence says that all are there."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in files}
    write_bytes(target / UNFINISHED, json.dumps(sorted(names)).encode())
    try:
        with tqdm(total=sum(path.stat().st_size for path in files), desc=f"uploading to {target}",
                  unit="B", unit_scale=True) as bar, ThreadPoolExecutor(AT_ONCE) as pool:
            def send(name: str) -> None:
                put(names[name], target / name)
                bar.update(names[name].stat().st_size)

            list(pool.map(send, [name for name in names if name != last]))
            if last:
                send(last)
    except BaseException:
        with contextlib.suppress(Exception):  # the first error counts
            clear_unfinished(target)
        raise
    (target / UNFINISHED).unlink()


def clear_unfinished(target: epath.Path) -> None:
    """Remove what an upload that did not end has left in a folder, and nothing else.

    Raises BucketError for a note that no upload wrote.
    """
    note = target / UNFINISHED
    if not note.exists():
        return
    store, _ = client(target)
    names = _noted(note)
    present = [path for path in (client(target / name)[1] for name in names) if store.exists(path)]
    if present:
        store.rm(present)
    note.unlink()


def _noted(note: epath.Path) -> list[str]:
    """The names in the note of an upload, all of them below its folder."""
    try:
        names = json.loads(note.read_bytes())
    except ValueError:
        names = None
    if not (isinstance(names, list) and all(
            isinstance(name, str) and name and ".." not in name.split("/") and name[0] != "/"
            for name in names)):
        raise BucketError(f"{note}: not the list of names that an upload leaves when it is killed; "
                          f"nothing was removed. Look what lies beside it, and remove it yourself")
    return names


@contextlib.contextmanager
def fetched(uri: epath.PathLike) -> Iterator[pathlib.Path]:
    """A local copy of an object, or of all below a URI, for as long as the block lasts.

    Raises FileNotFoundError where nothing is there, UserError for a name that leads outside.
    """
    store, name = client(uri)
    sizes = store.find(name, detail=True)
    if not sizes:
        raise FileNotFoundError(f"{uri}: not there")
    if outside := [each for each in sizes if ".." in each.split("/")]:
        raise UserError(f"{uri}: {outside[0]}: a name with .. in it is no file below a folder")
    with tempfile.TemporaryDirectory(prefix="legion-") as scratch:
        root = pathlib.Path(scratch) / pathlib.PurePosixPath(name).name
        places = {each: root / each[len(name):].lstrip("/") if each != name else root
                  for each in sizes if not each.endswith("/")}
        with tqdm(total=sum(info["size"] for info in sizes.values()), desc=f"fetching {uri}",
                  unit="B", unit_scale=True) as bar, ThreadPoolExecutor(AT_ONCE) as pool:
            def get(each: str) -> None:
                places[each].parent.mkdir(parents=True, exist_ok=True)
                store.get_file(each, str(places[each]))
                bar.update(sizes[each]["size"])

            list(pool.map(get, places))
        yield root


def remove_tree(uri: epath.PathLike) -> None:
    """All objects below a URI, if there are any."""
    store, name = client(uri)
    if names := store.find(name):
        store.rm(names)
