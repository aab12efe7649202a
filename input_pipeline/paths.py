"""Folders and files a user names: local paths and URIs."""

from etils import epath

from input_pipeline.errors import UserError


def find(text: str, flag: str) -> epath.Path:
    """A path or URI that `flag`, a flag or a file of settings, names.

    Raises UserError for an empty one, which would be the current folder, and for a kind of URI
    that nobody here reads.
    """
    if not text:
        raise UserError(f"{flag}: empty; name a folder or file")
    try:
        return epath.Path(text.removeprefix("file://"))
    except KeyError as error:  # a scheme etils does not know
        raise UserError(f"{flag}: {text}: {text.partition('://')[0]}:// is not supported; local "
                        f"paths, file://, gs:// and s3:// are") from error


def folder(text: str, flag: str) -> epath.Path:
    """A folder, which need not be there yet. Raises UserError also where a file is."""
    path = find(text, flag)
    if path.exists() and not path.is_dir():
        raise UserError(f"{flag}: {text} is a file, not a folder")
    return path
