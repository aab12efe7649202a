"""Folders and files a user names: local paths and URIs."""

from etils import epath

from input_pipeline.errors import UserError


def find(text: str, what: str) -> epath.Path:
    """A path or URI, `what` it is being the flag or file that names it.

    Raises UserError for an empty one, which would be the current folder, and for a kind of URI
    that nobody here reads.
    """
    if not text:
        raise UserError(f"{what}: empty; name a folder or file")
    try:
        return epath.Path(text.removeprefix("file://"))
    except KeyError as error:  # a scheme etils does not know
        raise UserError(f"{what}: {text}: {text.partition('://')[0]}:// is not supported; local "
                        f"paths, file://, gs:// and s3:// are") from error


def folder(text: str, what: str) -> epath.Path:
    """A folder, which need not be there yet. Raises UserError also where a file is."""
    path = find(text, what)
    if path.exists() and not path.is_dir():
        raise UserError(f"{what}: {text} is a file, not a folder")
    return path
