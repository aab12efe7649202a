"""Weights files and checkpoint folders from anybody: refused by name, before they take anything."""

import io
import json
import os
import pickle
import signal
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from legion_jax.convert.tensor_folder import TensorFolder
from legion_jax.convert.torch_pickle import problem_of
from legion_jax.weights.checkpoint_error import CheckpointError

torch = pytest.importorskip("torch")
STATE = {"a": torch.arange(4.0), "b": torch.zeros(2, 3, dtype=torch.bfloat16),
         "c": torch.nn.Parameter(torch.ones(2)), "d": torch.arange(3), "e": torch.zeros(5)[1:3]}


def saved(state, **options) -> bytes:
    content = io.BytesIO()
    torch.save(state, content, **options)
    return content.getvalue()


def rewritten(state, change, compression=zipfile.ZIP_STORED) -> bytes:
    """A weights file with records changed: `change(name, content) -> content`."""
    content = io.BytesIO()
    inside = zipfile.ZipFile(io.BytesIO(saved(state)))
    with zipfile.ZipFile(content, "w", compression) as out:
        for record in inside.infolist():
            out.writestr(record.filename, change(record.filename, inside.read(record.filename)))
    return content.getvalue()


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_files_of_pytorch_are_read(tmp_path, options):
    (tmp_path / "pytorch_model.bin").write_bytes(saved(STATE, **options))
    assert problem_of(tmp_path / "pytorch_model.bin") is None
    folder = TensorFolder(tmp_path)
    np.testing.assert_array_equal(folder.read("a"), [0, 1, 2, 3])


@pytest.mark.parametrize("call", [
    Calls(bytearray, 3_000_000_000), Calls(os.system, "touch ran"), Calls(eval, "1"),
    Calls(np.zeros, 5)])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("is_archive", [True, False])
def test_pickles_hold_tensors_and_nothing_else(tmp_path, call, protocol, is_archive):
    evil = pickle.dumps({"a": call}, protocol)
    content = rewritten(STATE, lambda name, content: evil if name.endswith(".pkl") else content
                        ) if is_archive else saved({"a": torch.zeros(1)},
                                                   _use_new_zipfile_serialization=False)
    if not is_archive:  # the third pickle tells of the system
        first = io.BytesIO(content)
        for _ in range(3):
            pickle.load(first)
        content = content[:first.tell()] + evil
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match="it holds more than tensors: |another protocol than"):
        TensorFolder(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_another_spelling_is_looked_at_too(tmp_path):
    """PyTorch's reader finds records whatever their case."""
    content = io.BytesIO()
    inside = zipfile.ZipFile(io.BytesIO(saved(STATE)))
    with zipfile.ZipFile(content, "w") as out:
        for record in inside.infolist():
            is_pickle = record.filename.endswith(".pkl")
            out.writestr(record.filename.replace("data.pkl", "DATA.PKL"), pickle.dumps(
                {"a": Calls(bytearray, 10)}, 2) if is_pickle else inside.read(record.filename))
    (tmp_path / "pytorch_model.bin").write_bytes(content.getvalue())
    with pytest.raises(CheckpointError, match="it holds more than tensors: "):
        TensorFolder(tmp_path)


def test_records_that_inflate_are_refused(tmp_path):
    content = rewritten(STATE, lambda name, content: bytes(1 << 26) if name.endswith("byteorder")
                        else content, zipfile.ZIP_DEFLATED)
    assert len(content) < 1 << 20
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match="a compressed archive"):
        TensorFolder(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "other.pth"])
@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_what_is_no_plain_file_is_refused(tmp_path, name, kind):
    {"device": lambda path: path.symlink_to("/dev/zero"), "pipe": os.mkfifo,
     "folder": os.mkdir}[kind](tmp_path / name)
    signal.alarm(20)
    with pytest.raises(CheckpointError, match="not a plain file|no weights file"):
        TensorFolder(tmp_path)
    signal.alarm(0)


def test_a_link_to_a_plain_file_is_followed(tmp_path):
    """As in a download cache."""
    safetensors.numpy.save_file({"a": np.ones(3)}, tmp_path / "blob")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").symlink_to(tmp_path / "blob")
    assert list(TensorFolder(tmp_path / "folder").entries) == ["a"]


@pytest.mark.parametrize("claimed", [1 << 26, (1 << 63) - 1, (1 << 64) - 1])
def test_a_header_that_claims_too_much(tmp_path, claimed):
    (tmp_path / "model.safetensors").write_bytes(claimed.to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match=f"claims {claimed} bytes, limit"):
        TensorFolder(tmp_path)


def test_a_million_tensors_end_soon(tmp_path):
    header = json.dumps({str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
                         for n in range(1_000_000)}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="limit"):
        TensorFolder(tmp_path)
