"""One run of a sweep as processes of its own, and how far the whole sweep is."""

import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from tqdm import tqdm

from input_pipeline import files
from legion_jax.display import numbers
from legion_jax.train.sweep_plan import SweepError
from tools.sweep.runs import Run

TICK = 1.0  # s between two looks at a run's log


class Progress:
    """A bar over the updates of all runs, on a terminal, and a line for every run that ends."""

    def __init__(self, runs: Sequence[Run]):
        self._done = {run.name: run.total if run.finished() else run.saved_step() for run in runs}
        self._left = [run.name for run in runs if not run.finished()]
        self._first, self._total = sum(self._done.values()), sum(run.total for run in runs)
        self._start = self._since = time.monotonic()
        # All at one speed: what tqdm smooths would forget that evaluations take time as well.
        self._bar = tqdm(total=self._total, initial=self._first, unit="update", smoothing=0,
                         disable=None if self._left else True)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def at(self, run: Run, step: int, doing: str) -> None:
        """Show that `run` has done `step` updates."""
        self._done[run.name] = step
        self._bar.set_description(f"{run.name}: {doing}", refresh=False)
        self._show()

    def report(self, run: Run, failure: str | None) -> None:
        """Print a line on a run that has ended, with what is left of the sweep."""
        took, self._since = time.monotonic() - self._since, time.monotonic()
        self._left.remove(run.name)
        if failure:  # what it did not do, nobody will
            self._total -= run.total - self._done[run.name]
        else:
            self._done[run.name] = run.total
        self._show()
        end = f"failed: {failure}" if failure else f"finished in {numbers.duration(took)}"
        left = f"; {len(self._left)} to go{self._time_left()}" if self._left else ""
        tqdm.write(f"{run.name}: {end}{left}", file=sys.stderr)

    def _show(self) -> None:
        self._bar.n, self._bar.total = sum(self._done.values()), self._total
        self._bar.refresh()

    def _time_left(self) -> str:
        done = sum(self._done.values())
        if done <= self._first:
            return ""  # nothing yet to judge by
        speed = (done - self._first) / (time.monotonic() - self._start)
        return f", about {numbers.duration((self._total - done) / speed)}"


@contextlib.contextmanager
def held(run: Run) -> Iterator[BinaryIO]:
    """The log of a run, which no one else can hold. Raises SweepError when someone does.

    The lock belongs to the open file. Children that inherit it keep it, so a training whose sweep
    was killed still keeps others from its folder.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / "log.txt").open("ab") as log:
        files.lock(log, SweepError(f"{run.folder}: another process is at this run"))
        yield log


def finish(run: Run, progress: Progress) -> str | None:
    """Train and evaluate a run as far as that is still to be done; what went wrong, or None."""
    reason = None
    try:
        with held(run) as log:
            if not run.trained():
                reason = _call(run, run.train_command(sys.executable), log, progress, "training")
            if not reason and not run.trained():
                reason = f"training ended at update {run.saved_step()} of {run.total}"
            if not reason and not run.finished():
                reason = _call(run, run.evaluate_command(sys.executable), log, progress,
                               "evaluating")
            if not reason and not run.finished():
                reason = f"the evaluation wrote no {run.scores}"
    except SweepError as error:
        return str(error)
    return reason


def _call(run: Run, words: list[str], log: BinaryIO, progress: Progress, doing: str) -> str | None:
    """One process with its output in the log; why it failed, or None."""
    start = log.tell()
    process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        while True:
            try:
                code = process.wait(TICK)
                break
            except subprocess.TimeoutExpired:
                progress.at(run, min(run.total, logged_step(run.folder)), doing)
    except BaseException:  # interrupted: no process may outlive the sweep
        process.terminate()
        process.wait()
        raise
    if not code:
        return None
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return last_line(run.folder / "log.txt", start) or f"exit code {code}"


def logged_step(folder: pathlib.Path) -> int:
    """Updates in a run's metrics.jsonl, which may just be growing; 0 without one."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return 0
    for line in reversed(path.read_bytes().splitlines()):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return json.loads(line)["step"] + 1
    return 0


def last_line(path: pathlib.Path, start: int = 0) -> str:
    """The last line of a log from byte `start` on that is not empty, "" without one."""
    lines = path.read_bytes()[start:].decode(errors="replace").split("\n")
    lines = [line.rpartition("\r")[2].strip() for line in lines]
    return next((line for line in reversed(lines) if line), "")
