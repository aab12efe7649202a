"""Fixed-shape batches by grain: `batch(step)` is a pure function of the seed and the step.

Nothing about the position in the data has to be saved: a restarted run, on any number of hosts,
asks for the step it is at.
"""

from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np

from input_pipeline.errors import UserError


class _Prepare(grain.transforms.Map):
    """Adapter from a function to grain's transform type."""

    def __init__(self, function: Callable):
        self.function = function

    def map(self, element):
        return self.function(element)


def train_batches(source: Sequence, prepare: Callable, *, batch_size: int, seed: int,
                  process_index: int = 0, process_count: int = 1) -> grain.MapDataset:
    """Shuffled, repeated batches of this host's slice of every global batch.

    Args:
        source: random-access records; prepare: record -> dict of arrays.
        batch_size: global; every host yields batch_size / process_count rows.

    Raises:
        ValueError: for an empty source or a batch that hosts cannot share evenly.
    """
    if not len(source):
        raise UserError("training split: it holds no records")
    if batch_size % process_count:
        raise UserError(f"batch_size: {batch_size} rows cannot be shared evenly by "
                         f"{process_count} hosts")
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    dataset = dataset[process_index::process_count].map(_Prepare(prepare))
    return dataset.batch(batch_size // process_count, drop_remainder=True)


def iterate(dataset: grain.MapDataset, start: int, *, threads: int = 2) -> Iterator[dict]:
    """Batches from step `start` on, prepared ahead by a few threads."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * max(threads, 1))
    return iter(dataset[start:].to_iter_dataset(options))


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
