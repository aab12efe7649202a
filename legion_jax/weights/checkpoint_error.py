"""What is said of a folder of weights that cannot be used, and the JSON files beside weights."""

from etils import epath

from input_pipeline import strict_json
from input_pipeline.errors import OneLineError


class CheckpointError(OneLineError):
    """A folder of weights, ours or PyTorch's, that cannot be used, and what is wrong with it."""


def first_of(sentences: list[str]) -> str:
    """The first five of several problems as one sentence, and how many more there are."""
    more = f" (and {len(sentences) - 5} more)" if len(sentences) > 5 else ""
    return "; ".join(sentences[:5]) + more


def read_json(path: epath.PathLike) -> dict:
    """Parse a file that holds a JSON object. Raises CheckpointError naming the file."""
    return strict_json.read(path, error=CheckpointError)


def parse_json(path: epath.PathLike, content: bytes) -> dict:
    """The JSON object that `content`, read from `path`, holds.

    Raises CheckpointError naming the file: it is no JSON, no object, or names something twice.
    """
    return strict_json.parse(content, path, error=CheckpointError)
