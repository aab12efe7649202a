"""Published checkpoints in and out: bit for bit, and by name where something is wrong."""

import dataclasses
import json
import pickle
import shutil

import numpy as np
import published
import pytest
import stored_params
import torch

from input_pipeline.files import FilesError
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax.convert import from_torch, to_torch
from legion_jax.convert.plan import Options
from legion_jax.convert.tensor_folder import TensorFolder
from legion_jax.models import param_tree
from legion_jax.weights import checkpoint, legion_json
from legion_jax.weights.checkpoint_error import CheckpointError


def convert(legion, clip, output, **changes):
    options = Options(sam=json.loads((legion / "sam_config.json").read_text()), **changes)
    return from_torch.convert(str(legion), str(output), clip=str(clip), options=options,
                              progress=False)


def assert_same_tensors(source, target):
    before, after = published.load(source), published.load(target)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert value.dtype == after[key].dtype, key
        assert torch.equal(value, after[key]), key


@pytest.mark.parametrize("dtype, suffix, shards", [
    ("bfloat16", ".bin", 2), ("float32", ".safetensors", 1), ("bfloat16", ".safetensors", 3),
    ("float16", ".bin", 1)])
def test_round_trip_is_bit_exact(sized, tmp_path, dtype, suffix, shards):
    legion, clip = published.make(tmp_path, sized, dtype=dtype, suffix=suffix, shards=shards)
    summary = convert(legion, clip, tmp_path / "jax")
    assert summary.unknown == []
    assert dataclasses.replace(summary.config, dtype=sized.dtype, remat=sized.remat) == sized
    to_torch.export(str(tmp_path / "jax"), str(tmp_path / "back"), progress=False)
    assert_same_tensors(legion, tmp_path / "back")
    assert_same_tensors(clip, tmp_path / "back" / "clip")
    for name in ("config.json", "tokenizer.model", "added_tokens.json"):
        assert (legion / name).read_bytes() == (tmp_path / "back" / name).read_bytes()
    assert sorted(p.name for p in legion.glob("*model*")) == sorted(
        p.name for p in (tmp_path / "back").glob("*model*"))


def test_export_of_a_model_from_scratch_reads_back(sized, folders, tmp_path):
    abstract = param_tree.abstract_params(sized)
    params = {p: np.random.default_rng(0).normal(size=a.shape).astype(np.float32)
              for p, a in abstract.items()}
    params["language/embed/embedding"][sized.language.vocab:] = 0
    params["language/head/kernel"][:, sized.language.vocab:] = 0
    folder = tmp_path / "scratch"
    folder.mkdir()
    stored_params.save_params(folder, params)
    Tokenizer.from_folder(folders[0]).save(folder / "tokenizer")
    legion_json.write_meta(folder, sized, base=None, trained=[])
    to_torch.export(str(folder), str(tmp_path / "out"), progress=False)
    convert(tmp_path / "out", tmp_path / "out" / "clip", tmp_path / "again")
    back = checkpoint.Checkpoint.open(tmp_path / "again").load(
        stored_params.as_stored(tmp_path / "again", abstract))
    for path, value in params.items():
        np.testing.assert_array_equal(np.asarray(back[path]), value, err_msg=path)


def copy(folders, tmp_path):
    legion, clip = (shutil.copytree(f, tmp_path / f.name) for f in folders)
    return legion, clip


def edit(folder, change):
    """Apply `change(state)` to the shard that holds the projector."""
    for file in folder.glob("*.bin"):
        state = torch.load(file, weights_only=True)
        if change(state):
            torch.save(state, file)


def drop_index(legion):
    next(legion.glob("*.index.json")).unlink()
    files = sorted(legion.glob("*.bin"))
    state = {}
    for file in files:
        state |= torch.load(file, weights_only=True)
        file.unlink()
    torch.save(state, legion / "pytorch_model.bin")


KEY = "model.mm_projector.0.weight"


@pytest.mark.parametrize("change, message", [
    (lambda s: s.pop(KEY, None) is not None, rf"{KEY}: missing"),
    (lambda s: KEY in s and s.__setitem__(KEY, s[KEY][:-1]) is None, rf"{KEY}: file \(47, 32\)"),
])
def test_missing_and_misshapen_tensors_are_named(folders, tmp_path, change, message):
    legion, clip = copy(folders, tmp_path)
    drop_index(legion)
    edit(legion, change)
    with pytest.raises(CheckpointError, match=message):
        convert(legion, clip, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip", "legion"]


def test_unknown_tensor_is_named_and_carried(folders, tmp_path):
    legion, clip = copy(folders, tmp_path)
    drop_index(legion)
    edit(legion, lambda s: s.__setitem__("model.novelty", torch.ones(2)) is None)
    assert convert(legion, clip, tmp_path / "out").unknown == ["model.novelty"]
    to_torch.export(str(tmp_path / "out"), str(tmp_path / "back"), progress=False)
    assert_same_tensors(legion, tmp_path / "back")


def test_files_and_config_that_disagree(folders, tmp_path):
    legion, clip = copy(folders, tmp_path)
    config = json.loads((legion / "config.json").read_text())
    (legion / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(CheckpointError,
                       match="num_hidden_layers 1 leaves no place for the 3 layers"):
        convert(legion, clip, tmp_path / "out")


@pytest.mark.parametrize("classes, message", [
    (["real"], "must be 2 names, as many as prediction_head.2.weight has rows, not ..real..$"),
    (["real", "synthetic", "tampered"], "must be 2 names"), (["real", 1], "must be 2 names"),
    ("ab", "must be 2 names"), (["fake", "Fake"], "every class needs a name of its own"),
    (["real", "authentic"], "more than one class means real")])
def test_classes_that_the_verdict_head_cannot_have(folders, tmp_path, classes, message):
    legion, clip = copy(folders, tmp_path)
    config = json.loads((legion / "config.json").read_text())
    (legion / "config.json").write_text(json.dumps(config | {"verdict_classes": classes}))
    with pytest.raises(CheckpointError, match=f"config.json: verdict_classes.*{message}"):
        convert(legion, clip, tmp_path / "out")


def test_tensor_without_axes_keeps_its_shape(folders, tmp_path):
    legion, clip = copy(folders, tmp_path)
    edit(clip, lambda s: s.__setitem__("logit_scale", torch.tensor(2.5)) is None)
    assert convert(legion, clip, tmp_path / "out").unknown == []
    to_torch.export(str(tmp_path / "out"), str(tmp_path / "back"), progress=False)
    assert_same_tensors(clip, tmp_path / "back" / "clip")


def test_listed_shard_that_is_absent(folders, tmp_path):
    legion, clip = copy(folders, tmp_path)
    next(legion.glob("*-00002-*.bin")).unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.bin: listed in .*, not there"):
        convert(legion, clip, tmp_path / "out")


def test_truncated_shard(folders, tmp_path):
    legion, clip = copy(folders, tmp_path)
    shard = next(legion.glob("*-00001-*.bin"))
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="not a readable PyTorch weights file"):
        convert(legion, clip, tmp_path / "out")


class Foreign:
    """Something a weights file has no business to hold."""


def test_foreign_class_is_not_unpickled(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Foreign()}))
    with pytest.raises(CheckpointError, match="it holds more than tensors|another protocol"):
        TensorFolder(tmp_path)


def test_index_may_not_lead_outside(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(CheckpointError, match="not a file name"):
        TensorFolder(tmp_path)


def test_wrong_vocabulary(folders, tmp_path):
    legion, clip = copy(folders, tmp_path)
    config = json.loads((legion / "config.json").read_text())
    (legion / "config.json").write_text(json.dumps(config | {"vocab_size": 5}))
    with pytest.raises(CheckpointError, match="vocab_size 5"):
        convert(legion, clip, tmp_path / "out")


def test_existing_output_is_left_alone(folders, tmp_path):
    with pytest.raises(FilesError, match="already exists"):
        convert(*folders, tmp_path)


def test_wrong_shape_in_a_converted_checkpoint_names_path_and_shapes(folders, sized, tmp_path):
    convert(*folders, tmp_path / "out")
    abstract = param_tree.abstract_params(sized)
    other = dict(abstract)
    other["language/norm/scale"] = abstract["language/layers/norm1/scale"]
    with pytest.raises(checkpoint.CheckpointError,
                       match=r"language/norm/scale: checkpoint \(48,\), model \(3, 48\)"):
        checkpoint.Checkpoint.open(tmp_path / "out").load(other)
    other = abstract | {"language/extra": abstract["language/norm/scale"]}
    with pytest.raises(checkpoint.CheckpointError,
                       match="language/extra: not in the checkpoint"):
        checkpoint.Checkpoint.open(tmp_path / "out").load(other)
