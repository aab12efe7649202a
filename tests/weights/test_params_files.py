"""Parameters a piece at a time: slices in any order, and each host its own bytes."""

import pathlib
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import several_hosts
import stored_params
import torch

from legion_jax import sharding
from legion_jax.config import tiny
from legion_jax.convert.torch_file import TorchWriter
from legion_jax.weights import checkpoint, legion_json, params_files, tensor_file

SHAPES = {"matrix": ((3, 5), "bfloat16"), "scalar": ((), "float32"), "empty": ((0, 4), "float16"),
          "stack": ((2, 3, 4), "float32")}


def values():
    rng = np.random.default_rng(0)
    return {name: np.asarray(rng.normal(size=shape)).astype(tensor_file.numpy_dtype(dtype))
            for name, (shape, dtype) in SHAPES.items()}


def test_safetensors_written_in_slices_and_backwards(tmp_path):
    wanted = values()
    with tensor_file.SafetensorsWriter(tmp_path / "a.safetensors", SHAPES) as writer:
        for name in reversed(SHAPES):
            if name == "stack":
                for index in ((1,), (0, 2), (0, 0), (0, 1)):
                    writer.write(name, wanted[name][index], index)
            else:
                writer.write(name, wanted[name])
    back = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    reader = tensor_file.SafetensorsReader(tmp_path / "a.safetensors")
    assert reader.tensors == SHAPES
    for name, value in wanted.items():
        np.testing.assert_array_equal(back[name], value)
        np.testing.assert_array_equal(reader.read(name), value)
    np.testing.assert_array_equal(reader.read("stack", (1, 2)), wanted["stack"][1, 2])


def test_bin_is_what_torch_reads(tmp_path):
    wanted = values()
    with TorchWriter(tmp_path / "a.bin", SHAPES) as writer:
        for name in reversed(SHAPES):
            writer.write(name, wanted[name])
    assert zipfile.ZipFile(tmp_path / "a.bin").testzip() is None  # checksums
    for mmap in (True, False):
        state = torch.load(tmp_path / "a.bin", weights_only=True, mmap=mmap)
        assert list(state) == list(SHAPES)
        for name, value in wanted.items():
            assert tuple(state[name].shape) == value.shape
            np.testing.assert_array_equal(state[name].float().numpy(), value.astype(np.float32))


@pytest.mark.parametrize("writer", [tensor_file.SafetensorsWriter, TorchWriter])
def test_what_was_not_laid_out_is_refused(tmp_path, writer):
    with writer(tmp_path / "a", SHAPES) as file:
        with pytest.raises(ValueError, match=r"matrix: bfloat16 \(5, 3\) written to"):
            file.write("matrix", np.zeros((5, 3), ml_dtypes.bfloat16))
        with pytest.raises(ValueError, match=r"matrix: float32 \(3, 5\) written to"):
            file.write("matrix", np.zeros((3, 5), np.float32))


def bytes_read_by_this_host(folder: str) -> list[float]:
    """Loading on eight devices: [bytes this process read, bytes its shards hold, largest error]."""
    def consumed():
        lines = pathlib.Path("/proc/self/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["rchar"])

    mesh = sharding.make_mesh((1, 8, 1))
    abstract = sharding.shard_abstract(
        {p: jax.ShapeDtypeStruct(a.shape, a.dtype) for p, a in
         checkpoint.Checkpoint.open(folder).entries.items()}, mesh)
    before = consumed()
    params = checkpoint.Checkpoint.open(folder).load(abstract)
    after = consumed()
    reader = params_files.Reader(checkpoint.Checkpoint.open(folder))
    worst, held = 0.0, 0
    for path, array in params.items():
        whole = reader.read(path)
        for index, shard in {str(s.index): s for s in array.addressable_shards}.items():
            assert index
            held += shard.data.nbytes
            worst = max(worst, float(np.abs(np.asarray(shard.data) - whole[shard.index]).max()))
    return [after - before, held, worst]


def test_each_of_several_hosts_reads_its_own_shards(tmp_path):
    rng = np.random.default_rng(0)
    # Rows of `down` are split: long enough that what lies between is more than a page.
    params = {"language/layers/gate/kernel": rng.normal(size=(4, 512, 1024)),
              "language/layers/down/kernel": rng.normal(size=(2, 600, 4096)),
              "language/norm/scale": rng.normal(size=512)}
    params = {path: value.astype(np.float32) for path, value in params.items()}
    stored_params.save_params(tmp_path, params)
    legion_json.write_meta(tmp_path, tiny(), base=None, trained=[])
    total = sum(value.nbytes for value in params.values())
    for read, held, worst in several_hosts.run(bytes_read_by_this_host,
                                               str(tmp_path)):
        assert worst == 0
        assert held < 0.51 * total
        assert held <= read < 1.02 * held
