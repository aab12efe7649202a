"""Conversions and exports that are damaged, interrupted or not finite; what training changes."""

import _thread
import errno
import json
import pathlib
import shutil
import signal

import layouts
import ml_dtypes
import numpy as np
import pytest

from input_pipeline import files
from legion_jax.convert import from_torch
from legion_jax.weights import params_files, tensor_file
from legion_jax.weights.checkpoint_error import CheckpointError

# By what the published recipe trains; LoRA is merged into query and value.
TRAINED = ("model.embed_tokens.", "lm_head.", "model.text_hidden_fcs.",
           "model.grounding_encoder.mask_decoder.")
UNTRAINED_STEM = "model.layers.{}.mlp.up_proj.weight"
sized, folders, converted = layouts.sized, layouts.folders, layouts.converted


def is_trained(name):
    return name.startswith(TRAINED) or name.endswith(("q_proj.weight", "v_proj.weight")) and (
        name.startswith("model.layers."))


def test_training_changes_exactly_what_it_trains(sized, folders, converted, tmp_path):
    trained = layouts.trained_run(tmp_path / "run", converted)
    layouts.write(tmp_path / "run", tmp_path / "back")
    before, after = layouts.raw(folders[0]), layouts.raw(tmp_path / "back")
    changed = {k for k in before if before[k].tobytes() != after[k].tobytes()}
    assert changed == {k for k in before if is_trained(k)}
    assert {k: (v.shape, v.dtype) for k, v in before.items()} == {
        k: (v.shape, v.dtype) for k, v in after.items()}
    layouts.assert_same_arrays(layouts.raw(tmp_path / "back/clip"), layouts.raw(folders[1]))
    for file in folders[0].glob("*.json"):
        assert json.loads(file.read_text()) == layouts.read_json(tmp_path / "back" / file.name)
    embedding = trained["language/embed/embedding"][:sized.language.vocab]
    np.testing.assert_array_equal(after["model.embed_tokens.weight"],
                                  embedding.astype(ml_dtypes.bfloat16))
    for number in range(sized.language.layers):
        name = f"model.layers.{number}.self_attn.v_proj.weight"
        a, b = (trained[f"language/layers/value/lora_{f}"][number] for f in "ab")
        merged = before[name].astype(np.float64) + 4 / 2 * (a.astype(np.float64) @ b).T
        error = np.abs(after[name].astype(np.float64) - merged)
        assert (error <= 2.0 ** -8 * np.abs(merged) + 1e-6).all()


@pytest.fixture
def verified(sized, folders, tmp_path):
    """(source, its conversion), to be damaged."""
    source = shutil.copytree(folders[0], tmp_path / "legion")
    layouts.convert(source, tmp_path / "out", config=sized, clip=folders[1])
    assert from_torch.verify(tmp_path / "out", progress=False) == []
    return source, tmp_path / "out"


def flip(file: pathlib.Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_verify_notices_one_byte_of_a_source(verified):
    source, output = verified
    shard = next(source.glob("*-00002-*.bin"))
    flip(shard, shard.stat().st_size // 2)
    problem, = from_torch.verify(output, progress=False)
    assert shard.name in problem and "SHA-256" in problem


@pytest.mark.parametrize("folder, tower, name", [
    ("params", "language", "language/layers/up/kernel"), ("params", "vision", "vision/position"),
    ("source", "carried", "main/model.region_encoder.roi_align.updims.weight")])
def test_verify_notices_one_byte_of_the_conversion(verified, folder, tower, name):
    file = verified[1] / folder / f"{tower}.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    start, end = json.loads(content[8:8 + length])[name]["data_offsets"]
    flip(file, 8 + length + end - 1)
    problem, = from_torch.verify(verified[1], progress=False)
    assert name.removeprefix("main/") in problem and "other values than" in problem
    if name == "language/layers/up/kernel":
        assert f"{name}[2]: other values than {UNTRAINED_STEM.format(2)}" in problem


def test_verify_without_sources(verified, tmp_path):
    source, output = verified
    next(source.glob("*-00001-*.bin")).unlink()
    problem, = from_torch.verify(output, progress=False)
    assert "-00001-of-00002.bin: not there any more" in problem
    shutil.rmtree(source)
    with pytest.raises(CheckpointError, match=f"{source}: not there; .* came from it"):
        from_torch.verify(output, progress=False)


BITS = {"bfloat16": (np.uint16, 0x7F80), "float16": (np.uint16, 0x7C00),
        "float32": (np.uint32, 0x7F800000)}


def spoil(array: np.ndarray, low: int) -> None:
    """Set one value to infinity (`low` 0) or to a NaN with these low bits, negative."""
    unsigned, exponent = BITS[str(array.dtype)]
    bits = array.reshape(-1).view(unsigned)
    bits[5] = exponent | low | 1 << (8 * bits.itemsize - 1)


@pytest.mark.parametrize("dtype", BITS)
def test_values_that_are_not_finite(sized, folders, tmp_path, dtype):
    """An infinity, a signalling NaN and a quiet one that carries something."""
    tensors = layouts.random_tensors(sized, dtype)
    names = [UNTRAINED_STEM.format(1), "model.mm_projector.2.bias", "model.norm.weight"]
    for name, low in zip(names, (0, 1, 0x41), strict=True):
        spoil(tensors[name], low)
        assert np.isfinite(tensors[name].astype(np.float32)).sum() == tensors[name].size - 1
    source = layouts.detection(tmp_path / "cls", folders[0], tensors)
    with pytest.raises(CheckpointError) as error:
        layouts.convert(source, tmp_path / "out", config=sized)
    assert all(name in str(error.value) for name in (*names, "--allow_nonfinite"))
    assert [p.name for p in tmp_path.iterdir()] == ["cls"]
    summary = layouts.convert(source, tmp_path / "out", config=sized, allow_nonfinite=True)
    assert summary.nonfinite == names
    layouts.write(tmp_path / "out", tmp_path / "back")
    layouts.assert_same_arrays(layouts.raw(tmp_path / "back"), layouts.raw(source))
    assert from_torch.verify(tmp_path / "out", progress=False) == []


def test_not_finite_in_a_stack_of_several_dtypes(sized, folders, tmp_path):
    """The stack is float32; every value goes there and back without losing a bit."""
    tensors = layouts.random_tensors(sized, "float32")
    for number, dtype in enumerate((ml_dtypes.bfloat16, np.float16)):
        name = UNTRAINED_STEM.format(number)
        tensors[name] = tensors[name].astype(dtype)
        for low in (0, 1, 0x41):
            spoil(tensors[name][low:], low)
    source = layouts.detection(tmp_path / "cls", folders[0], tensors)
    layouts.convert(source, tmp_path / "out", config=sized, allow_nonfinite=True)
    layouts.write(tmp_path / "out", tmp_path / "back")
    layouts.assert_same_arrays(layouts.raw(tmp_path / "back"), layouts.raw(source))


def full():
    raise OSError(errno.ENOSPC, "No space left on device")


def failing_after(monkeypatch, number: int, fail) -> None:
    """Every write of tensor values from this one on fails."""
    write, done = tensor_file.write_at, []

    def write_at(*arguments):
        done.append(1)
        if len(done) > number:
            fail()
        write(*arguments)

    monkeypatch.setattr(tensor_file, "write_at", write_at)


@pytest.mark.parametrize("fail, raised", [(full, OSError),
                                          (_thread.interrupt_main, KeyboardInterrupt)])
@pytest.mark.parametrize("job", ["convert", "legion", "hf"])
def test_interrupted_in_the_middle(sized, folders, converted, tmp_path, monkeypatch, fail, raised,
                                   job):
    """Nothing stays, and the same command works again, also over what a kill left behind."""
    def attempt():
        if job == "convert":
            layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1])
        else:
            layouts.write(converted, tmp_path / "out", job)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it behind &
    try:
        with monkeypatch.context() as context, pytest.raises(raised):
            failing_after(context, 20, fail)
            attempt()
    finally:
        signal.signal(signal.SIGINT, handler)
    assert list(tmp_path.iterdir()) == []
    left = tmp_path / ".out.writing-killed"
    (left / "params").mkdir(parents=True)
    (left / "params" / "language.safetensors").write_bytes(b"half")
    attempt()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    if job == "convert":
        layouts.assert_same_checkpoint(tmp_path / "out", converted)
    if job == "legion":
        layouts.assert_same_arrays(layouts.raw(tmp_path / "out"), layouts.raw(folders[0]))


def test_no_folder_that_looks_complete_while_it_is_written(sized, folders, tmp_path, monkeypatch):
    """A kill that cannot be caught leaves what is there at this moment."""
    seen, write = [], params_files.ParamsWriter.write

    def looking(self, *arguments):
        seen.extend(p.name for p in tmp_path.iterdir())
        seen.extend(p.name for p in next(tmp_path.glob(".out.writing-*")).iterdir())
        write(self, *arguments)

    monkeypatch.setattr(from_torch.params_files.ParamsWriter, "write", looking)
    layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1])
    assert {"out", "legion.json", "tokenizer"}.isdisjoint(seen) and "params" in seen


def test_two_processes_cannot_mix_their_outputs(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(files.FilesError, match="already exists"):
        with files.new_folder(target) as late:
            (late / "late").touch()
            with files.new_folder(target) as early:
                assert early != late and late.exists()
                (early / "early").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in target.iterdir()] == ["early"]
