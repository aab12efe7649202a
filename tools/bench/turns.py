"""Contestants taking turns, so that a busy machine slows all of them alike, and what came out."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm


@dataclasses.dataclass(frozen=True)
class Turn:
    """Seconds of one turn by the clock, and of processor time over all cores."""

    wall: float
    cpu: float


def take_turns(contestants: Mapping[str, Callable[[], Any]], *, rounds: int,
               label: str) -> dict[str, list[Turn]]:
    """The turns of every contestant; one before the rounds does not count."""
    turns = {name: [] for name in contestants}
    with tqdm(total=(1 + rounds) * len(contestants), desc=label, unit="turn") as bar:
        for number in range(1 + rounds):
            for name, run in contestants.items():
                bar.set_postfix_str(name)
                wall, cpu = time.perf_counter(), time.process_time()
                run()
                if number:
                    turns[name].append(Turn(time.perf_counter() - wall, time.process_time() - cpu))
                bar.update()
    return turns


def measure(contestants: Mapping[str, Callable[[], Any]], *, rounds: int, label: str,
            flops: float = 0.0) -> dict:
    """The `summary` of turns of work that takes so many operations."""
    return summary(take_turns(contestants, rounds=rounds, label=label), flops)


def summary(turns: Mapping[str, list[Turn]], flops: float) -> dict:
    """Medians, what they make of `flops` operations, and how often ours fits into the peer's.

    Returns:
        seconds, slowest, fastest, cpu_seconds and gflops_per_s by contestant, flops, and, where
        both took part, the ratios peer / ours of the medians, by the clock and of cpu_seconds.
    """
    wall = {name: [turn.wall for turn in taken] for name, taken in turns.items()}
    middle = {name: statistics.median(times) for name, times in wall.items()}
    cpu = {name: statistics.median(turn.cpu for turn in taken) for name, taken in turns.items()}
    figures = {"flops": flops, "seconds": middle, "cpu_seconds": cpu,
               "fastest": {name: min(times) for name, times in wall.items()},
               "slowest": {name: max(times) for name, times in wall.items()},
               "gflops_per_s": {name: flops / value / 1e9 for name, value in middle.items()}}
    if middle.keys() >= {"ours", "peer"}:
        figures |= {"ratio": middle["peer"] / middle["ours"],
                    "cpu_ratio": cpu["peer"] / cpu["ours"]}
    return figures
