"""Contestants that take turns on the same photos, each timing its own turn.

A turn is a fixed number of whole batches: nothing is prepared before its clock starts and nothing
is left over when it stops, so contestants do not work during each other's turns.
"""

import dataclasses
import io
import itertools
import multiprocessing
import os
import pathlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import grain
import numpy as np
from PIL import Image

from input_pipeline.batches import loader

TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one turn took: photos, seconds of wall clock, CPU seconds of all processes."""

    images: int
    seconds: float
    cpu: float


class Contestant(Protocol):
    """One way to read photos; batches of a turn come in multiples, so that no worker idles."""

    name: str
    multiple: int

    def turn(self, count: int) -> Turn:
        """Read `count` batches."""

    def close(self) -> None:
        """End whatever runs in the background."""


def cpu_seconds() -> float:
    """CPU time of this process and of the worker processes it has now."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        try:
            fields = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile, or no such file system
            continue
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


class Floor:
    """Decoding the files alone, in memory, by as many threads: nothing reads faster with PIL."""

    name = "floor"

    def __init__(self, files: list[bytes], batch_size: int, threads: int):
        self._files, self._batch, self.multiple = itertools.cycle(files), batch_size, threads
        self._pool = ThreadPoolExecutor(threads)

    def turn(self, count: int) -> Turn:
        files = list(itertools.islice(self._files, count * self._batch))
        start, cpu = time.perf_counter(), cpu_seconds()
        for _ in self._pool.map(_decode, files):
            pass
        return Turn(len(files), time.perf_counter() - start, cpu_seconds() - cpu)

    def close(self) -> None:
        self._pool.shutdown()


class Ours:
    """The pipeline of a training run, up to numpy batches ready for the device."""

    name = "ours"

    def __init__(self, dataset: grain.MapDataset, *, threads: int, workers: int = 0):
        self._dataset, self._threads, self._workers, self._step = dataset, threads, workers, 0
        self.multiple, self.batch = max(threads, workers), {}

    def turn(self, count: int) -> Turn:
        first, self._step = self._step, self._step + count + self._workers
        start, cpu, images = time.perf_counter(), cpu_seconds(), 0
        for number, batch in enumerate(loader.iterate(
                self._dataset[:self._step], first, threads=self._threads, workers=self._workers)):
            if number >= self._workers:
                images += len(batch["ids"])
            elif number == self._workers - 1:
                # Every turn starts its processes anew: the clock starts at their first batches.
                start, cpu = time.perf_counter(), cpu_seconds()
            end, spent, self.batch = time.perf_counter(), cpu_seconds(), batch
        return Turn(images, end - start, spent - cpu)

    def close(self) -> None:
        """Nothing is left running."""


class Peer:
    """torch's DataLoader, one worker process per core, its default collation."""

    name = "peer"

    def __init__(self, dataset, records: int, *, batch_size: int, workers: int):
        import torch

        from tools.bench_input.torch_loader import Turns
        self._turns, self.multiple, self.batch = Turns(records), workers, {}
        self._loader = torch.utils.data.DataLoader(
            dataset, batch_size=batch_size, sampler=self._turns, num_workers=workers,
            persistent_workers=True, multiprocessing_context="spawn")
        self._batch = batch_size

    def turn(self, count: int) -> Turn:
        self._turns.count = count * self._batch
        start, cpu, images = time.perf_counter(), cpu_seconds(), 0
        for batch in self._loader:
            images, self.batch = images + len(batch["ids"]), batch
        return Turn(images, time.perf_counter() - start, cpu_seconds() - cpu)

    def close(self) -> None:
        del self._loader  # ends its workers


def take_turns(contestants: list[Contestant], *, seconds: float,
               rounds: int) -> dict[str, list[Turn]]:
    """Interleaved turns of about `seconds / rounds` each, after one that only warms up."""
    counts = {}
    for contestant in contestants:
        contestant.turn(contestant.multiple)
        trial = contestant.turn(2 * contestant.multiple)
        wanted = seconds / rounds * trial.images / trial.seconds  # images
        per_batch = trial.images / (2 * contestant.multiple)
        counts[contestant] = contestant.multiple * max(
            1, round(wanted / per_batch / contestant.multiple))
    turns = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        for contestant in contestants[::-1] if number % 2 else contestants:
            turns[contestant.name].append(contestant.turn(counts[contestant]))
    return turns


def medians(turns: list[Turn]) -> dict[str, float]:
    """Images per second of the whole host and per CPU second spent, with the range of turns."""
    speeds = [turn.images / turn.seconds for turn in turns]
    return {"images_per_s": float(np.median(speeds)), "slowest": min(speeds),
            "fastest": max(speeds), "cores": float(np.median([t.cpu / t.seconds for t in turns])),
            "images_per_core_s": float(np.median([t.images / t.cpu for t in turns]))}


def ratios(turns: dict[str, list[Turn]]) -> dict[str, dict[str, float]]:
    """Ours over the others, per host and per CPU second: medians over turns of the same round."""
    ratios_to = {}
    for name, others in turns.items():
        if name != Ours.name:
            pairs = list(zip(turns[Ours.name], others, strict=True))
            ratios_to[f"ours/{name}"] = {
                "images_per_s": float(np.median([
                    a.images / a.seconds * b.seconds / b.images for a, b in pairs])),
                "images_per_core_s": float(np.median([
                    a.images / a.cpu * b.cpu / b.images for a, b in pairs]))}
    return ratios_to


def bytes_per_image(batch: dict) -> float:
    """Size of a batch of arrays or tensors, divided by its rows."""
    return sum(np.asarray(value).nbytes for value in batch.values()) / len(batch["ids"])


def _decode(content: bytes) -> None:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
