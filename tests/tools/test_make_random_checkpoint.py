"""Random weights in the published layout: shaped as published, there and back bit for bit."""


import numpy as np
import published
import pytest
import torch
from commands import run_tool

from legion_jax import config
from legion_jax.convert import from_torch, to_torch
from legion_jax.convert.plan import Options
from legion_jax.weights import tensor_file
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


def test_there_and_back(tmp_path):
    made = run_tool("tools.make_random_checkpoint", "--size=tiny", "--output", tmp_path / "torch")
    assert made.returncode == 0, made.stderr
    from_torch.convert(str(tmp_path / "torch"), str(tmp_path / "jax"),
                       clip=str(tmp_path / "torch/clip"), progress=False,
                       options=Options(sam=read_json(tmp_path / "torch/sam_config.json")))
    to_torch.export(str(tmp_path / "jax"), str(tmp_path / "back"), progress=False)
    for folder in (".", "clip"):
        before, after = (published.load(tmp_path / side / folder) for side in ("torch", "back"))
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert torch.equal(value, after[key]), key


