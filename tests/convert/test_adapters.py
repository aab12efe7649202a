"""LoRA in and out, with adapters that PEFT itself writes, opens and merges."""

import json
import re
import shutil

import layouts
import numpy as np
import peft_side
import published
import pytest
import safetensors.numpy
import torch
from peft_side import ALPHA, DROPOUT, LANGUAGE, OTHERS, QV, RANK
from stored_params import read_params

from input_pipeline.text.tokenizer import Tokenizer
from legion_jax.config import LAYER_KERNELS, LoraConfig
from legion_jax.convert import names, to_torch
from legion_jax.convert.from_torch import verify
from legion_jax.weights.checkpoint_error import CheckpointError

KERNEL = "model.layers.0.self_attn.q_proj"
sized, tensors = layouts.sized, peft_side.tensors
folders, adapter = peft_side.folders, peft_side.adapter


@pytest.fixture(scope="module")
def wanted(sized, tensors, folders, adapter, tmp_path_factory):
    """Parameters of the base with PEFT's matrices and factors put in their places by hand."""
    output = tmp_path_factory.mktemp("base") / "jax"
    layouts.convert(folders[0], output, config=sized, clip=folders[1])
    params, state = read_params(output), {k: v.numpy() for k, v in adapter[1].items()}
    root, vocab = "base_model.model.", sized.language.vocab
    for path, name in (("embed/embedding", "model.embed_tokens"), ("head/kernel", "lm_head")):
        value = np.zeros_like(params[f"language/{path}"])
        matrix = state[f"{root}{name}.modules_to_save.default.weight"]
        (value if "embed" in name else value.T)[:vocab] = matrix
        params[f"language/{path}"] = value
    for ours, theirs in (("query", "q"), ("value", "v")):
        for factor in "AB":
            params[f"language/layers/{ours}/lora_{factor.lower()}"] = np.stack([
                state[f"{root}model.layers.{i}.self_attn.{theirs}_proj.lora_{factor}.default"
                      f".weight"].T for i in range(sized.language.layers)])
    return params


def assert_merged(folder, state, tolerance=1e-6):
    """Language model of a LEGION folder against PEFT's own merge."""
    exported = layouts.raw(folder)
    for name, value in state.items():
        difference = np.abs(exported[name] - value.numpy()).max()
        assert difference <= tolerance * np.abs(value.numpy()).max(), name


def test_adapter_folder_of_peft(sized, folders, adapter, wanted, tmp_path):
    summary = layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1],
                              adapter=adapter[0])
    assert summary.config.lora == LoraConfig(RANK, float(ALPHA), DROPOUT)
    assert not summary.unknown
    layouts.assert_same_arrays(read_params(tmp_path / "out"), wanted)
    assert verify(tmp_path / "out", progress=False) == []
    layouts.write(tmp_path / "out", tmp_path / "legion")
    assert_merged(tmp_path / "legion", adapter[2])


@pytest.mark.parametrize("prefix, layer", [
    ("base_model.model.", ".base_layer."), ("", ".base_layer."), ("base_model.model.", "."),
    ("module.base_model.model.", ".")])
def test_state_of_a_training(sized, tensors, folders, adapter, wanted, tmp_path, prefix, layer):
    rest = {f"base_model.model.{k}": published.to_torch(v) for k, v in tensors.items()
            if not k.startswith((*LANGUAGE, "vision_model."))}
    state = {k.replace("base_model.model.", prefix, 1).replace(".base_layer.", layer): v
             for k, v in (adapter[1] | rest).items()}
    source = tmp_path / "state"
    source.mkdir()
    torch.save(state, source / "pytorch_model.bin")
    summary = layouts.convert(
        source, tmp_path / "out", config=sized, clip=folders[1], tokenizer=str(folders[0]),
        config_file=str(folders[0] / "config.json"), lora_alpha=ALPHA)
    assert summary.config.lora == LoraConfig(RANK, float(ALPHA))
    assert not summary.unknown
    layouts.assert_same_arrays(read_params(tmp_path / "out"), wanted)
    layouts.write(tmp_path / "out", tmp_path / "legion")
    assert_merged(tmp_path / "legion", adapter[2])


def test_state_of_a_training_needs_a_tokenizer_and_a_config(folders, adapter, tmp_path):
    torch.save(adapter[1], tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="--config"):
        layouts.convert(tmp_path, tmp_path / "out")


def test_adapter_of_a_llava(sized, tensors, folders, adapter, wanted, tmp_path):
    """PEFT on LlavaForConditionalGeneration names its modules as LLaVA does."""
    source = layouts.llava(tmp_path / "llava", sized, tensors, Tokenizer.from_folder(folders[0]))
    own = shutil.copytree(adapter[0], tmp_path / "adapter")
    state = safetensors.numpy.load_file(own / "adapter_model.safetensors")
    root, table = "base_model.model.", names.LLAVA_NEW
    safetensors.numpy.save_file(
        {root + table.from_published(k.removeprefix(root)): v for k, v in state.items()
         if ".lora_" in k}, own / "adapter_model.safetensors")
    layouts.convert(source, tmp_path / "out", adapter=own, partial=True)
    params = read_params(tmp_path / "out")
    layouts.assert_same_arrays({k: v for k, v in params.items() if "lora_" in k},
                               {k: v for k, v in wanted.items() if "lora_" in k})


def test_adapters_of_any_kernels_are_kept_or_merged(sized, tensors, folders, tmp_path):
    model = peft_side.adapted(sized, tensors, OTHERS + QV)
    model.save_pretrained(tmp_path / "adapter")
    arguments = dict(config=sized, clip=folders[1], adapter=tmp_path / "adapter")
    kept = layouts.convert(folders[0], tmp_path / "kept", **arguments).config.lora
    assert kept == LoraConfig(RANK, float(ALPHA), DROPOUT, LAYER_KERNELS)
    own = read_params(tmp_path / "kept")
    assert {path.split("/")[2] for path in own if "/lora_" in path} == set(LAYER_KERNELS)
    to_torch.export(str(tmp_path / "kept"), str(tmp_path / "peft"), layout="adapter")
    state = safetensors.numpy.load_file(tmp_path / "peft/adapter_model.safetensors")
    for name, value in safetensors.numpy.load_file(
            tmp_path / "adapter/adapter_model.safetensors").items():
        if ".lora_" in name:
            np.testing.assert_array_equal(state[name], value, err_msg=name)
    pattern = json.loads((tmp_path / "peft/adapter_config.json").read_text())["target_modules"]
    assert all(re.fullmatch(pattern, f"model.layers.2.{block}.{name}") for block, name in (
        ("self_attn", "q_proj"), ("self_attn", "o_proj"), ("mlp", "down_proj")))
    assert not re.fullmatch(pattern, "model.layers.2.mlp.q_proj")
    summary = layouts.convert(folders[0], tmp_path / "out", merge_lora=True, **arguments)
    assert summary.config.lora == LoraConfig()
    assert not any("lora" in path for path in read_params(tmp_path / "out"))
    assert verify(tmp_path / "out", progress=False) == []
    layouts.write(tmp_path / "out", tmp_path / "legion")
    assert_merged(tmp_path / "legion", model.merge_and_unload().state_dict())


def test_adapters_elsewhere_are_only_merged(sized, folders, tmp_path):
    """LoRA of the projector, which the model has no place for."""
    (tmp_path / "adapter").mkdir()
    width, D = sized.vision.width, sized.language.width
    root = "base_model.model.model.mm_projector.0.lora_"
    safetensors.numpy.save_file(
        {f"{root}A.weight": np.ones((2, width), np.float32),
         f"{root}B.weight": np.ones((D, 2), np.float32)},
        tmp_path / "adapter/adapter_model.safetensors")
    (tmp_path / "adapter/adapter_config.json").write_text('{"r": 2, "lora_alpha": 4}')
    arguments = dict(config=sized, clip=folders[1], adapter=tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="model.mm_projector.0 has LoRA; here only layers of "
                                              "the language model .*--merge_lora"):
        layouts.convert(folders[0], tmp_path / "out", **arguments)
    layouts.convert(folders[0], tmp_path / "out", merge_lora=True, **arguments)
    base = layouts.raw(folders[0])["model.mm_projector.0.weight"]
    np.testing.assert_allclose(read_params(tmp_path / "out")["projector/up/kernel"].T,
                               base + 2 * 2, rtol=1e-6)


def test_merge_is_rounded_once(sized, folders, adapter, tmp_path):
    """A bfloat16 kernel gets its update in float32."""
    legion, clip = published.make(tmp_path, sized, dtype="bfloat16")
    layouts.convert(legion, tmp_path / "out", config=sized, clip=clip, adapter=adapter[0],
                    merge_lora=True)
    state = {k: v.numpy() for k, v in adapter[1].items()}
    a, b = (state[f"base_model.model.{KERNEL}.lora_{f}.default.weight"] for f in "AB")
    base = layouts.raw(legion)[f"{KERNEL}.weight"]
    exact = base.astype(np.float64) + ALPHA / RANK * b.astype(np.float64) @ a.astype(np.float64)
    merged = read_params(tmp_path / "out")["language/layers/query/kernel"][0].T
    assert merged.dtype == base.dtype
    error = np.abs(merged.astype(np.float64) - exact)
    assert (error <= 2.0 ** -8 * np.abs(exact) + 1e-6).all()  # half a unit in the last place
