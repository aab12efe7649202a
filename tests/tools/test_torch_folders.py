"""inspect_params/torch_folders.py: PyTorch weights whole, in part, in other layouts and damaged."""

import json

import inspected
import numpy as np
import pytest
import safetensors.numpy
import torch
from inspected import KEY, ONE, by_path, sums

from legion_jax.convert import from_torch, to_torch
from legion_jax.convert.table import rules
from tools.inspect_params import __main__ as inspect_params, inventory, listing


@pytest.fixture(scope="module")
def converted(folders, tmp_path_factory):
    return inspected.convert(*folders, tmp_path_factory.mktemp("converted") / "jax")


def test_torch_folders_are_listed_as_their_conversion(sized, folders, converted):
    found = inspect_params.of_torch(str(folders[0]), clip=str(folders[1]))
    assert found.parameters == inventory.of_checkpoint(converted).parameters
    assert not found.problems and not found.unknown and not found.absent
    roles = json.loads((converted / "source" / from_torch.LAYOUT).read_text()).values()
    assert len(found.carried) == sum(len(role["tensors"]) for role in roles) - sum(
        rule.keys.size for rule in rules(sized))


@pytest.mark.parametrize("change, problem", [
    (lambda s: s.pop(KEY), f"{KEY}: missing, projector/up/kernel needs (48, 32)"),
    (lambda s: s.update({KEY: s[KEY][:-1]}),
     f"{KEY}: file (47, 32), projector/up/kernel needs (48, 32)"),
    (lambda s: s.update({KEY: s[KEY].int()}),
     f"{KEY}: file int32, projector/up/kernel needs a float"),
    (lambda s: s.update({"lm_head.bias": torch.ones(2)}),
     "lm_head.bias: part of the model, but config.json leaves no place for it; 1 such tensors")])
def test_weights_that_no_conversion_takes_are_listed_all_the_same(folders, converted, tmp_path,
                                                                  change, problem):
    legion, clip, state = inspected.copy(folders, tmp_path)
    change(state)
    torch.save(state, legion / "pytorch_model.bin")
    found = inspect_params.of_torch(str(legion), clip=str(clip))
    assert found.problems == [problem]
    assert [(p.path, p.shape) for p in found.parameters] == [
        (p.path, p.shape) for p in inventory.of_checkpoint(converted).parameters]
    assert f"problem: {problem}" in listing.remarks(found, [], ONE)


def test_absent_towers_and_unknown_tensors(folders, converted, tmp_path):
    legion, clip, state = inspected.copy(folders, tmp_path)
    state = {k: v for k, v in state.items()
             if not k.startswith(("model.grounding_encoder", "model.text_hidden"))}
    torch.save(state | {"model.novelty": torch.ones(3)}, legion / "pytorch_model.bin")
    found = inspect_params.of_torch(str(legion), clip=str(clip))
    assert found.absent == ["sam_encoder", "mask_decoder", "text_projection", "prompt_encoder"]
    assert found.unknown == {"model.novelty": 12} and not found.problems
    whole = sums(inventory.of_checkpoint(converted))
    assert sums(found)["language"] == whole["language"]
    assert sums(found).keys() == whole.keys() - set(found.absent)
    assert "unknown: 1 tensors, <0.000001 GB; model.novelty" in listing.remarks(
        found, [], ONE)


def test_tower_alone_and_weights_without_small_files(folders, converted, tmp_path):
    whole = by_path(inventory.of_checkpoint(converted))
    alone = inspect_params.of_torch(str(folders[1]))
    assert inspected.shapes(alone) == {
        path: p.shape for path, p in whole.items() if path.startswith("clip/")}
    assert "language" in alone.absent
    _, clip, state = inspected.copy(folders, tmp_path)
    bare = tmp_path / "bare"
    bare.mkdir()
    torch.save(state, bare / "training_state.bin")
    found = inspect_params.of_torch(str(bare), clip=str(clip))
    assert inspected.shapes(found) == {p: x.shape for p, x in whole.items()}
    assert any("no config.json" in note for note in found.notes)
    assert any("taken for a token" in note for note in found.notes)


def test_other_spelling(converted, tmp_path):
    to_torch.export(str(converted), str(tmp_path / "hf"), layout="hf", progress=False)
    found = inspect_params.of_torch(str(tmp_path / "hf"))
    whole = by_path(inventory.of_checkpoint(converted))
    assert inspected.shapes(found) == {p: x.shape for p, x in whole.items()}
    assert not found.problems and not found.unknown
    query = by_path(found)["language/layers/query/kernel"]
    assert query.source.endswith("layers.{0..2}.self_attn.q_proj.weight")
    assert "language_model" in query.source
    assert by_path(found)["sam_encoder/patch/bias"].files[0].startswith("sam/")


@pytest.mark.parametrize("module, rank", [("self_attn.q_proj", 2), ("mlp.up_proj", 0)])
def test_adapter(folders, tmp_path, module, rank):
    wide = 96 if "mlp" in module else 48
    root = "base_model.model.model.layers.{}." + module
    factors = {f"{root.format(i)}.lora_{f}.weight": np.zeros(shape, np.float32)
               for i in range(3) for f, shape in (("A", (2, 48)), ("B", (wide, 2)))}
    if rank:
        factors |= {name.replace("q_proj", "v_proj"): a for name, a in factors.items()}
    safetensors.numpy.save_file(factors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    found = inspect_params.of_torch(str(folders[0]), clip=str(folders[1]), adapter=str(tmp_path))
    lora = [p for p in found.parameters if "lora_" in p.path]
    assert len(lora) == (4 if rank else 0) and not found.problems and not found.unknown
    if rank:
        assert lora[0].source == f"{root.format('{0..2}')}.lora_A.weight" and lora[0].trainable
        assert lora[0].files == ("adapter/adapter_model.safetensors",)
    else:
        assert any("mlp.up_proj has LoRA" in note and "--merge_lora" in note
                   for note in found.notes)
