"""One run on several hosts: starting, compiling and ending together."""

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from input_pipeline.errors import UserError

START_SECONDS = 300  # that hosts wait for each other at the start
HEARTBEAT_SECONDS = 100  # after which the others give up on a silent host
COMPILE_SECONDS = 3600  # that one host may load or compile longer than another
APART_SECONDS = 7 * 24 * 3600  # that one host may have more to do than another
PARTING_SECONDS = 10  # for all hosts to say the same before the first of them is gone


class DistributedError(UserError):
    """Hosts that do not find each other, or cannot be told apart."""


class Preempted(SystemExit):
    """The run was told to stop and has saved its state; the exit code is that of SIGTERM."""

    def __init__(self):
        """Exits as a process that SIGTERM ended."""
        super().__init__(128 + signal.SIGTERM)


def define_flag() -> flags.FlagHolder[str]:
    """The flag of every command that runs on several hosts; its value is for `start`."""
    return flags.DEFINE_string(
        "distributed", "", "'auto' on Cloud TPU pods, Slurm, Open MPI and Kubernetes, which tell "
        "each process its place; HOST:PORT,PROCESSES,INDEX elsewhere; empty for one process.")


def start(how: str, *, timeout: int = START_SECONDS) -> None:
    """Join the other processes of a run; must come before anything else asks JAX for devices.

    Args:
        how: value of the flag; "" does nothing.
        timeout: seconds to wait for processes that are not there yet.

    Raises DistributedError when the place of this process is not known. When another process is
    missing, this one ends with that sentence and exit code 1.
    """
    if not how:
        return
    coordinates = {} if how == "auto" else _parse(how)
    # At its own timeout JAX aborts the process from within.
    patience = threading.Timer(timeout, _give_up, (how, timeout))
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(**coordinates, initialization_timeout=2 * timeout + 60,
                                   heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"--distributed={how}: {' '.join(str(error).split())}; on a cluster JAX does not "
            f"know, give HOST:PORT,PROCESSES,INDEX") from error
    finally:
        patience.cancel()


@contextlib.contextmanager
def joined(how: str) -> Iterator[None]:
    """Run the inside together with the other processes; `how` as for `start`.

    Processes that come to the end wait there for each other. One that fails, or is told to stop,
    is gone at once or soon: by itself JAX would keep it for five minutes, and the others with it.
    """
    start(how)
    try:
        yield
    except Preempted:  # as all the others
        raise
    except SystemExit as stopped:
        if how:
            leave(stopped.code)
        raise
    except BaseException as error:
        if how:
            code = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
            gone = threading.Timer(PARTING_SECONDS, leave, (code,))
            gone.daemon = True
            gone.start()
        raise
    if how:
        wait_for_all(APART_SECONDS)
        jax.distributed.shutdown()


def wait_for_all(seconds: int) -> None:
    """Wait until every process has come here, which must be less than `seconds` apart.

    By itself JAX gives up on processes that end 5 minutes after the first, and a collective on
    those that come 30 s later; this one asks the coordination service.
    """
    multihost.get_barrier_sync_fn()(key="legion_jax", timeout_ms=1000 * seconds)


def first_host(act: Callable[[], int | None]) -> int | None:
    """Let the first process act while all others wait; what it returns, on all of them."""
    if jax.process_count() == 1:
        return act()
    chosen = act() if jax.process_index() == 0 else None
    wait_for_all(START_SECONDS)
    chosen = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if chosen is None else chosen)))
    return None if chosen == -1 else chosen


def wait_for_others() -> None:
    """Let every process be done with what takes them differently long, before a collective.

    On CPUs that gives up on processes that come 30 s later.
    """
    if jax.process_count() > 1:
        wait_for_all(COMPILE_SECONDS)


def compile_together(program: Callable, *arguments) -> None:
    """Compile a jitted program, on every process before any of them calls it.

    One may find the program in its cache, another may not.
    """
    program.lower(*arguments).compile()  # the call that follows finds it
    wait_for_others()


def compiled_together(program: Callable) -> Callable:
    """A jitted program for one set of shapes that all processes call; see `compile_together`."""
    compiled = False

    def call(*arguments):
        nonlocal compiled
        if not compiled:
            compile_together(program, *arguments)
            compiled = True
        return program(*arguments)

    return call


def leave(code: int) -> None:
    """End this process now, without waiting for the others, which end for want of it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_on_sigterm() -> None:
    """Let SIGTERM end this process at once, for work of which nothing is lost with it.

    JAX takes the signal over in `start` and would leave it to `Preemption` to do something.
    """
    signal.signal(signal.SIGTERM, lambda *_: leave(128 + signal.SIGTERM))


def _give_up(how: str, timeout: int) -> None:
    print(f"error: --distributed={how}: not all processes came together within {timeout} s; is one "
          f"missing, or its way to the coordinator closed?", file=sys.stderr, flush=True)
    os._exit(1)  # the main thread waits inside JAX and hears nothing


def _parse(how: str) -> dict:
    match = re.fullmatch(r"(?P<address>[^,]+:\d+),(?P<count>\d+),(?P<index>\d+)", how)
    if (not match or not int(match["index"]) < int(match["count"])
            or not 0 < int(match["address"].rpartition(":")[2]) < 65536):
        raise DistributedError(f"--distributed: 'auto' or HOST:PORT,PROCESSES,INDEX with INDEX "
                               f"below PROCESSES, not {how!r}")
    return {"coordinator_address": match["address"], "num_processes": int(match["count"]),
            "process_id": int(match["index"])}


class Preemption:
    """Whether a run was told to stop by SIGTERM, as clusters do before they take a host away.

    With several processes any of them may be told; JAX's coordination service then agrees on a
    step that all of them reach. Use as a context: signals are as before afterwards.
    """

    def __init__(self):
        """Nothing is told yet."""
        self._told, self._before = False, None

    def __enter__(self):
        if jax.process_count() == 1:  # else the coordination service listens
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_):
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_):
        self._told = True

    def reached(self, step: int) -> bool:
        """Whether to save and stop after `step`; every process must ask after every step."""
        if jax.process_count() == 1:
            return self._told
        return multihost_utils.reached_preemption_sync_point(step)
