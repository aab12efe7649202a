"""Tables and lines on a terminal, in which data is text and never markup or a control."""

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from input_pipeline.printed import PlainStream, shown


class DataConsole(Console):
    """A console of rich whose texts are shown as they are; its options are rich's."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, **options)

    @property
    def file(self):
        """Where it writes: what rich itself adds is meant for the terminal."""
        file = self._file or (sys.stderr if self.stderr else sys.stdout)
        return file.stream if isinstance(file, PlainStream) else file

    @file.setter
    def file(self, file) -> None:
        self._file = file

    def render_str(self, text: str, **options: Any) -> Text:
        """A line, or a cell of a table."""
        return super().render_str(shown(text), **options)
