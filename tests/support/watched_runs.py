"""A run in this process that is watched: what it compiles, and after how many updates."""

import collections
import dataclasses
import functools
import pathlib

import compilations
import jax
import pytest
from random_models import QUICK_COMPILE

from legion_jax.train import setup, speed
from legion_jax.train.run import train


@dataclasses.dataclass
class Watched:
    """A run: text length of every update, and after how many of them what was compiled."""

    workdir: pathlib.Path
    config: object
    lengths: list[int]
    compiled: dict[int, list[str]]
    programs: int = 0

    @property
    def steps(self) -> int:
        """Updates of the whole run."""
        return self.config.optimizer.total_steps

    def allowed(self, start: int) -> set[int]:
        """After how many updates from `start` on something happens for the first time."""
        lengths = self.lengths[len(self.lengths) - (self.steps - start):]
        repeated = (self.config.checkpoint_every, self.config.log_images_every,
                    self.config.log_every, self.config.eval.every)
        due = {n - start for every in filter(None, repeated)
               for n in range(start + every - start % every, self.steps + 1, every)[:1]}
        return {lengths.index(length) for length in set(lengths)} | due


def watch(config, workdir, small, **options) -> Watched:
    """Train and count."""
    watched = Watched(workdir, config, [], collections.defaultdict(list))
    jitted, patch = [], pytest.MonkeyPatch()

    class Step:
        def __init__(self, *arguments, **options):
            jitted.append(original(*arguments, **options))
            self.lower = jitted[0].lower

        def __call__(self, state, frozen, batch):
            watched.lengths.append(batch["ids"].shape[1])
            return jitted[0](state, frozen, batch)

    original, quick = setup.jit_step, functools.partial(jax.jit, compiler_options=QUICK_COMPILE)
    patch.setattr(jax, "jit", quick)
    patch.setattr(setup, "jit_step", Step)
    patch.setattr(setup, "model_config", small)
    patch.setattr(speed, "TRACED", 2)  # that more are as many is no question of what they hold
    try:
        with compilations.heard(lambda name: watched.compiled[len(watched.lengths)].append(name)):
            train(config, workdir, **options)
    finally:
        patch.undo()
    watched.programs = jitted[0]._cache_size()
    return watched
