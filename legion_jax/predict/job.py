"""Prediction for any number of photos, which may be stopped at any moment and started again.

Threads read and decode ahead of the predictor and write behind it, so that the device waits for
neither; both sides hold a limited number of bytes. A photo is done when its line is in a part
(`job_parts`); what was begun before that is done again.
"""

import contextlib
import dataclasses
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator

import numpy as np
from etils import epath

from input_pipeline import files
from input_pipeline.errors import UserError
from legion_jax.predict import calibration, job_lines, photo_sources, result_files, result_names
from legion_jax.predict.job_parts import Parts, Share
from legion_jax.predict.job_progress import Progress
from legion_jax.predict.prediction import Prediction
from legion_jax.predict.predictor import Predictor
from legion_jax.predict.queues import WriteBehind
from legion_jax.predict.read_ahead import Limits, ReadAhead
from legion_jax.predict.sampling import Sampling
from legion_jax.weights.checkpoint import Checkpoint

JOB = "job.json"


class JobError(UserError):
    """An output folder that belongs to another job, or is in use; the message says which."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How a job is done.

    Attributes:
        explain: of `predictions.EXPLAIN`; write: files per photo, of `outputs.KINDS`.
        sampling, int8: how the predictor was made, for the record.
        share: the photos of this host.
        retry_failures: try photos again that earlier runs left out.
        flush_seconds: at most this long, about, is lost when the process is killed.
        limits: of reading ahead; as many bytes and threads again are for writing.
    """

    explain: str = "fakes"
    write: tuple[str, ...] = result_files.KINDS
    sampling: Sampling = Sampling()
    int8: bool = False
    share: Share = Share()
    retry_failures: bool = False
    flush_seconds: float = 20.0
    limits: Limits = Limits()


class BatchJob:
    """All photos of a source, or one host's share of them.

    Attributes:
        left: int[N], numbers of the photos that this run has to do.
    """

    def __init__(self, output: epath.PathLike, source: photo_sources.Source, *, checkpoint: str,
                 options: Options):
        """Look at what earlier runs left in `output`; the first of them writes job.json.

        Raises CheckpointError; SourceError when results would land among the photos; JobError when
        the folder holds another job, naming what differs.
        """
        self.output, self._source, self._options = epath.Path(output), source, options
        photo_sources.check_apart(source, str(output))
        _claim(self.output, _description(source, checkpoint, options))
        self._names = result_names.output_names(source.names)
        state = job_lines.Found(self.output, self._names).state
        mine = np.array(options.share.of(len(self._names)), int)
        failed = state[mine] == job_lines.FAILED
        again = failed if options.retry_failures else np.zeros_like(failed)
        self.left = mine[(state[mine] == 0) | again]
        self._total, self._failed = len(mine), int(np.count_nonzero(failed & ~again))

    def run(self, predictor: Predictor) -> str:
        """Do what is left; returns a sentence on how fast that was.

        The first SIGTERM or SIGINT stops the job after the photos that are in flight, with exit
        code 128 + its number; nothing of what was done is lost.
        """
        options = self._options
        limits = dataclasses.replace(
            options.limits, sam_longest=predictor.spec.sam_longest,
            photos=max(options.limits.photos, 4 * predictor.batch_size))
        share, done = options.share, self._total - len(self.left)
        with (_alone(self.output, share),
              Progress(self._total, done=done, failed=self._failed) as progress,
              Parts(self.output, share, flush_seconds=options.flush_seconds) as parts,
              WriteBehind(threads=limits.threads, limit=limits.queue_bytes) as writers):
            def fail(index: int, image: str, error: str) -> None:
                name = self._names[index]
                result_files.remove(self.output, name, kinds=options.write)
                parts.add({"image": image, "name": name, "error": error})
                progress.add(error)

            def write(index: int, image: str, pixels, prediction: Prediction) -> None:
                line = result_files.as_json(image, self._names[index], prediction)
                result_files.write(self.output, line, pixels, prediction, kinds=options.write,
                                   temporary=parts.temporary)
                parts.add(line)
                progress.add()

            ahead = ReadAhead(self._source, self.left.tolist(), limits=limits, on_failure=fail)
            with _stopping(ahead.stop) as told, ahead:
                self._predict(predictor, ahead, writers, write)
        if told:
            raise SystemExit(128 + told[0])
        return progress.summary()

    def _predict(self, predictor: Predictor, ahead: ReadAhead, writers: WriteBehind,
                 write: Callable[..., None]) -> None:
        waiting, needs_pixels = {}, "overlay" in self._options.write

        def items():
            for photo in ahead:
                waiting[photo.index] = photo.image, photo.pixels if needs_pixels else None
                yield photo.index, photo.pixels
                if not needs_pixels:  # the predictor has made its views when it asks for the next
                    ahead.release(photo.index)

        for index, prediction in predictor.stream(items(), explain=self._options.explain):
            image, pixels = waiting.pop(index)
            writers.submit(write, index, image, pixels, prediction,
                           nbytes=result_files.working_bytes(prediction, self._options.write))
            del pixels  # the next one may be awaited for long
            if needs_pixels:
                ahead.release(index)

    def finish(self) -> tuple[int, int]:
        """Merge the record of this share. Returns the numbers of results and of failures."""
        return job_lines.merge(self.output, self._names, self._options.share)


def _description(source: photo_sources.Source, checkpoint: str, options: Options) -> dict:
    """What makes a job another one."""
    opened = Checkpoint.open(checkpoint)
    return {
        "checkpoint": dataclasses.asdict(opened.as_base())
        | {"calibration": calibration.load(opened)},
        "source": source.identity(),
        "settings": {"explain": options.explain, "write": sorted(options.write),
                     "int8": options.int8} | dataclasses.asdict(options.sampling)}


def _claim(output: epath.Path, description: dict) -> None:
    """Write job.json, or compare with the one that is there."""
    path = output / JOB
    output.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        if found := job_lines.merged_files(output):
            raise JobError(f"{found[0]}: there, but no {JOB} that says of which job; choose "
                           f"another output folder or remove it")
        # Hosts that start together write the same.
        files.write_text(path, json.dumps(description, indent=2) + "\n")
    try:
        earlier = json.loads(path.read_text())
        for part, values in description.items():
            for key, value in values.items():
                if (part, key) != ("checkpoint", "path") and earlier[part].get(key) != value:
                    raise JobError(f"{path}: {part}: {key} was {earlier[part].get(key)}, is now "
                                   f"{value}; choose another output folder for another job")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, JobError):
            raise
        raise JobError(f"{path}: damaged ({error}); choose another output folder") from error


@contextlib.contextmanager
def _alone(output: epath.Path, share: Share) -> Iterator[None]:
    """Keeps other processes from doing the same share meanwhile, where files can be locked."""
    if "://" in str(output):
        yield
        return
    with open(os.fspath(output / JOB), "r+b") as file:  # a lock that leaves no file behind
        place = share.count * (share.count - 1) // 2 + share.index
        files.lock(file, JobError(f"{output}: another process is at share {share.index} of "
                                  f"{share.count}"), part=place)
        yield


@contextlib.contextmanager
def _stopping(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Calls `stop` at the first SIGTERM or SIGINT and yields the list that then holds its number.

    A second one is handled as before. Does nothing outside the main thread, which has no signals.
    """
    told: list[int] = []
    before = {}

    def note(number, frame):
        if told:
            signal.signal(number, before[number])
            before[number](number, frame)
        told.append(number)
        stop()

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note)
                  for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
