"""LEGION's language model in transformers, and LoRA on top of it by PEFT."""

import json
import pathlib

import layouts
import numpy as np
import peft
import published
import pytest
import torch
import transformers

from legion_jax.config import LegionConfig
from legion_jax.convert import config_files

RANK, ALPHA, DROPOUT = 2, 3, 0.125  # alpha / rank is no whole number
SAVED = ["embed_tokens", "lm_head"]
QV, OTHERS = ["q_proj", "v_proj"], ["k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LANGUAGE = ("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")


def llama(config: LegionConfig, tensors: dict[str, np.ndarray]) -> transformers.LlamaForCausalLM:
    """The language model of published tensors."""
    files = config_files.llava_files(config, blocks=1, rows=config.language.vocab, image_token=0,
                                     dtype="float32")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        **json.loads(files["config.json"])["text_config"]))
    model.load_state_dict({k: published.to_torch(v) for k, v in tensors.items()
                           if k.startswith(LANGUAGE) and not k.endswith("inv_freq")})
    return model.eval()


def adapted(config: LegionConfig, tensors: dict[str, np.ndarray],
            targets: list[str]) -> peft.PeftModel:
    """PEFT on top of the language model, every trainable value random."""
    model = peft.get_peft_model(llama(config, tensors), peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules=targets,
        modules_to_save=SAVED, task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def saved(config: LegionConfig, tensors: dict[str, np.ndarray], folder: pathlib.Path):
    """(folder, state, merged state) of an adapter of query and value."""
    model = adapted(config, tensors, QV)
    model.save_pretrained(folder)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    return folder, state, model.merge_and_unload().state_dict()


@pytest.fixture(scope="module")
def tensors(sized) -> dict[str, np.ndarray]:
    """Those of `folders`."""
    return layouts.random_tensors(sized, "float32")


@pytest.fixture(scope="module")
def folders(sized, tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """(LEGION, CLIP) as published, in the dtype PEFT computes in."""
    return published.make(tmp_path_factory.mktemp("published"), sized, dtype="float32")


@pytest.fixture(scope="module")
def adapter(sized, tensors, tmp_path_factory):
    """What `saved` makes of `tensors`."""
    return saved(sized, tensors, tmp_path_factory.mktemp("adapter"))
