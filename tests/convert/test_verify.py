"""--verify, and exports, of a conversion whose small files are not what they were."""

import json

import layouts
import published
import pytest

from legion_jax.convert import from_torch, layout_json
from legion_jax.weights import checkpoint
from legion_jax.weights.checkpoint_error import CheckpointError

sized = layouts.sized


@pytest.fixture
def output(sized, tmp_path):
    legion, clip = published.make(tmp_path / "in", sized)
    layouts.convert(legion, tmp_path / "jax", config=sized, clip=clip)
    return tmp_path / "jax"


def swap_tokens(file):
    added = json.loads(file.read_text())
    (first, one), *_, (last, other) = added.items()
    file.write_text(json.dumps(added | {first: other, last: one}))


def change_json(**changes):
    return lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("name, change, named", [
    ("tokenizer/added_tokens.json", swap_tokens, "added_tokens.json: differs"),
    ("source/layout.json", lambda f: f.unlink(), "layout.json: not there"),
    ("source/layout.json", change_json(head={}), "layout.json: differs"),
    ("source/main/config.json", lambda f: f.write_text("{}"), "main/config.json: differs"),
    ("source/carried.safetensors", lambda f: f.unlink(), "carried.safetensors: not there"),
    (checkpoint.META, change_json(vocabulary={"rows": 7, "image_token": None}), "vocabulary")])
def test_every_file_of_a_conversion_is_compared(output, name, change, named):
    assert from_torch.verify(output, progress=False) == []
    change(output / name)
    problem, = from_torch.verify(output, progress=False)
    assert named in problem


def test_no_export_without_the_record_of_the_source(output, tmp_path):
    (output / "source" / layout_json.LAYOUT).unlink()
    with pytest.raises(CheckpointError, match=r"layout\.json: not there"):
        layouts.write(output, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_an_adapter_goes_back_into_the_files_of_its_base(sized, tmp_path, suffix):
    """In their format and dtypes, with what nothing is known of."""
    legion, clip = published.make(tmp_path / "in", sized, suffix=suffix, shards=1)
    file = next(legion.glob(f"*model{suffix}"))
    state = {k: published.to_array(v) for k, v in published.load(legion).items()}
    published.save(file, state | {"my.extra.weight": state["lm_head.weight"][:2]})
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    root, width = "base_model.model.model.layers.{}.self_attn.{}_proj.lora_{}.weight", 48
    ones = published.np.ones((2, width), "float32")
    published.save(adapter / "adapter_model.safetensors", {
        root.format(layer, name, factor): ones if factor == "A" else ones.T
        for layer in range(sized.language.layers) for name in "qv" for factor in "AB"})
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    layouts.convert(legion, tmp_path / "jax", config=sized, clip=clip, adapter=adapter)
    out = layouts.write(tmp_path / "jax", tmp_path / "out")
    assert sorted(p.name for p in out.iterdir() if p.is_file()) == sorted(
        p.name for p in legion.iterdir())
    before, after = layouts.raw(legion), layouts.raw(out)
    adapted = {k for k in before if k.endswith(("q_proj.weight", "v_proj.weight"))
               and k.startswith("model.layers")}
    layouts.assert_same_arrays({k: v for k, v in before.items() if k not in adapted},
                               {k: v for k, v in after.items() if k not in adapted})
    assert all(after[k].dtype == before[k].dtype and (after[k] != before[k]).any() for k in adapted)
