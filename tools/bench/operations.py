"""What a device spends its time on: the operations of a traced piece of work, dearest first."""

import collections
import tempfile
from collections.abc import Callable
from typing import Any

import jax
from etils import epath


def dearest(run: Callable[[], Any], *, number: int = 10) -> list[dict]:
    """Trace `run`, which must wait for its results, and add up its operations.

    Returns:
        [{name, seconds, times}], at most `number`, the most expensive one first. Names are the
        kernels' on a GPU, which for fusions are those of the compiled program, and operations' on
        a CPU.
    """
    with tempfile.TemporaryDirectory(prefix="legion-") as folder:
        with jax.profiler.trace(folder):
            run()
        file, = epath.Path(folder).glob("plugins/profile/*/*.xplane.pb")
        planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
        return _added([event for plane in planes for event in _events(plane)])[:number]


def _events(plane) -> list[tuple[str, float]]:
    """(name, nanoseconds) of all that a device's plane, or a CPU's, holds."""
    device = plane.name.startswith("/device:")
    events = []
    for line in plane.lines:
        if device and not line.name.startswith("Stream"):
            continue  # steps and modules, which hold the same time once more
        events += [(event.name, event.duration_ns) for event in line.events
                   if device or "hlo_op" in dict(event.stats)]
    return events


def _added(events: list[tuple[str, float]]) -> list[dict]:
    seconds: dict[str, float] = collections.defaultdict(float)
    times: collections.Counter[str] = collections.Counter()
    for name, duration in events:
        seconds[name] += duration / 1e9
        times[name] += 1
    return [{"name": name, "seconds": seconds[name], "times": times[name]}
            for name in sorted(seconds, key=lambda name: -seconds[name])]
