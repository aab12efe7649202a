"""Checkpoints of a run in a bucket, where a step has its name before it is complete."""

import json

import bucket_server
import jax.numpy as jnp
import pytest
from bucket_server import objects

from legion_jax.weights import checkpoint
from legion_jax.weights.checkpoint import CheckpointError
from legion_jax.weights.run_checkpoints import RunCheckpoints

server, bucket = bucket_server.server, bucket_server.bucket


def save(run, *steps):
    writer = RunCheckpoints(run, every=1, keep=10)
    for step in steps:
        writer.save(step, {"a": jnp.full(3, step)}, {"m": jnp.zeros(3)})
    writer.close()


def begin(run, step, **metadata):
    """What a run leaves that is killed while it writes."""
    folder = run / "checkpoints" / str(step)
    (folder / "_CHECKPOINT_METADATA").write_text(json.dumps(metadata))
    (folder / "params" / "d" / "0").write_bytes(b"half")


def test_an_unfinished_step_is_not_read_and_makes_room_for_the_whole_one(bucket):
    save(bucket, 1, 2)
    begin(bucket, 3, commit_timestamp_nsecs=None)
    assert checkpoint.latest_step(bucket) == 2
    whole = {name for name in objects(bucket) if not name.startswith("checkpoints/3/")}
    save(bucket, 3)
    assert checkpoint.latest_step(bucket) == 3
    assert whole < set(objects(bucket)) and "checkpoints/3/params/d/0" not in objects(bucket)


def test_a_run_that_was_killed_in_its_first_write_begins_anew(bucket):
    begin(bucket, 1, commit_timestamp_nsecs=None)
    assert checkpoint.latest_step(bucket) is None
    checkpoint.remove_unfinished(bucket)
    assert objects(bucket) == {}


def test_copied_steps_that_lack_the_last_file_are_refused_and_stay(bucket):
    save(bucket, 1, 2)
    for step in (1, 2):
        (bucket / "checkpoints" / str(step) / checkpoint.COMMITTED).unlink()
    before = objects(bucket)
    with pytest.raises(CheckpointError, match="checkpoints/2: has no commit_success.txt, but was"):
        RunCheckpoints(bucket, every=1, keep=10)
    assert objects(bucket) == before


def test_of_a_copy_that_has_one_whole_step_only_what_is_not_whole_goes(bucket):
    save(bucket, 1, 2)
    (bucket / "checkpoints" / "2" / checkpoint.COMMITTED).unlink()  # killed just before
    assert checkpoint.latest_step(bucket) == 1
    checkpoint.remove_unfinished(bucket)
    assert {name.split("/")[1] for name in objects(bucket)} == {"1"}
