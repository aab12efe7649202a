"""Global batches are the same on 1, 2 and 4 real processes, and after a restart on others."""

import hashlib
import pathlib

import pytest
import several_hosts
import small_data

from input_pipeline.batches import loader
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax import sharding

BATCHES, RESUMED = 50, 17
data = small_data.data


def digests(root: str, start: int, workers: int = 0) -> list[list[str]]:
    """Per batch from `start` on, a hash of each row of this process."""
    folder = pathlib.Path(root)
    config = small_data.make_config(folder, text_buckets=(200,), workers=workers)
    mesh = sharding.make_mesh((4, 1, 2))  # of eight devices, those of one host side by side
    dataset = small_data.open_batches(
        config, Tokenizer.from_folder(folder / "tokenizer"),
        places=sharding.local_rows(mesh, config.batch_size))
    batches = loader.iterate(dataset, start, threads=2, workers=workers, buffer=2)
    return [_hashes(next(batches)) for _ in range(start, BATCHES)]


def _hashes(batch: dict) -> list[str]:
    rows = len(batch["bad"])
    return [hashlib.sha256(b"".join(batch[name][row].tobytes() for name in sorted(batch)))
            .hexdigest() for row in range(rows)]


def together(parts: list[list[list[str]]]) -> list[list[str]]:
    """Global batches from those of every process, in the order of the processes."""
    return [sum(rows, []) for rows in zip(*parts, strict=True)]


@pytest.fixture(scope="module")
def alone(data):
    return digests(str(data), 0)


@pytest.mark.parametrize("hosts", [2, 4])
def test_fifty_batches_on_several_processes(data, alone, hosts):
    parts = several_hosts.run(digests, str(data), 0, hosts=hosts)
    assert {len(rows) for part in parts for rows in part} == {4 // hosts}
    assert together(parts) == alone
    assert len({row for batch in alone for row in batch}) == 24  # records, no two alike


def test_a_resumed_run_on_more_processes_sees_the_same_batches(data, alone):
    parts = several_hosts.run(digests, str(data), RESUMED, 2, hosts=2)
    assert together(parts) == alone[RESUMED:]


def rows_held(*meshes) -> list[list[int]]:
    """Per mesh, which of eight rows this process holds, through a global array and back."""
    held = []
    for shape in meshes:
        mesh = sharding.make_mesh(shape)
        rows = sharding.local_rows(mesh, 8)
        whole = sharding.from_local_rows(mesh, {"rows": rows}, 8)["rows"]
        for shard in whole.addressable_shards:
            assert shard.data.tolist() == list(range(8))[shard.index[0]]
        held.append(rows.tolist())
    return held


def test_hosts_that_share_rows_hold_the_same():
    """A tensor or sequence axis over all devices splits no batch between the hosts."""
    first, second = several_hosts.run(rows_held, (1, 8, 1), (1, 1, 8),
                                      (1, 1, 1, 8), (1, 2, 4), (1, 2, 1, 4))
    everything = list(range(8))
    assert first == [everything[:4], everything, everything, everything[:4], everything[:4]]
    assert second == [everything[4:], everything, everything, everything[4:], everything[4:]]
