"""JSON that somebody else wrote, read strictly: what it holds is one thing, or it is refused.

Refused are names that stand twice in an object, NaN and infinities (no JSON), half characters
(nothing could record them), nesting that no reader survives, and values of another type than is
asked for.
"""

import collections
import json
import re
from collections.abc import Callable
from typing import Any

from etils import epath

from input_pipeline import files
from input_pipeline.errors import OneLineError, UserError, first_line

LARGEST = 64 << 20  # bytes; indices of the largest models and tokenizers take 20 MB


def read(path: epath.PathLike, kind: type = dict, *, error: type[UserError] = OneLineError,
         largest: int = LARGEST, **taken: Any) -> Any:
    """The value of a file, of type `kind`.

    `largest`: bytes that such a file may have. `taken`: what else `parse` is to take. Raises
    `error` naming the file.
    """
    return parse(files.read_plain(path, largest=largest, error=error), path, kind, error=error,
                 **taken)


def parse(content: bytes | str, source: epath.PathLike, kind: type = dict, *,
          error: type[UserError] = OneLineError, lone_surrogates: bool = False,
          not_finite: Callable[[str], Any] | None = None) -> Any:
    """The value of type `kind` that `content`, which was read from `source`, holds.

    Bytes are UTF-8, UTF-16 or UTF-32. `lone_surrogates`: half characters are taken. `not_finite`
    makes a value of "NaN", "Infinity" or "-Infinity" where those are taken. Raises `error` naming
    the source.
    """
    def unique(pairs):
        value = dict(pairs)
        if len(value) < len(pairs):
            twice = collections.Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise _RefusedError(f"{twice} is there twice")
        return value

    def constant(name):
        raise _RefusedError(f"{name} is no number of JSON")

    try:
        text = content if isinstance(content, str) else content.decode(
            json.detect_encoding(content))
        value = json.loads(text, object_pairs_hook=unique, parse_constant=not_finite or constant)
        if not lone_surrogates and re.search(r"\\u[dD]", text):
            json.dumps(value, ensure_ascii=False).encode()
    except _RefusedError as refused:
        raise error(f"{source}: {refused}") from None
    except (ValueError, RecursionError) as invalid:
        raise error(f"{source}: not valid JSON ({first_line(invalid)})") from invalid
    if not isinstance(value, kind):
        raise error(f"{source}: expected a JSON {_NAMES.get(kind, kind.__name__)}, found "
                    f"{type(value).__name__}")
    return value


_NAMES = {dict: "object", list: "list"}


class _RefusedError(Exception):
    """What is said of the content; the source's name is still to come."""
