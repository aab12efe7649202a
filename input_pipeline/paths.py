"""Folders and files a user names: local paths, and URIs of objects in a bucket.

With `input_pipeline.files`, which reads and writes, this is the one door to them: other modules
neither parse such names nor resolve them, because a URI that went through `pathlib` names a folder
of the machine's own disk.
"""

import os
import pathlib
import stat

import fsspec
from etils import epath

from input_pipeline.errors import UserError

# The clients of buckets keep every listing for as long as they live, so that what another process
# writes is never seen. They read this when they are made, which is at the first URI.
for _scheme in ("gs", "gcs", "s3"):
    fsspec.config.conf.setdefault(_scheme, {})["use_listings_cache"] = False


def is_uri(path: epath.PathLike) -> bool:
    """Whether a path names objects of a bucket and no file of this machine."""
    return "://" in str(path) and not str(path).startswith("file://")


def parse(path: epath.PathLike) -> epath.Path:
    """A path or URI as a user wrote it. Raises UserError for a kind of URI nobody here reads."""
    text = str(path)
    if text.startswith("file://") and "://" in text.removeprefix("file://"):
        raise UserError(f"{text}: a URI in a URI")
    try:
        return epath.Path(text.removeprefix("file://"))
    except KeyError as error:  # a scheme etils does not know
        raise UserError(f"{text}: {text.partition('://')[0]}:// is not supported; local paths, "
                        f"file://, gs:// and s3:// are") from error


def find(text: str, flag: str) -> epath.Path:
    """A path or URI that `flag`, a flag or a file of settings, names.

    Raises UserError as `parse`, and for an empty one, which would be the current folder.
    """
    if not text:
        raise UserError(f"{flag}: empty; name a folder or file")
    try:
        return parse(text)
    except UserError as error:
        raise UserError(f"{flag}: {error}") from error


def folder(text: str, flag: str) -> epath.Path:
    """A folder, which need not be there yet. Raises UserError also where a file is."""
    path = find(text, flag)
    if path.exists() and not path.is_dir():
        raise UserError(f"{flag}: {text} is a file, not a folder")
    return path


def file(text: str, flag: str) -> epath.Path:
    """A file that can be written. Raises UserError where a folder is, or where none is to hold it.
    """
    path = find(text, flag)
    if path.is_dir():
        raise UserError(f"{flag}: {text} is a folder, and one file is to be written")
    if not is_uri(path) and not path.parent.is_dir():
        raise UserError(f"{flag}: {text}: there is no folder {path.parent}")
    return path


def absolute(path: epath.PathLike) -> epath.Path:
    """A local path from the root on with its links followed; a URI as it is."""
    return parse(path) if is_uri(path) else parse(path).resolve()


def is_link(path: epath.PathLike) -> bool:
    """Whether a local path is a link; a bucket has none."""
    return not is_uri(path) and os.path.islink(parse(path))


def is_special(path: epath.PathLike) -> bool:
    """Whether a local path leads to a device, a pipe or a socket, reading which may never end."""
    if is_uri(path):
        return False
    try:
        mode = os.stat(parse(path)).st_mode
    except (OSError, ValueError):  # not there, or no name of a file
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def local_only(path: epath.PathLike, flag: str, reason: str) -> pathlib.Path:
    """A path that has to be on this machine, for what no bucket can do.

    Raises UserError for a URI, with `reason`: half a sentence such as "a sweep holds locks there".
    """
    if is_uri(path):
        raise UserError(f"{flag}: {path}: {reason}, which needs a local folder; copy it from or to "
                        f"the bucket by gcloud storage cp")
    return pathlib.Path(parse(path))
