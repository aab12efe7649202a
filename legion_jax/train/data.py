"""From the data knobs of a run to its batches."""

import functools
import logging
import re
from collections.abc import Iterator, Sequence

import grain
import jax
import ml_collections

from input_pipeline.batches import loader
from input_pipeline.batches.examples import ExampleSpec, blank_example, training_example
from input_pipeline.batches.lengths import text_lengths
from input_pipeline.batches.stream import WINDOW, Stream
from input_pipeline.records import prepared
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax.config import LegionConfig
from legion_jax.models import param_tree
from legion_jax.train.frozen_features import TOWERS, Cache
from legion_jax.train.knobs import ConfigError

LOG = logging.getLogger("legion_jax")
LARGEST = 1e9  # weight in a mixture


def first_target(config: ml_collections.ConfigDict, prompt: int) -> int:
    """The id from which on texts are learned, behind the `prompt` ids of the run's question.

    Records that ask for themselves have questions of any length, so nothing is known of them.
    """
    return 0 if config.data.own_questions else prompt


def mixture(config: ml_collections.ConfigDict) -> list[tuple[str, str, float]]:
    """(folder, split, weight) of every data set of a run. Raises ConfigError."""
    if not config.data.mixture:
        return [(config.data.data_dir, config.data.train_split, 1.0)]
    found = []
    for entry in config.data.mixture:
        if len(entry) != 3 or not isinstance(entry[2], int | float) or not (
                0 < entry[2] < LARGEST):
            raise ConfigError(f"config.data.mixture: (folder, split, weight above 0 and below "
                              f"{LARGEST:g}), got "
                              f"{tuple(entry)!r}")
        found.append((str(entry[0]), str(entry[1]), float(entry[2])))
    return found


def caches(config: ml_collections.ConfigDict, model: LegionConfig,
           spec: ExampleSpec) -> list[list[Cache]]:
    """Per data set of a run, what `config.data.features` may hold: its frozen towers' output."""
    needed = ["clip"] + ["sam"] * bool(config.loss.bce or config.loss.dice)
    paths = param_tree.abstract_params(model)
    frozen = [name for name in needed if not any(
        path.startswith(TOWERS[name].path) and re.search(pattern, path)
        for path in paths for pattern in config.trainable)]
    return [[Cache(tower, folder, split, config.init_from, config.frozen_dtype, model, spec)
             for tower in frozen] for folder, split, _ in mixture(config)]


def cached_towers(config: ml_collections.ConfigDict, model: LegionConfig,
                  spec: ExampleSpec) -> list[str]:
    """Names of the towers whose output `config.data.features` holds."""
    if not config.data.features:
        return []
    return [cache.tower for cache in caches(config, model, spec)[0]]


def open_batches(config: ml_collections.ConfigDict, tokenizer: Tokenizer, spec: ExampleSpec,
                 model: LegionConfig, places: Sequence[int] | None = None) -> grain.MapDataset:
    """This host's part of every batch of a run, by step: the rows `places` of it, or all."""
    return loader.train_batches(open_rows(config, tokenizer, spec, model, places))


def open_rows(config: ml_collections.ConfigDict, tokenizer: Tokenizer, spec: ExampleSpec,
              model: LegionConfig, places: Sequence[int] | None = None) -> loader.Rows:
    """As `open_batches`, one row at a time, by its place."""
    parts = mixture(config)
    sources = [prepared.open_split(folder, split) for folder, split, _ in parts]
    buckets = sorted({*config.data.text_buckets, config.data.text_length})
    if buckets[-1] != config.data.text_length:
        raise ConfigError(f"config.data.text_buckets: {buckets[-1]} exceeds data.text_length "
                          f"{config.data.text_length}")
    lengths = None
    if len(buckets) > 1:
        lengths = [text_lengths(source, tokenizer, spec, split=split,
                                folder=prepared.find_version(folder),
                                write=jax.process_index() == 0)
                   for source, (folder, split, _) in zip(sources, parts, strict=True)]
    stream = Stream([len(source) for source in sources], weights=[w for *_, w in parts],
                    batch_size=config.batch_size, seed=config.seed, buckets=buckets,
                    lengths=lengths)
    if lengths:
        for length, (number, padding) in stream.padding(WINDOW).items():
            LOG.info("text length %d: %d of the first %d batches, %.0f %% padding", length, number,
                     WINDOW, 100 * padding)
    features, replaced = [], []
    if config.data.features:
        kept = caches(config, model, spec)
        replaced = [TOWERS[cache.tower].image for cache in kept[0]]
        features = [{TOWERS[cache.tower].features: cache.open(config.data.features, len(source))
                     for cache in row} for row, source in zip(kept, sources, strict=True)]
    return loader.Rows(
        stream, sources, [f"{folder} {split}" for folder, split, _ in parts],
        prepare=functools.partial(training_example, tokenizer, spec),
        blank=functools.partial(blank_example, tokenizer, spec),
        places=places, features=features, replaced=replaced)


def from_step(config: ml_collections.ConfigDict, dataset: grain.MapDataset,
              start: int) -> Iterator[dict]:
    """Batches from step `start` on, prepared ahead as the config says."""
    return loader.iterate(dataset, start, threads=config.data.threads,
                          workers=config.data.workers, buffer=config.data.buffer)


class BadRecords:
    """Stops a run whose data is going bad; judged over the records of this start of the run."""

    def __init__(self, limit: float):
        self._limit, self._bad, self._all = limit, 0, 0

    def add(self, bad: float, rows: int) -> None:
        """Count one batch. Raises ConfigError above the limit, once a hundred rows are seen."""
        self._bad, self._all = self._bad + int(bad), self._all + rows
        if self._all >= 100 and self._bad > self._limit * self._all:
            raise ConfigError(f"{self._bad} of {self._all} records could not be used, which is "
                              f"more than config.data.max_bad {self._limit}; the log names them")
