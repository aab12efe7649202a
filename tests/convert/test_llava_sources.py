"""LLaVA folders: what other LLaVAs compute otherwise is refused, and PEFT adapters for them."""

import json
import shutil

import layouts
import numpy as np
import peft
import published
import pytest
import torch
import transformers
from stored_params import read_params

from input_pipeline.text.tokenizer import Tokenizer
from legion_jax.weights import checkpoint
from legion_jax.weights.checkpoint_error import CheckpointError

QV = r"model\.language_model\.layers\.\d+\.(self_attn\.q_proj|self_attn\.v_proj)"
sized = layouts.sized


@pytest.fixture(scope="module")
def llava(sized, tmp_path_factory):
    """A LLaVA folder with spare rows in its vocabulary, and its base checkpoint."""
    root = tmp_path_factory.mktemp("llava")
    legion, _ = published.make(root / "published", sized)
    tokenizer = Tokenizer.from_folder(legion)
    tensors = layouts.random_tensors(sized, "float32")
    folder = layouts.llava(root / "in", sized, tensors, tokenizer)
    layouts.convert(folder, root / "jax", partial=True)
    return folder, root / "jax"


@pytest.mark.parametrize("part, change, named", [
    ("text_config", {"rope_parameters": {"rope_type": "linear", "factor": 2.0,
                                         "rope_theta": 10000.0}}, "rope_type 'linear'"),
    ("text_config", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
    ("text_config", {"num_attention_heads": 8, "num_key_value_heads": 8}, "head_dim"),
    ("text_config", {"mlp_bias": True}, "mlp_bias True"),
    (None, {"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy"),
    (None, {"projector_hidden_act": "relu"}, "projector_hidden_act"),
    (None, {"multimodal_projector_bias": False}, "multimodal_projector_bias")])
def test_what_this_model_does_not_compute(llava, tmp_path, part, change, named):
    own = shutil.copytree(llava[0], tmp_path / "own")
    config = layouts.read_json(own / "config.json")
    (config[part] if part else config).update(change)
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=named):
        layouts.convert(own, tmp_path / "out", partial=True)
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def merged(folder, adapter=None) -> dict[str, np.ndarray]:
    """State of a LLaVA in transformers, an adapter folded into it."""
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder)
    if adapter:
        model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("trainable", [("/lora_[ab]$",), ("/lora_[ab]$", "^language/(head|embed)")])
def test_an_exported_adapter_opens_on_the_llava_it_names(llava, tmp_path, trainable):
    layouts.trained_run(tmp_path / "run", llava[1], trainable=trainable)
    adapter = layouts.write(tmp_path / "run", tmp_path / "adapter", "adapter")
    settings = layouts.read_json(adapter / "adapter_config.json")
    assert settings["base_model_name_or_path"] == str(llava[0])
    assert settings["target_modules"] == QV
    whole = layouts.write(tmp_path / "run", tmp_path / "hf", "hf") / "llava"
    ours, theirs, base = merged(llava[0], adapter), merged(whole), merged(llava[0])
    changed = {name for name in base if np.abs(theirs[name] - base[name]).max() > 1e-3}
    assert {name.split(".")[-2] for name in changed} >= {"q_proj", "v_proj"}
    assert not any("vision" in name for name in changed)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-5, err_msg=name)
    layouts.convert(llava[0], tmp_path / "again", adapter=adapter, partial=True)
    layouts.assert_same_arrays(read_params(tmp_path / "again"), read_params(tmp_path / "run"))
    lora = [checkpoint.read_meta(tmp_path / name).config.lora for name in ("again", "run")]
    assert (lora[0].rank, lora[0].alpha) == (lora[1].rank, lora[1].alpha)
