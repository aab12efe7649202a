"""JSON files beside weights, read strictly: whoever wrote or damaged them, refused in one line."""

import json
import os
import pathlib

from input_pipeline.errors import OneLineError, first_line


class CheckpointError(OneLineError):
    """A folder of weights, ours or PyTorch's, that cannot be used, and what is wrong with it."""


def first_of(sentences: list[str]) -> str:
    """The first five of several problems as one sentence, and how many more there are."""
    more = f" (and {len(sentences) - 5} more)" if len(sentences) > 5 else ""
    return "; ".join(sentences[:5]) + more


def read_json(path: pathlib.Path) -> dict:
    """Parse a file that holds a JSON object. Raises CheckpointError naming the file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: not found") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    return parse_json(path, content)


def parse_json(path: str | os.PathLike, content: bytes) -> dict:
    """The JSON object that `content`, read from `path`, holds.

    Raises CheckpointError naming the file: it is no JSON, no object, or names something twice.
    """
    def unique(pairs):
        value = {}
        for name, item in pairs:
            if name in value:
                raise CheckpointError(f"{path}: {name} is there twice")
            value[name] = item
        return value

    try:
        value = json.loads(content, object_pairs_hook=unique)
        json.dumps(value, ensure_ascii=False).encode()  # half a character could not be recorded
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value
