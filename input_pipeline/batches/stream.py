"""Which records make up which batch: pure functions of a seed and a step, no records read.

A stream is endless: every data set is shuffled anew each epoch and gone through completely; data
sets take turns in proportion to their weights. Batches are cut from windows of the stream. Within a
window, rows are sorted by the length of their text, so that a batch holds texts of about one length
and its padding is small; then the batches of the window are shuffled. Each row is used exactly once
whatever the sorting, and nothing depends on how many hosts share the work.
"""

import dataclasses
import functools
import threading
from collections.abc import Sequence

import grain
import numpy as np

from input_pipeline.errors import UserError

WINDOW = 64  # batches that are sorted together
KEPT_WINDOWS = 4


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a batch: record `index` of data set `source`, at a text length of `length`."""

    source: int
    index: int
    length: int


class Stream:
    """Rows of every batch.

    Args:
        sizes: number of records per data set; weights: their shares, any positive numbers.
        batch_size: global.
        buckets: ascending text lengths a batch may have; the last must fit every text, or cuts it.
        lengths: per data set int[N], the length of every record's text; None with one bucket.
    """

    def __init__(self, sizes: Sequence[int], *, weights: Sequence[float], batch_size: int,
                 seed: int, buckets: Sequence[int],
                 lengths: Sequence[np.ndarray] | None = None):
        _check(sizes, weights, buckets, lengths)
        self.batch_size, self._seed = batch_size, seed
        self._windows, self._lock = {}, threading.Lock()
        self._buckets = np.asarray(buckets)
        # A text that is longer than the last bucket is cut there.
        self._lengths = lengths and [np.minimum(x, buckets[-1]) for x in lengths]
        rows = [grain.MapDataset.range(n).seed(seed + number).shuffle().repeat().map(
            functools.partial(_with_source, number)) for number, n in enumerate(sizes)]
        self._rows = rows[0] if len(rows) == 1 else grain.MapDataset.mix(
            rows, [w / sum(weights) for w in weights])

    def row(self, step: int, place: int) -> Row:
        """Row `place` of batch `step`."""
        if self._lengths is None:
            source, index = self._rows[step * self.batch_size + place]
            return Row(source, index, int(self._buckets[0]))
        window, number = self._window(step // WINDOW), step % WINDOW
        source, index = window.rows[window.batches[number, place]]
        return Row(int(source), int(index), int(window.padded[number]))

    def padding(self, steps: int) -> dict[int, tuple[int, float]]:
        """{text length: (batches, share of padding)} over the first `steps` batches."""
        used: dict[int, list[int]] = {}
        for step in range(steps):
            window, number = self._window(step // WINDOW), step % WINDOW
            taken = window.lengths[window.batches[number]]
            used.setdefault(int(window.padded[number]), []).append(int(taken.sum()))
        return {length: (len(sums), 1 - sum(sums) / (len(sums) * self.batch_size * length))
                for length, sums in sorted(used.items())}

    def _window(self, number: int) -> "_Window":
        with self._lock:  # threads share it, and one makes it while the others wait
            if (window := self._windows.get(number)) is None:
                window = self._windows[number] = self._make_window(number)
                for old in sorted(self._windows)[:-KEPT_WINDOWS]:
                    del self._windows[old]
            return window

    def _make_window(self, number: int) -> "_Window":
        count = WINDOW * self.batch_size
        rows = np.array([self._rows[i] for i in range(number * count, (number + 1) * count)])
        lengths = np.empty(count, np.int64)
        for source, known in enumerate(self._lengths):
            own = rows[:, 0] == source
            lengths[own] = known[rows[own, 1]]
        batches = np.argsort(lengths, kind="stable").reshape(WINDOW, self.batch_size)
        batches = np.random.default_rng([self._seed, number]).permutation(batches)
        padded = self._buckets[np.searchsorted(self._buckets, lengths[batches].max(axis=1))]
        return _Window(rows, lengths, batches, padded)

    def __getstate__(self) -> dict:
        """Worker processes make their own windows."""
        return self.__dict__ | {"_lock": None, "_windows": {}}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


@dataclasses.dataclass(frozen=True)
class _Window:
    """Batches that are sorted together.

    Attributes:
        rows: int[W * B, 2], (source, index) of each; lengths: int[W * B], of their texts.
        batches: int[W, B], which of the rows make up each batch.
        padded: int[W], the text length of each batch.
    """

    rows: np.ndarray
    lengths: np.ndarray
    batches: np.ndarray
    padded: np.ndarray


def _with_source(source: int, index: int) -> tuple[int, int]:
    return source, index


def _check(sizes, weights, buckets, lengths) -> None:
    if not sizes or not all(sizes):
        raise UserError("training split: it holds no records")
    if len(weights) != len(sizes) or not all(w > 0 for w in weights):
        raise UserError(f"weights: one positive number per data set, got {list(weights)} for "
                        f"{len(sizes)}")
    if not buckets or list(buckets) != sorted(set(buckets)) or not all(
            type(length) is int and length > 0 for length in buckets):
        raise UserError(f"text_buckets: ascending whole lengths, got {list(buckets)}")
    if len(buckets) > 1 and lengths is None:
        raise UserError("text_buckets: several buckets need the length of every text")
