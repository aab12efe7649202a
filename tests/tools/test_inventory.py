"""tools/inspect_params/inventory.py: what is listed agrees with models, files and devices."""

import json
import math

import inspected
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from inspected import EIGHT, KEY, ONE, by_path, sums

from experiments import base, tiny
from input_pipeline.errors import UserError
from legion_jax import sharding
from legion_jax.convert import layout_json, to_torch
from legion_jax.convert.table import rules
from legion_jax.models import param_tree
from legion_jax.train import knobs
from legion_jax.weights import checkpoint
from tools.inspect_params import __main__ as inspect_params, inventory, listing

REGION_ENCODER, TRAINED = 299_142_912, 587_427_044  # see test_sizes.py
converted, run = inspected.converted, inspected.run


@pytest.mark.parametrize("depth", [None, 1, 2])
def test_converted_checkpoint(sized, converted, depth):
    listed = inventory.of_checkpoint(converted)
    abstract = param_tree.abstract_params(sized)
    assert inspected.shapes(listed) == {p: a.shape for p, a in abstract.items()}
    arrays = [a for file in (converted / "params").iterdir()
              for a in safetensors.numpy.load_file(file).values()]
    total = sums(listed, depth=depth)["total"]
    assert total["parameters"] == param_tree.count(abstract) == sum(a.size for a in arrays)
    assert total["bytes"] == total["bytes_per_device"] == sum(a.nbytes for a in arrays)
    assert total["trainable"] == sum(p.count for p in listed.parameters if p.path.startswith(
        ("language/embed/", "language/head/", "text_projection/", "mask_decoder/")))
    assert "LOCALISATION" in listed.rule


def test_names_of_tensors_and_files(converted):
    listed = by_path(inventory.of_checkpoint(converted))
    query = listed["language/layers/query/kernel"]
    assert query.source == "model.layers.{0..2}.self_attn.q_proj.weight"
    assert set(query.files) <= {f"main/pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)}
    norm = listed["vision/pre_norm/scale"]
    assert (norm.source, norm.files) == (
        "vision_model.pre_layrnorm.weight", ("clip/pytorch_model.bin",))
    windows = listed["sam_encoder/window_layers/norm1/scale"]
    assert windows.source == "model.grounding_encoder.image_encoder.blocks.{0,2}.norm1.weight"


@pytest.mark.parametrize("names, text", [
    ([], ""), (["a"], "a"), (["a.0", "a.1", "a.2", "a.7"], "a.{0..2,7}"),
    ([f"a.{i}.b{j}.c" for i in range(3) for j in (1, 2)], "a.{0..2}.b{1,2}.c"),
    (["a.0.b0", "a.1.b1"], "a.0.b0, a.1.b1"),
    (["a.0.x", "a.1.x", "b.2.y"], "a.{0,1}.x, b.2.y")])
def test_gathered_names(names, text):
    assert inventory.gather(names) == text


def test_training_run(run, converted):
    listed = inventory.of_checkpoint(run)
    assert "step 3" in listed.title and str(converted) in listed.title
    parameters = by_path(listed)
    assert {p for p, x in parameters.items() if x.trainable} == set(
        checkpoint.read_meta(run).trained)
    assert "legion.json" in listed.rule
    lora = parameters["language/layers/query/lora_a"]
    assert lora.source == "model.layers.{0..2}.self_attn.q_proj.lora_A.weight"
    assert (lora.dtype, lora.files) == ("float32", ())
    assert parameters["language/layers/query/kernel"].dtype == "bfloat16"
    stored = checkpoint.Checkpoint.open(run).entries.values()
    assert sums(listed)["total"]["bytes"] == sum(
        math.prod(a.shape) * np.dtype(a.dtype).itemsize for a in stored)
    assert len(parameters) == len(by_path(inventory.of_checkpoint(converted))) + 4


def test_bytes_per_device_are_those_of_the_arrays(run):
    listed = inventory.of_checkpoint(run)
    mesh = sharding.make_mesh((1, 4, 2))
    tree = param_tree.unflatten({p.path: jnp.zeros(p.shape, p.dtype) for p in listed.parameters})
    placed = param_tree.flatten(jax.device_put(tree, sharding.tree_shardings(tree, mesh)))
    for line in listing.lines_of(listed.parameters, EIGHT):
        shards = placed[line.path].addressable_shards
        assert {s.data.nbytes for s in shards} == {line.bytes_per_device}, line.path
        assert sharding.P(*line.sharding) == placed[line.path].sharding.spec
    for path, x in sums(listed, EIGHT, depth=1).items():
        assert path == "total" or x["bytes_per_device"] == sum(
            a.addressable_shards[0].data.nbytes for p, a in placed.items()
            if p.startswith(f"{path}/"))


def test_config_at_full_size():
    listed = inventory.of_config(base.get_config())
    total = sums(listed)
    padding = 2 * (32128 - 32007) * 4096
    assert total["total"]["trainable"] - padding == TRAINED - REGION_ENCODER
    assert total["sam_encoder"]["parameters"] == 637_026_048
    assert total["verdict"] == {"parameters": 2_103_298, "trainable": 0, "frozen": 2_103_298,
                                "bytes": 2 * 2_103_298, "bytes_per_device": 2 * 2_103_298}
    assert total["total"]["bytes"] == (4 * total["total"]["trainable"]
                                       + 2 * total["total"]["frozen"])
    assert f"{padding:,} values" in " ".join(listed.notes)
    lines = listing.lines_of(listed.parameters, inspect_params.parse_mesh("1,16,1"))
    gate = next(line for line in lines if line.path == "language/layers/gate/kernel")
    assert gate.bytes_per_device == 32 * 4096 * 11008 * 2 // 16
    assert gate.source == "model.layers.{0..31}.mlp.gate_proj.weight"


def test_config_of_a_run_that_starts_from_a_checkpoint(converted, sized):
    c = base.get_config()
    c.init_from = str(converted)
    listed = by_path(inventory.of_config(c, vocab=sized.language.vocab))
    assert listed["mask_decoder/iou_token"].dtype == "float32"
    assert listed["vision/pre_norm/scale"].files == ("clip/pytorch_model.bin",)
    assert listed["language/layers/value/lora_b"].trainable
    with pytest.raises(UserError, match=rf"--vocab 5: config.init_from {converted} has "
                                        rf"{sized.language.vocab} tokens"):
        inventory.of_config(c, vocab=5)


def test_config_from_scratch_needs_a_vocabulary(folders, sized):
    c = tiny.get_config()
    c.data.tokenizer = "nowhere/tokenizer"
    listed = inventory.of_config(c, vocab=700)
    assert by_path(listed)["language/embed/embedding"].shape == (768, 96)
    assert all(p.trainable and p.dtype == "float32" for p in listed.parameters)
    with pytest.raises(UserError, match="--vocab: needed.*nowhere/tokenizer is not there"):
        inventory.of_config(c)
    c.data.tokenizer = str(folders[0])
    padded = sized.language.vocab + -sized.language.vocab % 128
    assert by_path(inventory.of_config(c))["language/head/kernel"].shape == (96, padded)
    with pytest.raises(UserError, match=rf"--vocab 9: tokenizer .*legion has "
                                        rf"{sized.language.vocab} tokens"):
        inventory.of_config(c, vocab=9)


@pytest.mark.parametrize("change, message", [
    (lambda c: c.update(frozen_dtype="int7"), "frozen_dtype: float32 or bfloat16, not 'int7'"),
    (lambda c: c.update(trainable=("nothing",)), "nothing matches no parameter"),
    (lambda c: c.model.update(name="huge"), "model.name: legion_7b, .*, tiny_sida, not 'huge'"),
    (lambda c: c.update(init_from="nowhere"), "nowhere: no legion.json")])
def test_config_that_no_run_could_use(change, message):
    c = base.get_config()
    change(c)
    with pytest.raises(UserError, match=message) as caught:
        inspect_params.of_config("file.py", c, 700 if c.model.name == "huge" else None)
    assert str(caught.value).startswith("--config file.py: ")
    with c.unlocked():
        c.novelty = 1
    with pytest.raises(knobs.ConfigError, match="novelty: no such knob"):
        inventory.of_config(c)


def test_torch_folders_are_listed_as_their_conversion(sized, folders, converted):
    listed = inspect_params.of_torch(str(folders[0]), clip=str(folders[1]))
    assert listed.parameters == inventory.of_checkpoint(converted).parameters
    assert not listed.problems and not listed.unknown and not listed.absent
    roles = json.loads((converted / "source" / layout_json.LAYOUT).read_text()).values()
    assert len(listed.carried) == sum(len(role["tensors"]) for role in roles) - sum(
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
    listed = inspect_params.of_torch(str(legion), clip=str(clip))
    assert listed.problems == [problem]
    assert [(p.path, p.shape) for p in listed.parameters] == [
        (p.path, p.shape) for p in inventory.of_checkpoint(converted).parameters]
    assert f"problem: {problem}" in listing.remarks(listed, [], ONE)


def test_absent_towers_and_unknown_tensors(folders, converted, tmp_path):
    legion, clip, state = inspected.copy(folders, tmp_path)
    state = {k: v for k, v in state.items()
             if not k.startswith(("model.grounding_encoder", "model.text_hidden"))}
    torch.save(state | {"model.novelty": torch.ones(3)}, legion / "pytorch_model.bin")
    listed = inspect_params.of_torch(str(legion), clip=str(clip))
    assert listed.absent == ["sam_encoder", "mask_decoder", "text_projection", "prompt_encoder"]
    assert listed.unknown == {"model.novelty": 12} and not listed.problems
    whole = sums(inventory.of_checkpoint(converted))
    assert sums(listed)["language"] == whole["language"]
    assert sums(listed).keys() == whole.keys() - set(listed.absent)
    assert "unknown: 1 tensors, <0.000001 GB; model.novelty" in listing.remarks(
        listed, [], ONE)


def test_tower_alone_and_weights_without_small_files(folders, converted, tmp_path):
    whole = by_path(inventory.of_checkpoint(converted))
    alone = inspect_params.of_torch(str(folders[1]))
    assert inspected.shapes(alone) == {
        path: p.shape for path, p in whole.items() if path.startswith("vision/")}
    assert "language" in alone.absent
    _, clip, state = inspected.copy(folders, tmp_path)
    bare = tmp_path / "bare"
    bare.mkdir()
    torch.save(state, bare / "training_state.bin")
    listed = inspect_params.of_torch(str(bare), clip=str(clip))
    assert inspected.shapes(listed) == {p: x.shape for p, x in whole.items()}
    assert any("no config.json" in note for note in listed.notes)
    assert any("taken for a token" in note for note in listed.notes)


def test_other_spelling(converted, tmp_path):
    to_torch.export(str(converted), str(tmp_path / "hf"), layout="hf", progress=False)
    listed = inspect_params.of_torch(str(tmp_path / "hf"))
    whole = by_path(inventory.of_checkpoint(converted))
    assert inspected.shapes(listed) == {p: x.shape for p, x in whole.items()}
    assert not listed.problems and not listed.unknown
    query = by_path(listed)["language/layers/query/kernel"]
    assert query.source.endswith("layers.{0..2}.self_attn.q_proj.weight")
    assert "language_model" in query.source
    assert by_path(listed)["sam_encoder/patch/bias"].files[0].startswith("sam/")


@pytest.mark.parametrize("module, rank", [("self_attn.q_proj", 2), ("mlp.up_proj", 0)])
def test_adapter(folders, tmp_path, module, rank):
    wide = 96 if "mlp" in module else 48
    root = "base_model.model.model.layers.{}." + module
    factors = {f"{root.format(i)}.lora_{f}.weight": np.zeros(shape, np.float32)
               for i in range(3) for f, shape in (("A", (2, 48)), ("B", (wide, 2)))}
    if not rank:  # of the last layer alone
        factors = {name: a for name, a in factors.items() if "layers.2" in name}
    else:
        factors |= {name.replace("q_proj", "v_proj"): a for name, a in factors.items()}
    safetensors.numpy.save_file(factors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    listed = inspect_params.of_torch(str(folders[0]), clip=str(folders[1]), adapter=str(tmp_path))
    lora = [p for p in listed.parameters if "lora_" in p.path]
    assert len(lora) == (4 if rank else 0) and not listed.problems and not listed.unknown
    if rank:
        assert lora[0].source == f"{root.format('{0..2}')}.lora_A.weight" and lora[0].trainable
        assert lora[0].files == ("adapter/adapter_model.safetensors",)
    else:
        assert any("mlp.up_proj has no LoRA and 1 others have" in note and "--merge_lora" in note
                   for note in listed.notes)
