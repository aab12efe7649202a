"""How fast a run is, in updates, examples, tokens and operations per second, and a trace of it."""

import contextlib
import functools
import logging
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import jax
from etils import epath

from input_pipeline import buckets
from input_pipeline.batches.examples import ExampleSpec
from input_pipeline.paths import is_uri
from legion_jax import chips
from legion_jax.config import LegionConfig
from legion_jax.models import flops
from legion_jax.models.reading import Reading
from legion_jax.train import data as train_data
from legion_jax.train.frozen_features import TOWERS
from legion_jax.train.knobs import RunSettings

LOG = logging.getLogger("legion_jax")
SETTLED = 5  # updates in a row without compiling, before a trace begins
TRACED = 5  # updates in a trace


def photo_flops(settings: RunSettings, model: LegionConfig, spec: ExampleSpec,
                reading: Reading, *, text: int) -> flops.Flops:
    """Operations of one photo in an update of a run, its text padded to `text` ids."""
    sizes = flops.Sizes(text, reading.image_index, spec.mask_slots, spec.mask_canvas,
                        reading.first_target)
    cached = [TOWERS[name].path.strip("/")
              for name in train_data.cached_towers(settings, model, spec)]
    return flops.training(model, sizes, trainable=settings.trainable,
                          losses=settings.loss_weights, cached=cached)


def of_run(settings: RunSettings, model: LegionConfig, spec: ExampleSpec,
           reading: Reading) -> "Speed":
    """The speed of a run on all devices there are."""
    chip = chips.find(jax.devices()[0].device_kind)

    def update_flops(text: int) -> float:
        return settings.batch_size * photo_flops(settings, model, spec, reading, text=text).model

    return Speed(settings.batch_size, update_flops,
                 peak=chip and chip.flops * jax.device_count())


class Speed:
    """A clock for updates.

    Waiting for data and checkpoints between two looks counts; what happens `apart` does not.

    Attributes:
        settled: updates in a row whose text length was not the first of its kind.
    """

    def __init__(self, batch_size: int, update_flops: Callable[[int], float], *,
                 peak: float | None):
        """Start the clock.

        Args:
            update_flops: text length -> model operations of an update, all devices together.
            peak: operations per second all devices could do; None: unknown, so no MFU.
        """
        self._batch_size, self._peak = batch_size, peak
        self._flops = functools.cache(update_flops)
        self._lengths: set[int] = set()
        self._updates: list[int] = []  # text length of each since the last look
        self._since, self.settled = time.monotonic(), 0

    def is_new(self, length: int) -> bool:
        """Whether no update had this text length yet, so that its program must be compiled."""
        return length not in self._lengths

    def count(self, length: int) -> None:
        """Count an update of this text length; its results may still be on their way."""
        self.settled = 0 if self.is_new(length) else self.settled + 1
        self._lengths.add(length)
        self._updates.append(length)

    @contextlib.contextmanager
    def apart(self, running) -> Iterator[None]:
        """Leave out the time of what happens inside, once the arrays `running` are there."""
        jax.block_until_ready(running)
        start = time.monotonic()
        yield
        now = time.monotonic()
        # Before the first update nothing counts, so neither does the wait for the first batch.
        self._since = self._since + now - start if self._lengths else now

    def look(self, tokens: Sequence[float]) -> dict[str, float]:
        """Rates per second since the last look.

        Args:
            tokens: number that each update since then read; the updates must be done.

        Returns:
            updates_per_second, examples_per_second; tokens_per_second where any were read; mfu, a
            share of the peak, where that is known. Nothing where there was no update.
        """
        now = time.monotonic()
        seconds, self._since = max(now - self._since, 1e-9), now
        lengths, self._updates = self._updates, []
        if len(tokens) != len(lengths):
            raise ValueError(f"tokens of {len(tokens)} updates, but there were {len(lengths)}")
        if not lengths:
            return {}
        rates = {"updates_per_second": len(lengths) / seconds,
                 "examples_per_second": len(lengths) * self._batch_size / seconds}
        if any(tokens):
            rates["tokens_per_second"] = sum(tokens) / seconds
        if self._peak:
            rates["mfu"] = sum(map(self._flops, lengths)) / seconds / self._peak
        return rates


class Profile:
    """A trace of a few updates for XProf, once a run has settled: what host and devices do.

    The trace lies where TensorBoard and XProf look for it, in `plugins/profile/` of the folder.
    With several processes the first one alone traces: one host and its devices.
    """

    def __init__(self, folder: epath.PathLike | None, speed: Speed):
        """`folder` for the trace, None for no trace; its start and end are no time of `speed`."""
        self._folder = folder if jax.process_index() == 0 else None
        self._speed = speed
        self._first: int | None = None  # step of the first traced update, while a trace is on
        self._scratch: tempfile.TemporaryDirectory | None = None

    def before(self, number: int, running) -> None:
        """Begin the trace with update `number` where it is due, once `running` is there."""
        if self._folder and self._first is None and self._speed.settled >= SETTLED:
            with self._speed.apart(running):  # the trace holds whole updates only
                # JAX would ask the real service for a bucket, whatever its clients were told.
                if is_uri(self._folder):
                    self._scratch = tempfile.TemporaryDirectory(prefix="legion-")
                jax.profiler.start_trace(str(
                    self._scratch.name if self._scratch else self._folder))
            self._first = number

    def after(self, number: int, running) -> None:
        """End the trace with update `number` where it is full, once `running` is there."""
        if self._first is not None and number + 1 == self._first + TRACED:
            with self._speed.apart(running):
                self._write()

    def close(self) -> None:
        """End a trace that is on; say so where there never was one."""
        if self._first is not None:
            self._write()
        elif self._folder:
            LOG.warning("--profile: nothing traced, as that begins after %d updates in a row "
                        "without compiling", SETTLED)

    def _write(self) -> None:
        jax.profiler.stop_trace()
        if self._scratch:
            buckets.upload(pathlib.Path(self._scratch.name), self._folder)
            self._scratch.cleanup()
        LOG.info("traced updates from step %d on: %s", self._first + 1, self._folder)
        self._folder = self._first = None
