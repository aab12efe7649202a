"""Prediction for any number of photos, which may be stopped at any moment and started again.

Threads read and decode ahead of the predictor and write behind it, so that the device waits for
neither; both sides hold a limited number of bytes. A photo is done when its line is in a part
(`job_lines`); what was begun before that is done again.
"""

import collections
import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
from etils import epath
from tqdm import tqdm

from input_pipeline import files, strict_json
from input_pipeline.errors import UserError
from input_pipeline.paths import is_uri
from legion_jax.display import numbers
from legion_jax.predict import calibration, job_lines, photo_sources, result_files, result_names
from legion_jax.predict.detector import Detector
from legion_jax.predict.job_lines import Parts, Share
from legion_jax.predict.prediction import Prediction, Question
from legion_jax.predict.queues import Limits, ReadAhead, WriteBehind
from legion_jax.predict.sampling import Sampling
from legion_jax.weights.checkpoint import Checkpoint

JOB = "job.json"
WINDOW_SECONDS = 120  # over which the speed is taken
LINE_SECONDS = 60
SHOWN_FAILURES = 20  # sentences; more of them would bury everything else


class JobError(UserError):
    """An output folder that belongs to another job, or is in use; the message says which."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How a job is done.

    Attributes:
        explain: of `prediction.EXPLAIN`; write: files per photo, of `result_files.KINDS`.
        sampling, dialogue, int8: how the predictor was made, for the record; `dialogue` is of
            `Question.of`.
        share: the photos of this host.
        retry_failures: try photos again that earlier runs left out.
        flush_seconds: at most this long, about, is lost when the process is killed.
        limits: of reading ahead; as many bytes and threads again are for writing.
    """

    explain: str = "fakes"
    write: tuple[str, ...] = result_files.KINDS
    sampling: Sampling = Sampling()
    dialogue: str = ""
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

    def __init__(self, output: epath.PathLike, source: photo_sources.Source, *,
                 checkpoint: Checkpoint, options: Options):
        """Look at what earlier runs left in `output`; the first of them writes job.json.

        Raises CheckpointError; SourceError when results would land among the photos; JobError when
        the folder holds another job, naming what differs.
        """
        self.output, self._source, self._options = epath.Path(output), source, options
        photo_sources.check_apart(source, str(output))
        _claim(self.output, _description(source, checkpoint, options))
        self._names = result_names.output_names(source.names)
        state = job_lines.Recorded(self.output, self._names).state
        mine = np.array(options.share.of(len(self._names)), int)
        failed = state[mine] == job_lines.FAILED
        again = failed if options.retry_failures else np.zeros_like(failed)
        self.left = mine[(state[mine] == 0) | again]
        self._total, self._failed = len(mine), int(np.count_nonzero(failed & ~again))

    def run(self, predictor: Detector) -> str:
        """Do what is left; returns a sentence on how fast that was.

        The first SIGTERM or SIGINT stops the job after the photos that are in flight, with exit
        code 128 + its number; nothing of what was done is lost.
        """
        options = self._options
        limits = dataclasses.replace(
            options.limits, sam_longest=predictor.longest,
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
            with _stopping(ahead.stop) as signals, ahead:
                self._predict(predictor, ahead, writers, write)
        if signals:
            raise SystemExit(128 + signals[0])
        return progress.summary()

    def _predict(self, predictor: Detector, ahead: ReadAhead, writers: WriteBehind,
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


def _description(source: photo_sources.Source, opened: Checkpoint, options: Options) -> dict:
    """What makes a job another one."""
    return {
        "checkpoint": dataclasses.asdict(opened.as_base())
        | {"calibration": calibration.load(opened)},
        "source": source.identity(),
        "settings": {"explain": options.explain, "write": sorted(options.write),
                     "int8": options.int8} | dataclasses.asdict(options.sampling),
        "question": dataclasses.asdict(Question.of(opened.meta, options.dialogue))}


def _claim(output: epath.Path, description: dict) -> None:
    """Write job.json, or compare with the one that is there."""
    path = output / JOB
    files.make_folder(output)
    if not path.exists():
        if merged := job_lines.merged_files(output):
            raise JobError(f"{merged[0]}: there, but no {JOB} that says of which job; choose "
                           f"another output folder or remove it")
        # Hosts that start together write the same.
        files.write_text(path, json.dumps(description, indent=2) + "\n")
    try:
        earlier = strict_json.read(path, lone_surrogates=True)
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
    if is_uri(output):
        yield
        return
    with open(os.fspath(output / JOB), "r+b") as file:  # a lock that leaves no file behind
        byte = share.count * (share.count - 1) // 2 + share.index  # one of its own per share
        files.lock(file, JobError(f"{output}: another process is at share {share.index} of "
                                  f"{share.count}"), part=byte)
        yield


@contextlib.contextmanager
def _stopping(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Calls `stop` at the first SIGTERM or SIGINT and yields the list that then holds its number.

    A second one is handled as before. Does nothing outside the main thread, which has no signals.
    """
    received: list[int] = []
    before = {}

    def note(number, frame):
        if received:
            signal.signal(number, before[number])
            before[number](number, frame)
        received.append(number)
        stop()

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note)
                  for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """Counts photos that are done or left out, from any thread. Use as a context.

    It shows a bar on a terminal, and elsewhere a line a minute.
    """

    def __init__(self, total: int, *, done: int, failed: int):
        """`total` photos, of which earlier runs did `done`, `failed` of these without a result."""
        self.total, self.done, self.failed = total, done, failed
        self.new_failures, self._begin = 0, done
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._started = time.monotonic()
        self._seen = collections.deque([(self._started, done)])
        self._bar = tqdm(total=total, initial=done, desc="predicting", unit="photo",
                         disable=not sys.stderr.isatty())
        self._thread = threading.Thread(target=self._work, daemon=True, name="progress")

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._closing.set()
        self._thread.join()
        self._bar.close()

    def add(self, failure: str | None = None) -> None:
        """One photo more; `failure` is why it is left out."""
        with self._lock:
            self.done += 1
            if failure is not None:
                self.failed += 1
                self.new_failures += 1
                if self.new_failures <= SHOWN_FAILURES:
                    self._bar.write(f"skipped: {failure}", file=sys.stderr)
                if self.new_failures == SHOWN_FAILURES:
                    self._bar.write("further failures are only counted here; failures.jsonl will "
                                    "have them all", file=sys.stderr)
            self._bar.set_postfix(failed=self.failed, refresh=False)
            self._bar.update()

    def speed(self) -> float:
        """Photos per second over the last WINDOW_SECONDS."""
        with self._lock:
            now, done = time.monotonic(), self.done
            self._seen.append((now, done))
            while len(self._seen) > 2 and self._seen[1][0] < now - WINDOW_SECONDS:
                self._seen.popleft()
            began, before = self._seen[0]
        return (done - before) / max(now - began, 1e-9)

    def line(self) -> str:
        """12,345 of 1,000,000 photos, 3 left out, 10.2 photos/s, 26 h 54 min left."""
        speed = self.speed()
        left = (f", {numbers.duration((self.total - self.done) / speed)} left" if speed else "")
        return (f"{self.done:,} of {self.total:,} photos, {self.failed:,} left out, "
                f"{speed:.1f} photos/s{left}")

    def summary(self) -> str:
        """What this run did: 1,234 photos in 2 min 3 s, 10.0 photos/s."""
        seconds, new = time.monotonic() - self._started, self.done - self._begin
        return f"{new:,} photos in {numbers.duration(seconds)}, {new / seconds:.1f} photos/s"

    def _work(self) -> None:
        while not self._closing.wait(LINE_SECONDS):
            if self._bar.disable:
                print(self.line(), file=sys.stderr, flush=True)
