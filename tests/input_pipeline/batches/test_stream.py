"""Which rows make a batch: everything once, by weight, by length, and the same for every host."""

import numpy as np
import pytest

from input_pipeline.batches.stream import WINDOW, Stream
from input_pipeline.errors import UserError


def batch(stream, step):
    return [stream.row(step, place) for place in range(stream.batch_size)]


def make(sizes=(50,), weights=(1.0,), batch_size=4, seed=3, buckets=(100,), lengths=None):
    return Stream(list(sizes), weights=list(weights), batch_size=batch_size, seed=seed,
                  buckets=list(buckets), lengths=lengths)


@pytest.fixture(scope="module")
def lengths():
    return np.random.default_rng(0).integers(10, 99, 50)


@pytest.mark.parametrize("bucketed", [False, True])
def test_every_epoch_covers_everything_once(lengths, bucketed):
    options = {"buckets": (40, 70, 100), "lengths": [lengths]} if bucketed else {}
    stream = make(**options)
    # A whole number of windows and of epochs: lcm(50 records, 64 * 4 rows) rows.
    steps = 25 * WINDOW
    counts = np.bincount([row.index for step in range(steps) for row in batch(stream, step)])
    assert counts.tolist() == [steps * 4 // 50] * 50


def test_epochs_differ_and_repeat():
    first, again, other = make(), make(), make(seed=4)
    rows = [batch(s, 7) for s in (first, again, other)]
    assert rows[0] == rows[1] != rows[2]
    assert [r.index for r in batch(first, 0)] != [r.index for r in batch(first, 25)]


def test_steps_may_be_asked_in_any_order(lengths):
    options = {"buckets": (40, 70, 100), "lengths": [lengths]}
    forwards, backwards = make(**options), make(**options)
    steps = [0, 1, 63, 64, 65, 500, 1000]
    there = {step: batch(forwards, step) for step in steps}
    assert {step: batch(backwards, step) for step in reversed(steps)} == there


def test_a_batch_has_one_length_that_fits_all_its_texts(lengths):
    stream, seen = make(buckets=(40, 70, 100), lengths=[lengths]), set()
    for step in range(2 * WINDOW):
        rows = batch(stream, step)
        (length,) = {row.length for row in rows}
        longest = max(lengths[row.index] for row in rows)
        assert length == min(b for b in (40, 70, 100) if b >= longest)
        seen.add(length)
    assert seen == {40, 70, 100}


def test_sorting_saves_padding(lengths):
    padding = make(buckets=(40, 70, 100), lengths=[lengths]).padding(WINDOW)
    assert sum(number for number, _ in padding.values()) == WINDOW
    whole = 1 - lengths.mean() / 100
    assert sum(n * share * length for length, (n, share) in padding.items()) < (
        0.6 * WINDOW * whole * 100)


class Counted(np.ndarray):
    """Lengths that count how many of them were read."""

    reads = 0

    def __getitem__(self, index):
        read = super().__getitem__(index)
        Counted.reads += np.size(read)
        return read


def test_the_length_of_a_text_is_read_once_a_window(lengths, monkeypatch):
    monkeypatch.setattr(Counted, "reads", 0)
    size = 64
    stream = make(batch_size=size, buckets=(40, 70, 100), lengths=[lengths.view(Counted)])
    for step in range(2 * WINDOW):
        batch(stream, step)
    # By every row of a batch anew that were 4,160 reads for a step of 64 rows.
    assert Counted.reads == 2 * WINDOW * size


def test_a_text_beyond_the_last_bucket_is_cut_there():
    stream = make(sizes=(4,), buckets=(10, 20), lengths=[np.array([5, 5, 5, 999])])
    used = [stream.row(step, 0).length for step in range(WINDOW)]
    assert (used.count(10), used.count(20)) == (48, 16)  # 64 of 256 texts are too long


def test_data_sets_take_turns_by_weight():
    stream = make(sizes=(30, 10, 500), weights=(3, 1, 4), batch_size=8)
    rows = [row for step in range(200) for row in batch(stream, step)]
    shares = np.bincount([row.source for row in rows]) / len(rows)
    np.testing.assert_allclose(shares, [3 / 8, 1 / 8, 4 / 8], atol=0.01)
    small = np.bincount([row.index for row in rows if row.source == 1])
    assert small.max() - small.min() <= 1  # an epoch of its own, gone through completely


@pytest.mark.parametrize("options, message", [
    ({"sizes": ()}, "no records"), ({"sizes": (5, 0), "weights": (1, 1)}, "no records"),
    ({"weights": (0,)}, "one positive number"), ({"weights": (1, 1)}, "one positive number"),
    ({"buckets": (20, 10)}, "ascending"), ({"buckets": ()}, "ascending"),
    ({"buckets": (10, 20)}, "need the length")])
def test_what_no_stream_can_be_made_of(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)
