"""Rows of an evaluation on disk while it goes on, by several hosts and after a stop.

Records are cut into chunks of consecutive ones. A chunk is one file that appears whole, when all
its rows are there; which host makes it depends on its number alone. So every record is evaluated
exactly once on any number of hosts, and an interrupted evaluation goes on with what is missing.
The hosts share the folder; they wait for each other's files, not in JAX.
"""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from input_pipeline import files, strict_json
from input_pipeline.errors import UserError
from legion_jax.weights.checkpoint_error import read_json

SIZE = 32  # records
ROWS, SETTINGS = "rows.jsonl", "settings.json"
POLL_SECONDS = 1.0


class Chunks:
    """The chunks of one evaluation under `output`/chunks."""

    def __init__(self, output: epath.PathLike, total: int, *, host: int = 0, hosts: int = 1):
        """Of `total` records; this is `host` of `hosts`."""
        self.output, self.total = epath.Path(output), total
        self.host, self.hosts = host, hosts
        self._folder = self.output / "chunks"
        self._waiting: dict[int, dict[int, dict]] = {}

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Note what the rows are made with.

        Raises UserError when the folder holds rows that were made with something else, or not all
        rows in the file of all of them.
        """
        path = self.output / SETTINGS
        files.make_folder(self.output)
        if path.exists():
            _check_same(path, read_json(path), settings)
        elif (self.output / ROWS).exists():
            raise UserError(f"{self.output / ROWS}: there is no {SETTINGS} to tell what it was "
                            f"made with; choose another output or remove it")
        elif self.host == 0:
            files.write_json(path, dict(settings))
        if not self.whole():
            files.make_folder(self._folder)
        elif (number := sum(1 for _ in self.rows())) != self.total:
            raise UserError(f"{self.output / ROWS}: {number} rows of {self.total} records; choose "
                            f"another output or remove it")

    def missing(self) -> list[int]:
        """Numbers of the records this host has to evaluate, ascending."""
        if self.whole():
            return []
        return [number for chunk in range(self.host, self._count(), self.hosts)
                if not self._file(chunk).exists() for number in self._numbers(chunk)]

    def add(self, number: int, row: dict) -> None:
        """Take the row of a record; its chunk is written once it is complete."""
        chunk = number // SIZE
        rows = self._waiting.setdefault(chunk, {})
        rows[number] = row
        if len(rows) == len(self._numbers(chunk)):
            del self._waiting[chunk]
            files.write_text(self._file(chunk), "".join(
                line(rows[number]) for number in self._numbers(chunk)))

    def whole(self) -> bool:
        """Whether all rows are in one file already."""
        return (self.output / ROWS).exists()

    def wait(self) -> None:
        """Until every chunk of every host is there."""
        chunk = 0
        while chunk < self._count() and not self.whole():
            if self._file(chunk).exists():
                chunk += 1
            else:
                time.sleep(POLL_SECONDS)

    def rows(self) -> Iterator[dict]:
        """All rows in the order of the records; all chunks must be there."""
        for file in [self.output / ROWS] if self.whole() else map(self._file, range(self._count())):
            yield from read(file)

    def remove(self) -> None:
        """Remove the chunks; the rows must be in one file."""
        files.remove_tree(self._folder)

    def _count(self) -> int:
        return -(-self.total // SIZE)

    def _numbers(self, chunk: int) -> range:
        return range(chunk * SIZE, min((chunk + 1) * SIZE, self.total))

    def _file(self, chunk: int) -> epath.Path:
        return self._folder / f"{chunk:06d}.jsonl"


def read(path: epath.PathLike) -> Iterator[dict]:
    """The rows of one file. Raises UserError naming a line that is none."""
    files.check_plain(path, UserError)
    # Texts may hold characters at which `splitlines` would cut as well.
    with epath.Path(path).open() as lines:
        for number, text in enumerate(lines, 1):
            yield strict_json.parse(text, f"{path}: line {number}", error=UserError,
                                    not_finite=float)


def line(row: dict) -> str:
    """A row as a line of JSON."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def _check_same(path: epath.Path, earlier: dict, settings: Mapping[str, Any]) -> None:
    now = json.loads(json.dumps(settings))
    if changed := [f"{name} {earlier.get(name)!r} (now {now.get(name)!r})"
                   for name in sorted({*earlier, *now}) if earlier.get(name) != now.get(name)]:
        raise UserError(f"{path}: rows here were made with {', '.join(changed)}; choose another "
                        f"output or remove it")
