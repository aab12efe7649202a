"""What is printed of names and texts from outside: nothing that a terminal acts on."""

import re
from typing import Any, TextIO

# Controls (C0 but tab and line feed, delete, C1), marks that change the direction of writing, line
# ends that are none to a reader of lines, and half characters, which no stream can encode.
_ACTED_ON = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"
    "\ud800-\udfff]")


def shown(text: str) -> str:
    """The text with every such character written as Python would: \\x1b, \\u202e."""
    return _ACTED_ON.sub(lambda match: ascii(match[0])[1:-1], text)


class PlainStream:
    """A text stream that writes what `shown` makes of a text.

    The carriage return that a progress bar begins with stays.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        start = "\r" * (len(text) - len(text.lstrip("\r")))
        self.stream.write(start + shown(text[len(start):].replace("\r\n", "\n")))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
