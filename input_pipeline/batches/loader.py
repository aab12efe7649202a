"""Fixed-shape batches by grain: `batch(step)` is a pure function of the seed and the step.

Nothing about the position in the data has to be saved: a restarted run, on any number of hosts,
asks for the step it is at.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np
from absl import flags

from input_pipeline.batches.stream import Stream
from input_pipeline.errors import UserError
from input_pipeline.records.record import Record, RecordError

LOG = logging.getLogger("input_pipeline")
ENDLESS = 1 << 40


@dataclasses.dataclass(frozen=True)
class Rows:
    """This host's rows, batch after batch.

    A record that cannot be used is named in the log and replaced by a row that no loss counts, so
    that the other rows and all other hosts are what they would have been.

    Attributes:
        sources: random-access records of every data set; names: what the log calls them.
        prepare: (record, text length) -> an example, see `batches.examples`.
        blank: text length -> the example in place of a record that cannot be used.
        features: per data set {name: [N, ...]}, added to its rows; replaced: what goes for them.
        places: which rows of every global batch are this host's; None for all.
    """

    stream: Stream
    sources: Sequence[Sequence[Record]]
    names: Sequence[str]
    prepare: Callable[[Record, int], dict[str, np.ndarray]]
    blank: Callable[[int], dict[str, np.ndarray]]
    places: Sequence[int] | None = None
    features: Sequence[dict[str, np.ndarray]] = ()
    replaced: Sequence[str] = ()

    @property
    def per_host(self) -> int:
        return self.stream.batch_size if self.places is None else len(self.places)

    def __len__(self) -> int:
        return ENDLESS * self.per_host

    def __getitem__(self, number: int) -> dict:
        step, row = divmod(number, self.per_host)
        chosen = self.stream.row(step, row if self.places is None else int(self.places[row]))
        try:
            example = self.prepare(self.sources[chosen.source][chosen.index], chosen.length)
        except (UserError, RecordError) as error:
            LOG.warning("step %d: record %d of %s left out: %s", step, chosen.index,
                        self.names[chosen.source], " ".join(str(error).split())[:300])
            example = self.blank(chosen.length)
        for name in self.replaced:
            del example[name]
        for name, values in (self.features[chosen.source] if self.features else {}).items():
            example[name] = np.asarray(values[chosen.index])
        return example


def train_batches(rows: Rows) -> grain.MapDataset:
    """This host's part of every batch, by step."""
    return grain.MapDataset.source(rows).batch(rows.per_host, drop_remainder=True)


def iterate(dataset: grain.MapDataset, start: int, *, threads: int = 2, workers: int = 0,
            buffer: int = 2) -> Iterator[dict]:
    """Batches from step `start` on, prepared ahead.

    Args:
        threads: that prepare rows in this process, or in each worker.
        workers: processes; 0 prepares in this one.
        buffer: batches that wait in each worker at most, which bounds their memory.
    """
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * max(threads, 1))
    batches = dataset[start:].to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # grain reads flags of its own, even in a notebook
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(
            num_workers=workers, per_worker_buffer_size=buffer))
    return iter(batches)


def padded_batches(items: Sequence, size: int) -> Iterator[tuple[list, int]]:
    """Consecutive groups of `size` items; the last is filled with repeats of its first item.

    Yields (items, number that are real), so that every item is counted exactly once.
    """
    for start in range(0, len(items), size):
        group = [items[i] for i in range(start, min(start + size, len(items)))]
        real = len(group)
        yield group + [group[0]] * (size - real), real


def stack(examples: Sequence[dict]) -> dict[str, np.ndarray]:
    """Examples of equal shapes -> one batch."""
    return {key: np.stack([e[key] for e in examples]) for key in examples[0]}
