"""Adapters that a conversion writes, and those it refuses."""

import json
import shutil

import layouts
import numpy as np
import peft
import peft_side
import pytest
import safetensors.numpy
import torch
from peft_side import ALPHA, RANK
from stored_params import read_params

from legion_jax.config import LoraConfig
from legion_jax.convert.lora import read
from legion_jax.weights import checkpoint
from legion_jax.weights.checkpoint_error import CheckpointError

A, B = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{f}.weight" for f in "AB")
sized, tensors = layouts.sized, peft_side.tensors
folders, adapter = peft_side.folders, peft_side.adapter


@pytest.fixture(scope="module")
def converted(sized, folders, adapter, tmp_path_factory):
    output = tmp_path_factory.mktemp("converted") / "jax"
    layouts.convert(folders[0], output, config=sized, clip=folders[1], adapter=adapter[0])
    return output


@pytest.fixture(scope="module")
def exported(converted, tmp_path_factory):
    return layouts.write(converted, tmp_path_factory.mktemp("exported") / "adapter", "adapter")


@torch.no_grad()
def logits(model):
    return model(torch.arange(40, 52)[None]).logits.numpy()


def test_peft_opens_an_exported_adapter(sized, tensors, exported):
    # Small values, so that no attention is all or nothing.
    base = {name: np.float32(0.3) * value for name, value in tensors.items()}
    by_hand, state, root = dict(base), layouts.raw(exported), "base_model.model."
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        by_hand[name] = state[root + name]
    for name in [k for k in state if k.endswith("lora_A.weight")]:
        kernel = name.removeprefix(root).replace("lora_A.", "")
        update = state[name.replace("lora_A", "lora_B")] @ state[name]
        by_hand[kernel] = by_hand[kernel] + np.float32(ALPHA / RANK) * update
    model = peft.PeftModel.from_pretrained(peft_side.llama(sized, base), exported)
    adapted, wanted = logits(model.eval()), logits(peft_side.llama(sized, by_hand))
    np.testing.assert_allclose(adapted, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    unmerged = logits(peft_side.llama(sized, base | {
        name: by_hand[name] for name in ("model.embed_tokens.weight", "lm_head.weight")}))
    assert np.abs(adapted - unmerged).max() > 0.05 * np.abs(wanted).max()


def test_exported_adapter_is_the_one_that_came(adapter, exported):
    layouts.assert_same_arrays(layouts.raw(exported), layouts.raw(adapter[0]))
    config = layouts.read_json(exported / "adapter_config.json")
    assert (config["r"], config["lora_alpha"]) == (RANK, ALPHA)
    assert sorted(config["modules_to_save"]) == sorted(peft_side.SAVED)


def test_exported_adapter_on_its_base_is_the_same_checkpoint(sized, folders, converted, exported,
                                                             tmp_path):
    layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1], adapter=exported)
    layouts.assert_same_checkpoint(tmp_path / "out", converted)


def test_adapter_of_a_run_holds_all_that_was_trained(sized, folders, tmp_path):
    """PEFT has no place for the projection of `[SEG]`; it lies beside what PEFT opens."""
    layouts.convert(folders[0], tmp_path / "base", config=sized, clip=folders[1])
    layouts.trained_run(tmp_path / "run", tmp_path / "base", trainable=(
        "/lora_[ab]$", "^text_projection/up/", "^language/head/"))
    exported = layouts.write(tmp_path / "run", tmp_path / "adapter", "adapter")
    layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1], adapter=exported)
    layouts.assert_same_arrays(read_params(tmp_path / "out"), read_params(tmp_path / "run"))
    converted, wanted = (checkpoint.read_meta(tmp_path / f).config.lora for f in ("out", "run"))
    assert converted == wanted == LoraConfig(2, 4.0)


def test_no_adapter_without_lora(sized, folders, tmp_path):
    layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1])
    with pytest.raises(CheckpointError, match="no LoRA in it"):
        layouts.write(tmp_path / "out", tmp_path / "adapter", "adapter")
    assert not (tmp_path / "adapter").exists()


def refused(sized, folders, adapter, tmp_path, *, settings=None, change=None):
    own = shutil.copytree(adapter[0], tmp_path / "adapter")
    if settings:
        file = own / "adapter_config.json"
        file.write_text(json.dumps(layouts.read_json(file) | settings))
    if change:
        state = safetensors.numpy.load_file(own / "adapter_model.safetensors")
        change(state)
        safetensors.numpy.save_file(state, own / "adapter_model.safetensors")
    with pytest.raises(CheckpointError) as error:
        layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1], adapter=own)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]
    return str(error.value)


@pytest.mark.parametrize("field, value", [
    ("layer_replication", [[0, 2]]), ("trainable_token_indices", [3]), ("use_dora", True),
    ("use_rslora", True), ("rank_pattern", {"q_proj": 4}),
    ("alpha_pattern", {"q_proj": 4}), ("bias", "all"), ("peft_type", "IA3"),
    ("fan_in_fan_out", True)])
def test_variants_of_lora_are_refused(sized, folders, adapter, tmp_path, field, value):
    message = refused(sized, folders, adapter, tmp_path, settings={field: value})
    assert f"adapter_config.json: {field} {value!r} is not supported" in message


def test_lora_that_replaces_its_kernels_is_refused(sized, folders, adapter, tmp_path):
    settings = {"init_lora_weights": "pissa"}
    message = refused(sized, folders, adapter, tmp_path, settings=settings)
    assert "init_lora_weights 'pissa' changes the kernels" in message


@pytest.mark.parametrize("settings, change, message", [
    ({"r": 4}, None, f"adapter_config.json: r 4, the files have rank {RANK}"),
    ({"r": 0}, None, "r must be a positive number, not 0"),
    ({"lora_alpha": None}, None, "lora_alpha must be a positive number, not None"),
    (None, lambda s: s.pop(B), "q_proj: lora_A without its other half"),
    (None, lambda s: s.pop(A), "q_proj: lora_B without its other half"),
    (None, lambda s: s.update({B: s[B][:-1]}), "lora_A (2, 48) and lora_B (47, 2) do not fit"),
    (None, lambda s: s.update({A: s[A][:1], B: s[B][:, :1]}), "LoRA of several ranks"),
    (None, lambda s: [s.pop(k) for k in list(s) if "lora_" in k], "adapter: no LoRA in it"),
    (None, lambda s: s.update({f"{A}s": s[A]}), "q_proj.lora_A.weights: part of the model"),
    (None, lambda s: s.update({A.replace("0", "7"): s[A], B.replace("0", "7"): s[B]}),
     "model.layers.7.self_attn.q_proj.weight: missing")])
def test_contradictory_adapters_are_refused(sized, folders, adapter, tmp_path, settings, change,
                                            message):
    assert message in refused(sized, folders, adapter, tmp_path, settings=settings, change=change)


def test_layers_without_lora_are_named(sized, folders, adapter, tmp_path):
    def change(state):
        for name in (A, B):
            del state[name]

    message = refused(sized, folders, adapter, tmp_path, change=change)
    assert "model.layers.0.self_attn.q_proj has no LoRA and 5 others have" in message
    assert "--merge_lora" in message


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_that_is_no_scale(alpha):
    class Factors:
        entries = {"a.lora_A.weight": None}
        roles = {}

    with pytest.raises(CheckpointError, match="lora_alpha must be a positive number, not"):
        read(Factors(), alpha=alpha, merge=False)
