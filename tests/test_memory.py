"""legion_jax/memory.py: what is a lack of memory, and the sentence that is made of it."""

import re

import commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stored_params

from input_pipeline.errors import UserError
from legion_jax import memory
from legion_jax.config import tiny
from legion_jax.memory import OutOfMemoryError
from legion_jax.weights import checkpoint, legion_json
from legion_jax.weights.run_checkpoints import RunCheckpoints

XLA = jax.errors.JaxRuntimeError
GPU = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 34359738368 bytes."


def sentence(error: BaseException) -> str:
    with pytest.raises(OutOfMemoryError) as raised, memory.told("testing", "less of it"):
        raise error
    assert raised.value.__cause__ is error
    return str(raised.value)


@pytest.mark.parametrize("error, asked", [
    (XLA(GPU), "32.0 GiB were asked for"),
    (XLA("RESOURCE_EXHAUSTED: Out of memory allocating 1536 bytes."), "1.5 KiB were asked for"),
    (XLA("RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 4.00G. That "
         "was not possible. There are 3.07G free.; (0x0x0_HBM0)"), "4.0 GiB were asked for"),
    (XLA("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
         "hbm. Used 20.11G of 15.48G hbm. Exceeded hbm capacity by 4.63G."),
     "20.1 GiB were asked for"),
    (XLA("RESOURCE_EXHAUSTED: Out of memory"), "RESOURCE_EXHAUSTED: Out of memory; "),
    (MemoryError("Unable to allocate 8.00 MiB for an array with shape (1048576,)"),
     "8.0 MiB were asked for"),
    (MemoryError(), "MemoryError; "),
    (OSError(12, "Cannot allocate memory"), "[Errno 12] Cannot allocate memory; "),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes. "
                  "Error code 12 (Cannot allocate memory)"), "4.0 KiB were asked for")])
def test_what_was_asked_for(error, asked):
    text = sentence(error)
    assert text.startswith(f"out of memory while testing: {asked}")
    assert re.search(r"; this machine has [\d.]+ GiB, of which [\d.,]+ [GM]iB are free.*\. Less is "
                     r"taken by less of it$", text)


@pytest.mark.parametrize("error", [
    XLA("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20.11M of 16.00M vmem."),
    XLA("RESOURCE_EXHAUSTED: Shared memory size limit exceeded: requested 300000 bytes"),
    XLA("RESOURCE_EXHAUSTED: quota exceeded"), XLA("INTERNAL: allocation of a barrier"),
    RuntimeError("no such thing"), ValueError("allocate 5 bytes"), OSError(2, "no such file"),
    UserError("named already"), OutOfMemoryError("out of memory while compiling")])
def test_what_is_none_passes_as_it_is(error):
    with pytest.raises(type(error)) as raised, memory.told("testing", "less"):
        raise error
    assert raised.value is error


def test_what_libraries_wrap_is_found_and_what_users_are_told_stays():
    def wrapped(error, outer):
        try:
            raise outer from error
        except type(outer) as raised:
            return raised

    assert memory.explained(wrapped(XLA(GPU), RuntimeError("a task failed")), "x", "y")
    assert not memory.explained(wrapped(MemoryError(), UserError("photo 3: too large")), "x", "y")


def test_the_fullest_device_is_named(monkeypatch):
    class Device:
        def __init__(self, name, used):
            self.name, self.used = name, used

        def memory_stats(self):
            return {"bytes_limit": 80 << 30, "bytes_in_use": self.used << 30}

        def __str__(self):
            return self.name

    monkeypatch.setattr(jax, "local_devices", lambda: [Device("cuda:0", 5), Device("cuda:1", 70)])
    assert "; each device has 80.0 GiB, and cuda:1 holds 70.0 GiB of them now. " in sentence(
        XLA(GPU))
    assert "this machine has" in sentence(MemoryError())  # the host's own


def test_more_than_there_is_of_the_device():
    with pytest.raises(OutOfMemoryError, match="1,048,576.0 GiB were asked for"):
        with memory.told("testing", "less"):
            jnp.zeros(2**50, jnp.int8)


@pytest.fixture
def stored(tmp_path):
    """A converted checkpoint of one parameter, and its shape on one device."""
    legion_json.write_meta(tmp_path, tiny(), base=None, trained=[])
    stored_params.save_params(tmp_path, {"language/head/kernel": np.zeros((4, 4), np.float32)})
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return tmp_path, {"language/head/kernel": jax.ShapeDtypeStruct(
        (4, 4), np.float32, sharding=device)}


def fail(error):
    def raise_it(*_, **__):
        raise error
    return raise_it


def test_weights_that_do_not_fit_are_not_called_damaged(stored, monkeypatch):
    folder, shapes = stored
    opened = checkpoint.Checkpoint.open(folder)
    assert opened.load(shapes)
    monkeypatch.setattr(checkpoint.ocp, "load", fail(XLA(GPU)))
    with pytest.raises(OutOfMemoryError, match=f"while loading {folder}/params: 32.0 GiB were"):
        opened.load(shapes)
    monkeypatch.setattr(checkpoint.ocp, "load", fail(XLA("DATA_LOSS: a byte is missing")))
    with pytest.raises(checkpoint.CheckpointError, match="damaged or incomplete"):
        opened.load(shapes)


def test_nor_is_a_checkpoint_of_a_run(tmp_path, monkeypatch):
    writer = RunCheckpoints(tmp_path, every=1, keep=1)
    tree = {"a": jnp.zeros(3)}
    writer.save(1, tree, {"m": tree})
    writer.close()
    reader = RunCheckpoints(tmp_path, every=1, keep=1)
    monkeypatch.setattr(reader._orbax, "load_checkpointables", fail(MemoryError()))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = {"a": jax.ShapeDtypeStruct((3,), np.float32, sharding=device)}
    with pytest.raises(OutOfMemoryError, match="while loading .*/checkpoints/1: MemoryError"):
        reader.restore(shapes, {"m": shapes})
    reader.close()


LIMITED = """
import resource
import numpy as np
from legion_jax import command
def limit(room):
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + room, taken + room))
"""
ALLOCATING = """
def main():
    limit(64 << 20)
    np.ones(1 << 30, np.uint8)
command.run(main)
"""
LOADING = """
import jax
from legion_jax.weights.checkpoint import Checkpoint
device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
def shapes(*names):
    return {f"language/{name}": jax.ShapeDtypeStruct(opened.entries[f"language/{name}"].shape,
                                                     np.float32, sharding=device)
            for name in names}
def main():
    global opened
    opened = Checkpoint.open(FOLDER)
    opened.load_some(shapes("embed/embedding"))  # starts all threads
    limit(300 << 20)
    opened.load(shapes("embed/embedding", "head/kernel"))
command.run(main)
"""


def limited_to(code, doing):
    """The command ends in a sentence on 1 GiB, by a limit that the system set."""
    done = commands.run_tool(commands.CODE, LIMITED + code, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    (line,) = done.stderr.splitlines()
    assert re.match(rf"error: out of memory while {doing}: 1\.0 GiB were asked for; this machine "
                    r"has .* free, and this process may take [\d.]+ [MG]iB\. Less", line), line


def test_a_command_without_room_ends_in_one_sentence():
    limited_to(ALLOCATING, "at work")


@pytest.mark.slow
def test_weights_that_really_do_not_fit(tmp_path):
    legion_json.write_meta(tmp_path, tiny(), base=None, trained=[])
    stored_params.save_params(tmp_path, {
        "language/head/kernel": np.zeros((1 << 14, 1 << 14), np.float32),
        "language/embed/embedding": np.zeros((4, 4), np.float32)})
    limited_to(LOADING.replace("FOLDER", repr(str(tmp_path))), f"loading {tmp_path}/params")
