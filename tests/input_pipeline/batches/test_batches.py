"""Batches: the same for any number of hosts and after a restart; bad records replaced and named."""

import logging

import numpy as np
import pytest

from input_pipeline.batches import loader
from input_pipeline.batches.stream import Stream
from input_pipeline.errors import UserError
from input_pipeline.records.record import RecordError

LENGTHS = np.random.default_rng(0).integers(10, 99, 37)


class BrokenError(UserError):
    pass


def prepare(record, length):
    if record % 10 == 9:
        raise BrokenError(f"record {record}: torn")
    return {"value": np.array([record, length]), "ids": np.full(length, record), "bad": 0}


def blank(length):
    return {"value": np.array([-1, length]), "ids": np.full(length, -1), "bad": 1}


def rows(host=0, hosts=1, *, batch_size=8, sources=(range(37),)):
    stream = Stream([len(s) for s in sources], weights=[1.0] * len(sources), seed=1,
                    batch_size=batch_size, buckets=(40, 70, 100), lengths=[LENGTHS])
    names = [f"data/set{number} train" for number in range(len(sources))]
    share = batch_size // hosts
    places = None if hosts == 1 else range(host * share, (host + 1) * share)
    return loader.Rows(stream, list(sources), names, prepare, blank, places)


def global_batches(hosts, steps, start=0, **options):
    """Batches put together from the parts of every host, in the order of the devices."""
    parts = [loader.iterate(loader.train_batches(rows(h, hosts)), start, **options)
             for h in range(hosts)]
    for _ in range(steps):
        part = [next(p) for p in parts]
        yield {key: np.concatenate([p[key] for p in part]) for key in part[0]}


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("hosts", [2, 4])
def test_fifty_batches_are_the_same_on_any_number_of_hosts(hosts):
    assert_same(global_batches(1, 50), global_batches(hosts, 50))


def test_a_restart_on_other_hosts_goes_on_where_it_was():
    whole = list(global_batches(1, 50))
    assert_same(whole[17:], global_batches(2, 33, start=17))


def test_worker_processes_give_the_same_batches():
    assert_same(global_batches(1, 6), global_batches(1, 6, workers=2, threads=1))


def test_a_bad_record_is_named_counted_and_replaced(caplog):
    with caplog.at_level(logging.WARNING, "input_pipeline"):
        made = list(global_batches(1, 30))
    values = np.concatenate([batch["value"][:, 0] for batch in made])
    bad = np.concatenate([batch["bad"] for batch in made])
    assert bad.sum() > 5 and (bad == (values == -1)).all()
    assert len(caplog.messages) >= bad.sum()  # rows prepared ahead are named too
    assert all("torn" in message and "data/set0 train" in message for message in caplog.messages)
    assert {int(m.split("record ")[1].split(" ")[0]) for m in caplog.messages} == {9, 19, 29}


def test_a_damaged_file_is_a_bad_record_and_a_mistake_is_not():
    class Damaged:
        def __len__(self):
            return 37

        def __getitem__(self, index):
            raise (RecordError if index % 2 else TypeError)("chunk hash mismatch")

    source = rows(sources=(Damaged(),))
    with pytest.raises(TypeError):
        for place in range(50):
            assert source[place]["bad"] == 1

def test_padded_batches_count_everything_once():
    groups = list(loader.padded_batches(range(7), 3))
    assert groups == [([0, 1, 2], 3), ([3, 4, 5], 3), ([6, 6, 6], 1)]
