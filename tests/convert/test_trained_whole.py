"""Weights beside those that are chosen: read in their role, named, or a reason to stop."""

import json
import shutil

import layouts
import numpy as np
import peft_side
import published
import pytest
import torch
from stored_params import read_params

from legion_jax.convert.from_torch import verify
from legion_jax.convert.names import CLS_TOWER
from legion_jax.weights import checkpoint
from legion_jax.weights.checkpoint_error import CheckpointError
from tools.inspect_params import __main__ as inspect_params

ROOT = "base_model.model."
PROJECTOR = "model.mm_projector."
sized, tensors = layouts.sized, peft_side.tensors
folders, adapter = peft_side.folders, peft_side.adapter


def changed(tensors: dict, *roots: str) -> dict[str, np.ndarray]:
    """Other values of the tensors whose names begin so."""
    rng = np.random.default_rng(9)
    return {key: rng.normal(size=value.shape).astype(np.float32)
            for key, value in tensors.items() if key.startswith(roots)}


@pytest.fixture
def own(adapter, tmp_path):
    """A copy of the adapter's folder."""
    return shutil.copytree(adapter[0], tmp_path / "adapter")


@pytest.fixture(scope="module")
def retrained(sized, tensors, folders, adapter, tmp_path_factory):
    """What the adapter and another projector make of the base, put there by hand."""
    root = tmp_path_factory.mktemp("retrained")
    legion = shutil.copytree(folders[0], root / "legion")
    for file in legion.glob("pytorch_model*"):
        file.unlink()
    trained = changed(tensors, PROJECTOR)
    published.save(legion / "pytorch_model.bin", {
        k: v for k, v in (tensors | trained).items() if not k.startswith("vision_model.")})
    layouts.convert(legion, root / "out", config=sized, clip=folders[1], adapter=adapter[0])
    return trained, read_params(root / "out"), legion


@pytest.mark.parametrize("prefix, name", [
    (ROOT, "non_lora_trainables.bin"), ("", "mm_projector.bin"),
    pytest.param("model.", "non_lora_trainables.bin", marks=pytest.mark.slow),
    pytest.param(ROOT, "non_lora_state_dict.bin", marks=pytest.mark.slow)])
def test_modules_trained_whole_beside_an_adapter(sized, folders, retrained, own, tmp_path, prefix,
                                                 name):
    trained, wanted, _ = retrained
    published.save(own / name, {prefix + key: value for key, value in trained.items()})
    layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1], adapter=own)
    layouts.assert_same_arrays(read_params(tmp_path / "out"), wanted)
    assert verify(tmp_path / "out", progress=False) == []
    assert name in str(checkpoint.read_meta(tmp_path / "out").sources)
    if name == "mm_projector.bin":
        return
    exported = layouts.write(tmp_path / "out", tmp_path / "exported", "adapter")
    layouts.convert(folders[0], tmp_path / "again", config=sized, clip=folders[1], adapter=exported)
    layouts.assert_same_arrays(read_params(tmp_path / "again"), wanted)


def test_names_of_transformers_llava(sized, folders, retrained, own, tmp_path):
    trained, wanted, _ = retrained
    numbers = {"0": "linear_1", "2": "linear_2"}
    published.save(own / "non_lora_trainables.bin", {
        f"{ROOT}multi_modal_projector.{numbers[key.split('.')[2]]}.{key.split('.')[3]}": value
        for key, value in trained.items()})
    layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1], adapter=own)
    layouts.assert_same_arrays(read_params(tmp_path / "out"), wanted)


def test_a_tower_that_was_trained_takes_the_place_of_clip(sized, tensors, folders, own, tmp_path):
    trained = changed(tensors, "vision_model.")
    published.save(own / "non_lora_trainables.bin", {
        ROOT + CLS_TOWER.from_published(key): value for key, value in trained.items()})
    layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1], adapter=own)
    position = "vision_model.embeddings.position_embedding.weight"
    np.testing.assert_array_equal(read_params(tmp_path / "out")["vision/position"],
                                  trained[position])
    assert verify(tmp_path / "out", progress=False) == []


def refused(sized, folders, tmp_path, legion=None, **parts) -> str:
    with pytest.raises(CheckpointError) as error:
        layouts.convert(legion or folders[0], tmp_path / "out", config=sized,
                        clip=parts.pop("clip", folders[1]), **parts)
    assert not (tmp_path / "out").exists()
    return str(error.value)


@pytest.mark.parametrize("name", [
    "adapter_model_2.safetensors", "model.safetensors", "pytorch_model.bin", "value_head.pth",
    "epoch_3.ckpt", "pytorch_model_fsdp.bin", "adapter_model-00001-of-00002.bin"])
def test_unknown_weights_beside_an_adapter(sized, folders, tensors, own, tmp_path, name):
    published.save(own / name, changed(tensors, PROJECTOR))
    if "-of-" in name:  # it can be no part of what is read, and nothing lists it
        layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1], adapter=own)
        assert name in checkpoint.read_meta(tmp_path / "out").sources["adapter"]["ignored"]
        return
    message = refused(sized, folders, tmp_path, adapter=own)
    assert f"adapter/{name}: a weights file that nothing here reads" in message
    assert "move it to another folder" in message


def test_the_same_adapter_in_both_formats(sized, folders, adapter, own, tmp_path):
    state = layouts.raw(own)
    published.save(own / "adapter_model.bin", state)
    layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1], adapter=own)
    assert "has the values of adapter_model.safetensors" in (
        checkpoint.read_meta(tmp_path / "out").sources["adapter"]["ignored"]["adapter_model.bin"])
    shutil.rmtree(tmp_path / "out")
    key = next(k for k in state if "lora_A" in k)
    published.save(own / "adapter_model.bin", state | {key: state[key] + 1})
    message = refused(sized, folders, tmp_path, adapter=own)
    assert "adapter_model.safetensors and adapter_model.bin hold different weights" in message


def test_parts_of_an_adapter_that_contradict_each_other(sized, folders, retrained, own, tmp_path):
    trained = retrained[0]
    published.save(own / "non_lora_trainables.bin", trained)
    published.save(own / "mm_projector.bin", {k: v + 1 for k, v in trained.items()})
    message = refused(sized, folders, tmp_path, adapter=own)
    assert "non_lora_trainables.bin and" in message and "mm_projector.bin hold different" in message
    published.save(own / "mm_projector.bin", trained)
    layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1], adapter=own)
    layouts.assert_same_arrays(read_params(tmp_path / "out"), retrained[1])


def test_state_of_a_training_is_named(sized, folders, retrained, own, tmp_path, caplog):
    names = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "scaler.pt",
             "training_args.bin", "tf_model.h5"]
    for name in names:
        (own / name).write_bytes(b"no tensors")
    (own / "checkpoint-100").mkdir()
    (own / "checkpoint-100/adapter_config.json").write_text("{}")
    layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1], adapter=own)
    ignored = checkpoint.read_meta(tmp_path / "out").sources["adapter"]["ignored"]
    assert sorted(ignored) == sorted([*names, "checkpoint-100/"])
    assert all(f"/{name}: not read: " in caplog.text for name in names)
    inspected = inspect_params.of_torch(str(folders[0]), clip=str(folders[1]), adapter=str(own))
    assert any("optimizer.pt is not read" in note for note in inspected.notes)


def test_a_training_of_lora_alone_leaves_an_empty_file(sized, folders, own, tmp_path):
    published.save(own / "non_lora_trainables.bin", {})
    layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1], adapter=own)
    assert checkpoint.read_meta(tmp_path / "out").sources["adapter"]["ignored"] == {
        "non_lora_trainables.bin": "holds no tensor"}


def copied(folders, tmp_path):
    return shutil.copytree(folders[0], tmp_path / "legion")


def test_projector_file_beside_a_whole_model(sized, tensors, folders, tmp_path):
    """As published with LLaVA: the whole model holds the same projector."""
    legion = copied(folders, tmp_path)
    projector = {k: v for k, v in tensors.items() if k.startswith(PROJECTOR)}
    published.save(legion / "mm_projector.bin", {
        k: v.astype(np.float16) for k, v in projector.items()})
    layouts.convert(legion, tmp_path / "out", config=sized, clip=folders[1])
    layouts.convert(folders[0], tmp_path / "wanted", config=sized, clip=folders[1])
    layouts.assert_same_checkpoint(tmp_path / "out", tmp_path / "wanted")
    assert "mm_projector.bin" in checkpoint.read_meta(tmp_path / "out").sources["main"]["ignored"]
    assert verify(tmp_path / "out", progress=False) == []
    shutil.rmtree(tmp_path / "out")
    published.save(legion / "mm_projector.bin", changed(tensors, PROJECTOR))
    message = refused(sized, folders, tmp_path, legion=legion)
    assert "mm_projector.bin hold different weights: model.mm_projector" in message


def test_projector_file_beside_a_model_without_one(sized, folders, retrained, tmp_path):
    trained, _, whole = retrained
    legion = copied(folders, tmp_path)
    for file in legion.glob("pytorch_model*"):
        file.unlink()
    state = layouts.raw(whole)
    published.save(legion / "model.safetensors", {
        k: v for k, v in state.items() if not k.startswith(PROJECTOR)})
    published.save(legion / "mm_projector.bin", trained)
    layouts.convert(legion, tmp_path / "out", config=sized, clip=folders[1])
    layouts.convert(whole, tmp_path / "wanted", config=sized, clip=folders[1])
    layouts.assert_same_arrays(read_params(tmp_path / "out"), read_params(tmp_path / "wanted"))
    assert verify(tmp_path / "out", progress=False) == []
    layouts.write(tmp_path / "out", tmp_path / "back")
    layouts.assert_same_arrays(layouts.raw(tmp_path / "back"), state)


@pytest.mark.parametrize("role", ["main", "clip"])
def test_unknown_weights_beside_a_model(sized, tensors, folders, tmp_path, role):
    legion, clip = copied(folders, tmp_path), shutil.copytree(folders[1], tmp_path / "clip")
    file = (legion if role == "main" else clip) / "open_clip_pytorch_model.bin"
    published.save(file, changed(tensors, PROJECTOR))
    assert f"{file}: a weights file" in refused(sized, folders, tmp_path, legion, clip=clip)
    problems = inspect_params.of_torch(str(legion), clip=str(clip)).problems
    assert any(str(file) in problem for problem in problems)


def test_one_folder_may_hold_what_several_flags_name(sized, tensors, folders, adapter, tmp_path):
    """Nothing in it is left over, and each flag takes its own."""
    legion = copied(folders, tmp_path)
    for file in adapter[0].glob("adapter_*"):
        shutil.copy(file, legion)
    assert "adapter_model.safetensors: a weights file" in refused(
        sized, folders, tmp_path, legion=legion)
    layouts.convert(legion, tmp_path / "out", config=sized, clip=folders[1], adapter=legion)
    layouts.convert(folders[0], tmp_path / "wanted", config=sized, clip=folders[1],
                    adapter=adapter[0])
    layouts.assert_same_checkpoint(tmp_path / "out", tmp_path / "wanted")


def test_a_file_that_is_named_stands_alone(sized, folders, retrained, own, tmp_path, caplog):
    """But for the scale of an adapter, which its config tells."""
    published.save(own / "non_lora_trainables.bin", retrained[0])
    layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1],
                    adapter=own / "adapter_model.safetensors")
    assert "non_lora_trainables.bin: not read: only adapter_model.safetensors was" in caplog.text
    lora = checkpoint.read_meta(tmp_path / "out").config.lora
    assert (lora.alpha, lora.dropout) == (peft_side.ALPHA, peft_side.DROPOUT)


def test_weights_beside_the_folders_of_an_export(sized, tensors, folders, tmp_path):
    layouts.convert(folders[0], tmp_path / "jax", config=sized, clip=folders[1])
    exported = layouts.write(tmp_path / "jax", tmp_path / "hf", "hf")
    published.save(exported / "model.safetensors", changed(tensors, PROJECTOR))
    with pytest.raises(CheckpointError, match="hf/model.safetensors: a weights file"):
        layouts.convert(exported, tmp_path / "out")


def test_a_part_is_read_as_safely_as_all_weights(sized, folders, own, tmp_path):
    class Foreign:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"a": Foreign()}, own / "non_lora_trainables.bin")
    message = refused(sized, folders, tmp_path, adapter=own)
    assert "non_lora_trainables.bin: it holds more than tensors" in message
    assert not (tmp_path / "ran").exists()
    assert json.loads((own / "adapter_config.json").read_text())["r"] == peft_side.RANK
