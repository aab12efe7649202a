"""The record of a batch job: lines of JSON in parts while it runs, and merged when it is done.

    OUTPUT/job.json                what was asked, of which photos and which checkpoint
    OUTPUT/parts/part-*.jsonl      results and failures so far, in the order they came
    OUTPUT/results.jsonl           at the end, in the order of the source
    OUTPUT/failures.jsonl          photos that were left out, if any

With several shares of the work the merged files are `results-I-of-N.jsonl`.
"""

import collections
import contextlib
import json
import re
from collections.abc import Sequence

import numpy as np
from etils import epath

from input_pipeline import files
from input_pipeline.errors import UserError
from legion_jax.predict.job_parts import FOLDER, Share

FAILED, DONE = 1, 2  # state of a photo; 0: not yet
OPEN_FILES = 32
# A line of a job, as far as it matters here: no need to parse long masks.
_LINE = re.compile(rb'\{"image": "(?:[^"\\]|\\.)*", "name": ("(?:[^"\\]|\\.)*"), "(\w+)": ')
_MERGED = re.compile(r"(?:results|failures)(?:-(\d+)-of-(\d+))?\.jsonl")
_PART = re.compile(r"part-(\d+)-of-(\d+)-\w+-\d+\.jsonl")


class Found:
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
    return sorted(p for p in output.iterdir() if _MERGED.fullmatch(p.name))


def part_files(output: epath.Path) -> list[epath.Path]:
    """Parts of all runs."""
    folder = output / FOLDER
    return sorted(p for p in folder.iterdir() if _PART.fullmatch(p.name)) if folder.exists() else []


def merge(output: epath.Path, names: Sequence[str], share: Share) -> tuple[int, int]:
    """Write the merged files of a share whose photos all have a line, and remove its parts.

    What other divisions of the work wrote is removed when all shares of this one are merged and
    have it.

    Returns:
        Number of results and of failures.
    """
    found = Found(output, names)
    mine = np.array(share.of(len(names)), int)
    if missing := int(np.count_nonzero(found.state[mine] == 0)):
        raise UserError(f"{output}: {missing} of {len(mine)} photos have no line; run it again")
    chosen = {kind: mine[found.state[mine] == state]
              for kind, state in (("failures", FAILED), ("results", DONE))}
    finished = (output / f"results{share.suffix}.jsonl").exists()
    if not finished or {path.name for path in found.files} - _merged_names(share.count):
        (output / FOLDER).mkdir(parents=True, exist_ok=True)
        for kind, indices in chosen.items():  # results last: they mark a complete share
            _write_merged(output, kind, share, found, indices)
        found.close()
        _remove_merged(output, found, share)
    return len(chosen["results"]), len(chosen["failures"])


def _write_merged(output: epath.Path, kind: str, share: Share, found: Found,
                  indices: np.ndarray) -> None:
    path = output / f"{kind}{share.suffix}.jsonl"
    if not len(indices) and kind == "failures":
        path.unlink(missing_ok=True)
        return
    with files.whole_file(path) as file:
        for index in indices:
            file.write(found.line(index))


def _merged_names(count: int) -> set[str]:
    return {f"{kind}{Share(k, count).suffix}.jsonl"
            for k in range(count) for kind in ("results", "failures")}


def _remove_merged(output: epath.Path, found: Found, share: Share) -> None:
    kept = _merged_names(share.count)
    complete = all((output / f"results{Share(k, share.count).suffix}.jsonl").exists()
                   for k in range(share.count))
    reached = np.zeros_like(found.state)
    for path in merged_files(output):
        if path.name in kept:
            for index, state, _ in found.lines(path):
                reached[index] = max(reached[index], state)

    def done_with(path: epath.Path) -> bool:
        part = _PART.fullmatch(path.name)
        if part and int(part[2]) == share.count:  # of another host, which may be at work
            return int(part[1]) == share.index
        return complete and path.name not in kept and all(
            reached[index] >= state for index, state, _ in found.lines(path))

    for path in filter(done_with, found.files):
        path.unlink(missing_ok=True)
    folder = output / FOLDER
    if complete and folder.exists() and not part_files(output):
        for path in list(folder.iterdir()):  # unfinished files of hosts there are no more
            if f"-of-{share.count}-" not in path.name:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another host was faster, or is at work
            folder.rmdir()
