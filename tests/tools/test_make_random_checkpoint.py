"""Random weights in the published layout: shaped as published, there and back bit for bit."""


import numpy as np
import published
import pytest
import torch
from commands import run_tool

from legion_jax import config
from legion_jax.convert import from_torch, to_torch
from legion_jax.convert.plan import Options
from legion_jax.weights import checkpoint, tensor_file
from legion_jax.weights.checkpoint_error import read_json
from tools import make_random_checkpoint


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_values_are_finite_and_differ(dtype):
    values = make_random_checkpoint.random_values((64, 33), dtype, 1)
    assert values.dtype == tensor_file.numpy_dtype(dtype) and values.shape == (64, 33)
    plain = values.astype(np.float64)
    assert 2 ** -7 <= np.abs(plain).min() and np.abs(plain).max() < 2 ** -3
    other = make_random_checkpoint.random_values((64, 33), dtype, 2).astype(np.float64)
    assert (plain != other).mean() > 0.9


def test_full_size_is_cut_as_the_published_one():
    files = make_random_checkpoint.make_files(config.legion_7b(), dtype="bfloat16",
                                              file_format="bin", seed=0)
    assert sorted(files.weights) == ["clip/pytorch_model.bin", "pytorch_model-00001-of-00002.bin",
                                     "pytorch_model-00002-of-00002.bin"]
    legion = [k for f, tensors in files.weights.items() if "clip" not in f for k in tensors]
    assert len(legion) == len(set(legion)) == 972


# SIDA: LEGION's without region encoder, verdict head and projector, and with its own twelve.
@pytest.mark.parametrize("size, number", [("fakevlm_7b", 686), ("sida_7b", 972 - 43 - 8 + 12)])
def test_full_sizes_of_the_family(size, number):
    """Every tensor has a name in its folder, and there are as many as published."""
    model = config.named(size, 0, "")
    files = make_random_checkpoint.make_files(model, dtype="bfloat16", file_format="bin", seed=0)
    names = [k for f, tensors in files.weights.items() if "clip" not in f for k in tensors]
    assert None not in names and len(names) == len(set(names)) == number
    roots = {".".join(name.split(".")[:2]) for name in names if not name.startswith("lm_head")}
    assert roots == {
        "fakevlm_7b": {"vision_tower.vision_model", "multi_modal_projector.linear_1",
                       "multi_modal_projector.linear_2", "language_model.model",
                       "language_model.lm_head"},
        "sida_7b": {f"model.{part}" for part in (
            "embed_tokens", "layers", "norm", "mm_projector", "visual_model", "text_hidden_fcs",
            "cls_head", "sida_fc1", "attention_layer")}}[size]


@pytest.mark.parametrize("size", [
    "tiny", pytest.param("tiny_fakevlm", marks=pytest.mark.slow), "tiny_sida"])
def test_there_and_back(tmp_path, size):
    made = run_tool("tools.make_random_checkpoint", f"--size={size}", "--output",
                    tmp_path / "torch")
    assert made.returncode == 0, made.stderr
    sam, clip = tmp_path / "torch/sam_config.json", tmp_path / "torch/clip"
    from_torch.convert(str(tmp_path / "torch"), str(tmp_path / "jax"), progress=False,
                       clip=str(clip) if clip.exists() else None,
                       options=Options(sam=read_json(sam) if sam.exists() else None))
    wanted = config.named(size, make_random_checkpoint.TINY, "")
    converted = checkpoint.read_meta(tmp_path / "jax").config
    assert (converted.sam, converted.fusion, converted.projector) == (
        wanted.sam, wanted.fusion, wanted.projector)
    to_torch.export(str(tmp_path / "jax"), str(tmp_path / "back"), progress=False)
    for folder in (".", *["clip"] * clip.exists()):
        before, after = (published.load(tmp_path / side / folder) for side in ("torch", "back"))
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert torch.equal(value, after[key]), key
