"""How fast a run is: updates, examples, tokens and model operations per second."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import ml_collections

from input_pipeline.batches.examples import ExampleSpec
from legion_jax import chips, distributed
from legion_jax.config import LegionConfig
from legion_jax.models import flops
from legion_jax.train import data as train_data
from legion_jax.train.frozen_features import TOWERS


def photo_flops(config: ml_collections.ConfigDict, model: LegionConfig, spec: ExampleSpec, *,
                image_index: int, first_target: int, text: int) -> flops.Flops:
    """Operations of one photo in an update of a run, its text padded to `text` ids."""
    sizes = flops.Sizes(text, image_index, spec.mask_slots, spec.mask_canvas, first_target)
    cached = [TOWERS[name].path.strip("/")
              for name in train_data.cached_towers(config, model, spec)]
    return flops.training(model, sizes, trainable=config.trainable, losses=dict(config.loss),
                          cached=cached)


def of_run(config: ml_collections.ConfigDict, model: LegionConfig, spec: ExampleSpec, *,
           image_index: int, first_target: int) -> "Speed":
    """The speed of a run on all devices there are."""
    each = chips.peak_flops(jax.devices()[0].device_kind)

    def update_flops(text: int) -> float:
        return config.batch_size * photo_flops(config, model, spec, image_index=image_index,
                                               first_target=first_target, text=text).model

    return Speed(config.batch_size, update_flops, peak=each and each * jax.device_count())


class Speed:
    """A clock for updates. First calls compile; they count neither as time nor as updates.

    What else happens between two looks does count: waiting for data, checkpoints, pictures.

    Attributes:
        settled: updates in a row that compiled nothing.
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
        self._updates: list[int | None] = []  # text length of each since the last look, if counted
        self._since, self.settled = time.monotonic(), 0

    def watch(self, step: Callable) -> Callable:
        """The compiled `step(state, frozen, batch)`, its calls counted.

        It waits for the devices only where a text length is new, since that compiles.
        """
        def watched(state, frozen, batch):
            length = batch["ids"].shape[1]
            if length in self._lengths:
                self._updates.append(length)
                self.settled += 1
                return step(state, frozen, batch)
            self._lengths.add(length)
            self.settled = 0
            with self.apart(state):
                distributed.compile_together(step, state, frozen, batch)
                result = jax.block_until_ready(step(state, frozen, batch))
            if not any(self._updates):  # nothing counted yet: nor does the wait for the first batch
                self._since = time.monotonic()
            self._updates.append(None)
            return result
        return watched

    @contextlib.contextmanager
    def apart(self, running) -> Iterator[None]:
        """Leave out the time of what happens inside, once the arrays `running` are there."""
        jax.block_until_ready(running)
        start = time.monotonic()
        yield
        self._since += time.monotonic() - start

    def look(self, tokens: Sequence[float]) -> dict[str, float]:
        """Rates per second since the last look.

        Args:
            tokens: number that each update since then read; the updates must be done.

        Returns:
            updates_per_second, examples_per_second; tokens_per_second where any were read; mfu, a
            share of the peak, where that is known. Nothing when no update counts.
        """
        now = time.monotonic()
        took, self._since = max(now - self._since, 1e-9), now
        counted = [(length, number) for length, number in zip(self._updates, tokens, strict=True)
                   if length is not None]
        self._updates = []
        if not counted:
            return {}
        rates = {"updates_per_second": len(counted) / took,
                 "examples_per_second": len(counted) * self._batch_size / took}
        if read := sum(number for _, number in counted):
            rates["tokens_per_second"] = read / took
        if self._peak:
            done = sum(self._flops(length) for length, _ in counted)
            rates["mfu"] = done / took / self._peak
        return rates
