"""`python -m tools.predict` with a model that answers at once, forked with everything imported."""

import json
import multiprocessing
import os
import pathlib
import resource
import runpy
import sys
import time

import numpy as np

from legion_jax.predict.prediction import Prediction, Region
from legion_jax.predict.predictor import Predictor
from legion_jax.weights import legion_json

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["legion_jax.predict.job", "legion_jax.distributed"])


class StubPredictor:
    """Says of every photo what follows from its pixels; masks where it is bright.

    It takes a whole batch before it answers any of it, and takes it lazily.
    """

    def __init__(self, *, batch_size: int = 4, seconds: float = 0.0, after=lambda number: None):
        """`seconds` per batch; `after(number)` is called when so many photos were answered."""
        self.batch_size, self.longest = batch_size, 64
        self._seconds, self._after, self.most_taken = seconds, after, 0

    def stream(self, items, *, explain="fakes"):
        items, answered, taken = iter(items), 0, 0
        while True:
            group = []
            for item in items:
                group.append(item)
                taken += 1
                if len(group) == self.batch_size:
                    break
            self.most_taken = max(self.most_taken, taken - answered)
            if not group:
                return
            time.sleep(self._seconds)
            for key, photo in group:
                answered += 1
                self._after(answered)
                yield key, answer(photo)


def answer(photo: np.ndarray) -> Prediction:
    fake = float(photo.mean()) / 255
    mask = photo[..., 0] > 127
    regions = [Region("bright", 0, 6, " here", mask, 0.5)]
    verdict = "tampered" if fake > 0.5 else "real"
    return Prediction(verdict, max(fake, 1 - fake), fake, "fake", "bright here", "bright [SEG]",
                      finished=True, size=photo.shape[:2], regions=regions)


def make_checkpoint(folder: pathlib.Path, config) -> pathlib.Path:
    """As much of a checkpoint as a job looks at."""
    folder.mkdir()
    legion_json.write_meta(folder, config, base=None, trained=[])
    return folder


def start(*arguments, log: pathlib.Path, **stub) -> multiprocessing.Process:
    """The command with these arguments, what it prints in `log`; `stub`: of StubPredictor."""
    process = CONTEXT.Process(target=_predict, args=([str(a) for a in arguments], str(log), stub))
    process.start()
    return process


def run(*arguments, log: pathlib.Path, seconds: float = 120, **stub) -> tuple[int, str]:
    """(exit code, what was printed); fails when it takes longer than `seconds`."""
    process = start(*arguments, log=log, **stub)
    process.join(seconds)
    if process.is_alive():
        process.kill()
        raise AssertionError(f"hangs: {log.read_text()[-3000:]}")
    return process.exitcode, log.read_text()


def lines(path: pathlib.Path) -> list[dict]:
    """A file of JSON lines, or none."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def _predict(arguments: list[str], log: str, stub: dict) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    predictor = StubPredictor(**stub)
    Predictor.from_checkpoint = lambda *_, batch_size, **__: predictor
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.argv = ["tools.predict", *arguments]
    try:
        runpy.run_module("tools.predict", run_name="__main__")
    finally:
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"grew {(after - before) // 1024} MiB", flush=True)
