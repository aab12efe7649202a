"""A trace of a few updates for XProf: what host and devices do, and when."""

import logging
from collections.abc import Callable

import jax
from etils import epath

from legion_jax.train.speed import Speed

LOG = logging.getLogger("legion_jax")
SETTLED = 5  # updates in a row without compiling, before the trace begins
TRACED = 5


class Profile:
    """Names every update for profilers; traces some of them once a run has settled.

    The trace lies where TensorBoard and XProf look for it, in `plugins/profile/` of the folder.
    With several processes the first one alone traces: one host and its devices.
    """

    def __init__(self, folder: epath.PathLike | None):
        """`folder` for the trace; None: updates are only named."""
        self._folder = folder if jax.process_index() == 0 else None
        self._first: int | None = None  # step of the first traced update, while a trace is on

    def watch(self, step: Callable, speed: Speed, start: int) -> Callable:
        """The `step(state, frozen, batch)` of `speed`, its calls numbered from `start`."""
        number = start

        def watched(state, frozen, batch):
            nonlocal number
            if self._folder and self._first is None and speed.settled >= SETTLED:
                with speed.apart(state):  # it waits, so the trace holds whole updates only
                    jax.profiler.start_trace(str(self._folder))
                self._first = number
            with jax.profiler.StepTraceAnnotation("update", step_num=number):
                result = step(state, frozen, batch)
            number += 1
            if self._first is not None and number == self._first + TRACED:
                with speed.apart(result):
                    self._write()
            return result
        return watched

    def close(self) -> None:
        """End a trace that is on; say so where there never was one."""
        if self._first is not None:
            self._write()
        elif self._folder:
            LOG.warning("--profile: nothing traced, as that begins after %d updates in a row "
                        "without compiling", SETTLED)

    def _write(self) -> None:
        jax.profiler.stop_trace()
        LOG.info("traced updates from step %d on: %s", self._first + 1, self._folder)
        self._folder = self._first = None
