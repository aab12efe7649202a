"""The record of a batch job: lines of JSON in parts while it runs, and merged when it is done.

    OUTPUT/job.json                what was asked, of which photos and which checkpoint
    OUTPUT/parts/part-*.jsonl      results and failures so far, in the order they came
    OUTPUT/results.jsonl           at the end, in the order of the source
    OUTPUT/failures.jsonl          photos that were left out, if any

With several shares of the work the merged files are `results-I-of-N.jsonl`.

Object stores cannot append, so every part is a file of its own that gets its name when it is
complete. What is not in a part yet is lost when the process is killed, and done again.
"""

import collections
import contextlib
import dataclasses
import json
import re
import threading
import time
import uuid
from collections.abc import Sequence

import numpy as np
from etils import epath

from input_pipeline import files
from input_pipeline.errors import UserError
from input_pipeline.paths import is_uri
from legion_jax.predict.result_names import OWN_FOLDER

FAILED, DONE = 1, 2  # state of a photo; 0: not yet
OPEN_FILES = 32
PART_LINES, PART_BYTES = 1000, 8 << 20
MOST_BYTES = 64 << 20  # of lines that wait for a slow disk; then whoever adds more waits too
UNFINISHED = "unfinished"
# A line of a job, as far as it matters here: no need to parse long masks.
_LINE = re.compile(rb'\{"image": "(?:[^"\\]|\\.)*", "name": ("(?:[^"\\]|\\.)*"), "(\w+)": ')
_MERGED = re.compile(r"(?:results|failures)(?:-(\d+)-of-(\d+))?\.jsonl")
_PART = re.compile(r"part-(\d+)-of-(\d+)-\w+-\d+\.jsonl")


@dataclasses.dataclass(frozen=True)
class Share:
    """The photos of one of `count` hosts: every count-th, from the index-th on."""

    index: int = 0
    count: int = 1

    def of(self, number: int) -> range:
        """Which of `number` photos are its."""
        return range(self.index, number, self.count)

    @property
    def suffix(self) -> str:
        """What tells its files from those of other shares."""
        return "" if self.count == 1 else f"-{self.index}-of-{self.count}"


class Parts:
    """Collects lines and writes a part every so often, in a thread of its own. Use as a context.

    Leaving the context writes what is left, also after an error.
    """

    def __init__(self, output: epath.Path, share: Share, *, flush_seconds: float):
        """Parts of `share` below output/parts, each at most about `flush_seconds` apart."""
        self.folder, self._seconds = output / OWN_FOLDER, flush_seconds
        self._prefix = f"{share.index}-of-{share.count}"
        self._run = uuid.uuid4().hex[:8]  # no two runs write the same part
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._bytes = self._written = 0
        self._closing, self._error = False, None
        self._thread = threading.Thread(target=self._work, daemon=True, name="parts")

    @property
    def temporary(self) -> epath.Path:
        """How the names of this run's unfinished files begin."""
        return self.folder / f"{UNFINISHED}-{self._prefix}-{self._run}"

    def __enter__(self) -> "Parts":
        files.make_folder(self.folder)
        for path in files.listed(self.folder):
            if path.name.startswith(f"{UNFINISHED}-{self._prefix}-"):  # of a run that was killed
                path.unlink(missing_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._error:
            raise self._error

    def add(self, line: dict) -> None:
        """Take one line. Raises the error of a part that could not be written."""
        encoded = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        with self._changed:
            while self._bytes > MOST_BYTES and not self._error:
                self._changed.wait()
            if self._error:
                raise self._error
            self._lines.append(encoded)
            self._bytes += len(encoded)
            if self._full():
                self._changed.notify_all()

    def _full(self) -> bool:
        return len(self._lines) >= PART_LINES or self._bytes >= PART_BYTES

    def _work(self) -> None:
        due = time.monotonic() + self._seconds
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing or self._full(),
                                           timeout=max(0, due - time.monotonic()))
                    lines, self._lines, self._bytes = self._lines, [], 0
                    last = self._closing
                    self._changed.notify_all()
                if lines:
                    self._write(lines)
                if last:
                    return
                due = time.monotonic() + self._seconds
        except Exception as error:  # `add` and `__exit__` raise it where it is seen
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _write(self, lines: list[bytes]) -> None:
        self._written += 1
        name = f"part-{self._prefix}-{self._run}-{self._written:06d}.jsonl"
        temporary = self.temporary
        files.write_bytes(self.folder / name, b"".join(lines),
                          temporary=temporary.parent / f"{temporary.name}-part")


class Recorded:
    """What earlier runs left: for every photo its line, and where that is.

    Attributes:
        state: uint8[photos], 0, FAILED or DONE.
    """

    def __init__(self, output: epath.Path, names: Sequence[str]):
        """Read all merged files and parts below `output`; unfinished lines are no lines."""
        self.state = np.zeros(len(names), np.uint8)
        self._file = np.zeros(len(names), np.int32)
        self._offset = np.zeros(len(names), np.int64)
        self._number = {name: index for index, name in enumerate(names)}
        self._open: collections.OrderedDict = collections.OrderedDict()
        self.files = [*merged_files(output), *part_files(output)]
        for number, path in enumerate(self.files):
            for index, state, offset in self.lines(path):
                if state >= self.state[index]:  # a result stays, whatever failed elsewhere
                    self.state[index] = state
                    self._file[index], self._offset[index] = number, offset

    def lines(self, path: epath.Path):
        """(index, state, offset) of every line of a file that is about a photo of this job."""
        offset = 0
        with path.open("rb") as file:
            for line in file:
                match = _LINE.match(line)
                if match and line.endswith(b"}\n"):
                    index = self._number.get(json.loads(match[1]))
                    if index is not None:
                        yield index, FAILED if match[2] == b"error" else DONE, offset
                offset += len(line)

    def line(self, index: int) -> bytes:
        """The line of a photo that has one."""
        number = int(self._file[index])
        file = self._open.pop(number, None) or self.files[number].open("rb")
        self._open[number] = file
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        file.seek(int(self._offset[index]))
        return file.readline()

    def close(self) -> None:
        """Close what `line` opened."""
        while self._open:
            self._open.popitem()[1].close()


def merged_files(output: epath.Path) -> list[epath.Path]:
    """Results and failures of all shares that were ever completed."""
    return [path for path in files.listed(output) if _MERGED.fullmatch(path.name)]


def part_files(output: epath.Path) -> list[epath.Path]:
    """Parts of all runs."""
    return [path for path in files.listed(output / OWN_FOLDER) if _PART.fullmatch(path.name)]


def merge(output: epath.Path, names: Sequence[str], share: Share) -> tuple[int, int]:
    """Write the merged files of a share whose photos all have a line, and remove its parts.

    What other divisions of the work wrote is removed when all shares of this one are merged and
    have it.

    Returns:
        Number of results and of failures.
    """
    recorded = Recorded(output, names)
    mine = np.array(share.of(len(names)), int)
    if unrecorded := int(np.count_nonzero(recorded.state[mine] == 0)):
        raise UserError(f"{output}: {unrecorded} of {len(mine)} photos have no line; run it again")
    chosen = {kind: mine[recorded.state[mine] == state]
              for kind, state in (("failures", FAILED), ("results", DONE))}
    complete = (output / f"results{share.suffix}.jsonl").exists()
    if not complete or {path.name for path in recorded.files} - _merged_names(share.count):
        files.make_folder(output / OWN_FOLDER)
        for kind, indices in chosen.items():  # results last: they mark a complete share
            _write_merged(output, kind, share, recorded, indices)
        recorded.close()
        _remove_merged(output, recorded, share)
    return len(chosen["results"]), len(chosen["failures"])


def _write_merged(output: epath.Path, kind: str, share: Share, recorded: Recorded,
                  indices: np.ndarray) -> None:
    path = output / f"{kind}{share.suffix}.jsonl"
    if not len(indices) and kind == "failures":
        path.unlink(missing_ok=True)
        return
    with files.whole_file(path) as file:
        for index in indices:
            file.write(recorded.line(index))


def _merged_names(count: int) -> set[str]:
    return {f"{kind}{Share(k, count).suffix}.jsonl"
            for k in range(count) for kind in ("results", "failures")}


def _remove_merged(output: epath.Path, recorded: Recorded, share: Share) -> None:
    current_names = _merged_names(share.count)
    complete = all((output / f"results{Share(k, share.count).suffix}.jsonl").exists()
                   for k in range(share.count))
    reached = np.zeros_like(recorded.state)
    for path in merged_files(output):
        if path.name in current_names:
            for index, state, _ in recorded.lines(path):
                reached[index] = max(reached[index], state)

    def done_with(path: epath.Path) -> bool:
        part = _PART.fullmatch(path.name)
        if part and int(part[2]) == share.count:  # of another host, which may be at work
            return int(part[1]) == share.index
        return complete and path.name not in current_names and all(
            reached[index] >= state for index, state, _ in recorded.lines(path))

    for path in filter(done_with, recorded.files):
        path.unlink(missing_ok=True)
    folder = output / OWN_FOLDER
    if complete and folder.exists() and not part_files(output):
        for path in files.listed(folder):  # unfinished files of hosts there are no more
            if f"-of-{share.count}-" not in path.name:
                path.unlink(missing_ok=True)
        if not is_uri(folder):  # in a bucket it went with its last file
            with contextlib.suppress(OSError):  # another host was faster, or is at work
                folder.rmdir()
