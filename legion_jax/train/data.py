"""From the data knobs of a run to its batches."""

import functools
import logging
import re
from collections.abc import Sequence

import jax

from input_pipeline.batches import loader
from input_pipeline.batches.examples import ExampleSpec, blank_example, training_example
from input_pipeline.batches.lengths import text_lengths
from input_pipeline.batches.stream import WINDOW, Stream
from input_pipeline.records import manifest, prepared, verdict_classes
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax.config import LegionConfig
from legion_jax.models import param_tree
from legion_jax.train.frozen_features import TOWERS, Cache
from legion_jax.train.knobs import ConfigError, DataSettings, RunSettings

LOG = logging.getLogger("legion_jax")
LARGEST = 1e9  # weight in a mixture


def first_target(data: DataSettings, prompt: int) -> int:
    """The id from which on texts are learned, behind the `prompt` ids of the run's question.

    Records that ask for themselves have questions of any length, so nothing is known of them.
    """
    return 0 if data.own_questions else prompt


def mixture(data: DataSettings) -> list[tuple[str, str, float]]:
    """(folder, split, weight) of every data set of a run. Raises ConfigError."""
    if not data.mixture:
        return [(data.data_dir, data.train_split, 1.0)]
    parts = []
    for entry in data.mixture:
        if len(entry) != 3 or not isinstance(entry[2], int | float) or not (
                0 < entry[2] < LARGEST):
            raise ConfigError(f"config.data.mixture: (folder, split, weight above 0 and below "
                              f"{LARGEST:g}), got {tuple(entry)!r}")
        parts.append((str(entry[0]), str(entry[1]), float(entry[2])))
    return parts


def caches(settings: RunSettings, model: LegionConfig, spec: ExampleSpec) -> list[list[Cache]]:
    """Per data set of a run, what `config.data.features` may hold: its frozen towers' output."""
    needed = ["vision"] + ["sam"] * settings.loss.reads_masks
    paths = param_tree.abstract_params(model)
    frozen = [name for name in needed if not any(
        path.startswith(TOWERS[name].path) and re.search(pattern, path)
        for path in paths for pattern in settings.trainable)]
    return [[Cache(tower, folder, split, settings.init_from, settings.frozen_dtype, model, spec)
             for tower in frozen] for folder, split, _ in mixture(settings.data)]


def cached_towers(settings: RunSettings, model: LegionConfig, spec: ExampleSpec) -> list[str]:
    """Names of the towers whose output `config.data.features` holds."""
    if not settings.data.features:
        return []
    return [cache.tower for cache in caches(settings, model, spec)[0]]


def open_rows(settings: RunSettings, tokenizer: Tokenizer, spec: ExampleSpec,
              model: LegionConfig, places: Sequence[int] | None = None) -> loader.Rows:
    """The rows of every batch of a run, by their place; `loader.train_batches` makes batches of it.

    Args:
        places: the rows of a batch that this host needs; None: all.

    Raises ConfigError, and ClassError where a label has no class of the verdict that is trained.
    """
    parts = mixture(settings.data)
    sources = [prepared.open_split(folder, split) for folder, split, _ in parts]
    if settings.loss.verdict:
        _check_labels(parts, model)
    buckets = sorted({*settings.data.text_buckets, settings.data.text_length})
    if buckets[-1] != settings.data.text_length:
        raise ConfigError(f"config.data.text_buckets: {buckets[-1]} exceeds data.text_length "
                          f"{settings.data.text_length}")
    lengths = None
    if len(buckets) > 1:
        lengths = [text_lengths(source, tokenizer, spec, split=split,
                                folder=prepared.find_version(folder),
                                write=jax.process_index() == 0)
                   for source, (folder, split, _) in zip(sources, parts, strict=True)]
    stream = Stream([len(source) for source in sources], weights=[w for *_, w in parts],
                    batch_size=settings.batch_size, seed=settings.seed, buckets=buckets,
                    lengths=lengths)
    if lengths:
        for length, (number, padding) in stream.padding(WINDOW).items():
            LOG.info("text length %d: %d of the first %d batches, %.0f %% padding", length, number,
                     WINDOW, 100 * padding)
    features, replaced = [], []
    if settings.data.features:
        opened = caches(settings, model, spec)
        replaced = [TOWERS[cache.tower].image for cache in opened[0]]
        features = [{TOWERS[cache.tower].features: cache.open(settings.data.features, len(source))
                     for cache in row} for row, source in zip(opened, sources, strict=True)]
    return loader.Rows(
        stream, sources, [f"{folder} {split}" for folder, split, _ in parts],
        prepare=functools.partial(training_example, tokenizer, spec),
        blank=functools.partial(blank_example, tokenizer, spec),
        places=places, features=features, replaced=replaced)


def _check_labels(parts: Sequence[tuple[str, str, float]], model: LegionConfig) -> None:
    """Raise ClassError where photos of a `mixture` have a label without a class of the verdict."""
    taken = {}
    for folder, split, _ in parts:
        labels = manifest.known_labels(prepared.find_version(folder), split)
        verdict_classes.check_labels(labels, model.classes, f"{folder}, split {split}")
        taken |= verdict_classes.renamed(labels, model.classes)
    for label, name in taken.items():
        LOG.info("verdict: photos labelled %s are learned as the class %s", label, name)


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
