"""The same random tensors in every layout a conversion reads, and what it makes of them."""

import dataclasses
import json
import pathlib

import numpy as np
import published
import pytest
from stored_params import read_params

from experiments import base
from input_pipeline.text.tokenizer import IMAGE_TOKEN, Tokenizer
from input_pipeline.text.tokenizer_files import ADDED_FILE, MODEL_FILE, as_json
from legion_jax.config import LegionConfig, LoraConfig
from legion_jax.convert import config_files, from_torch, names, to_torch
from legion_jax.convert.config_files import published_configs
from legion_jax.convert.names import CLS_TOWER, LLAVA_OLD, SAM_ORIGINAL, Spelling
from legion_jax.convert.plan import Options
from legion_jax.models import param_tree
from legion_jax.weights import checkpoint, legion_json, run_checkpoints, tensor_file

HEADS = ("model.text_hidden_fcs.", "prediction_head.")
VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture(scope="module")
def sized(sized) -> LegionConfig:
    """That of all tests with heads of 64 values in the vision tower, whose number shapes tell."""
    return dataclasses.replace(sized, vision=dataclasses.replace(sized.vision, width=64, heads=1))


@pytest.fixture(scope="module")
def folders(sized, tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """(LEGION, CLIP) as published."""
    return published.make(tmp_path_factory.mktemp("published"), sized)


@pytest.fixture(scope="module")
def converted(sized, folders, tmp_path_factory) -> pathlib.Path:
    """The checkpoint that `folders` become."""
    output = tmp_path_factory.mktemp("converted") / "jax"
    convert(folders[0], output, config=sized, clip=folders[1])
    return output


def random_tensors(config: LegionConfig, dtype: str, *, seed: int = 0) -> dict[str, np.ndarray]:
    """With CLIP's last norm complete, as real towers have it."""
    tensors = published.random_tensors(config, dtype, seed=seed)
    root = "vision_model.post_layernorm."
    return tensors | {f"{root}bias": -tensors[f"{root}weight"]}


def convert(main, output, *, config: LegionConfig | None = None, clip=None, sam=None, head=None,
            adapter=None, config_file: str | None = None, sam_config: dict | None = None,
            **options) -> from_torch.Summary:
    """As `from_torch.convert`; `config` is one way to tell SAM's sizes, the rest are `Options`."""
    parts = {"clip": clip, "sam": sam, "head": head, "adapter": adapter}
    return from_torch.convert(
        str(main), str(output), **{role: str(path) for role, path in parts.items() if path},
        progress=False, options=Options(
            sam=_sam(config) if config else sam_config, config=config_file, **options))


def _sam(config: LegionConfig) -> dict:
    return json.loads(published_configs(config)["legion"]["sam_config.json"])


def write(folder, output, layout: str = "legion", **changes) -> pathlib.Path:
    to_torch.export(str(folder), str(output), layout=layout, progress=False, **changes)
    return output


def assert_same_arrays(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    """Names, dtypes and every bit."""
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert (value.dtype, value.shape) == (right[name].dtype, right[name].shape), name
        assert tensor_file.raw_bytes(value) == tensor_file.raw_bytes(right[name]), name


def assert_same_checkpoint(left, right) -> None:
    """Parameters, architecture, dialogue and tokenizer of two converted checkpoints."""
    opened = [checkpoint.Checkpoint.open(folder) for folder in (left, right)]
    assert opened[0].meta.config == opened[1].meta.config
    assert opened[0].meta.dialogue == opened[1].meta.dialogue
    assert_same_arrays(read_params(left), read_params(right))
    ours, theirs = (each.tokenizer for each in opened)
    assert ours.added == theirs.added and ours.files[MODEL_FILE] == theirs.files[MODEL_FILE]


def raw(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a folder, read by PyTorch and safetensors themselves."""
    return {name: published.to_array(tensor) for name, tensor in published.load(folder).items()}


def raw_file(file: pathlib.Path) -> dict[str, np.ndarray]:
    """The same of a file."""
    return {name: published.to_array(tensor) for name, tensor in published.load_file(file).items()}


def spelled(tensors: dict[str, np.ndarray], table: Spelling) -> dict[str, np.ndarray]:
    """The tensors `table` has a place for, buffers apart, under its names."""
    return {name: value for key, value in tensors.items()
            if (name := table.from_published(key)) and not key.endswith("inv_freq")}


def llava(folder: pathlib.Path, config: LegionConfig, tensors: dict, tokenizer: Tokenizer, *,
          table: Spelling = LLAVA_OLD, added: dict[str, int] | None = None,
          image_token: int | None = None) -> pathlib.Path:
    """A LLaVA folder; unless `added` are its tokens, with one more row, for `<image>`."""
    if added is None:
        image_token = config.language.vocab
        added = tokenizer.added | {IMAGE_TOKEN: image_token}
        tensors = tensors | {k: np.concatenate([tensors[k], np.zeros_like(tensors[k][:1])])
                             for k in VOCABULARY}
    folder.mkdir(parents=True)
    published.save(folder / "model.safetensors", spelled(tensors, table))
    files = config_files.llava_files(config, blocks=config.vision.layers, image_token=image_token,
                                     rows=len(tensors[VOCABULARY[0]]), dtype="float32")
    for name, content in (tokenizer.files | files | {ADDED_FILE: as_json(added)}).items():
        (folder / name).write_bytes(content)
    return folder


def sam_original(file: pathlib.Path, tensors: dict) -> pathlib.Path:
    published.save(file, spelled(tensors, SAM_ORIGINAL))
    return file


def sam_folder(folder: pathlib.Path, config: LegionConfig, tensors: dict) -> pathlib.Path:
    """A folder of transformers' SamModel."""
    folder.mkdir(parents=True)
    published.save(folder / "model.safetensors",
                   spelled(tensors, names.sam_hf(config.sam.iou_layers)))
    (folder / "config.json").write_bytes(config_files.sam_files(config)["config.json"])
    return folder


def heads(file: pathlib.Path, tensors: dict) -> pathlib.Path:
    """The projection of `[SEG]` and the verdict head."""
    file.parent.mkdir(exist_ok=True)
    published.save(file, {k: v for k, v in tensors.items() if k.startswith(HEADS)})
    return file


def detection(folder: pathlib.Path, legion: pathlib.Path, tensors: dict) -> pathlib.Path:
    """A detection checkpoint: LEGION with the vision tower inside."""
    folder.mkdir()
    for name in ("config.json", MODEL_FILE, ADDED_FILE):
        (folder / name).write_bytes((legion / name).read_bytes())
    published.save(folder / "pytorch_model.bin",
                   {CLS_TOWER.from_published(k) or k: v for k, v in tensors.items()})
    return folder


def trained_run(folder: pathlib.Path, base: pathlib.Path, *, rank: int = 2,
                trainable: tuple[str, ...] = base.LOCALISATION,
                dialogue: str = "legion") -> dict[str, np.ndarray]:
    """A run at step 1; returns what it trained, no value as in `base`."""
    config = dataclasses.replace(checkpoint.read_meta(base).config,
                                 lora=LoraConfig(rank, alpha=4.0))
    rng, before, trained = np.random.default_rng(7), read_params(base), {}
    _, train, _ = param_tree.split_params(param_tree.abstract_model(config), trainable)
    for path, a in param_tree.flatten(train).items():
        start = before[path].astype(np.float32) if path in before else np.zeros(a.shape, np.float32)
        trained[path] = start + rng.uniform(0.5, 1, a.shape).astype(np.float32)
        vocab = config.language.vocab  # what lies behind it gets no gradient
        if path == "language/embed/embedding":
            trained[path][vocab:] = start[vocab:]
        if path == "language/head/kernel":
            trained[path][:, vocab:] = start[:, vocab:]
    writer = run_checkpoints.RunCheckpoints(folder, every=1, keep=1)
    writer.save(1, param_tree.unflatten(trained), {"m": np.zeros(1)})
    writer.close()
    checkpoint.Checkpoint.open(base).tokenizer.save(folder / "tokenizer")
    legion_json.write_meta(folder, config, base=checkpoint.base_of(base), trained=sorted(trained),
                           dialogue=dialogue)
    return trained


def read_json(file: pathlib.Path) -> dict:
    return json.loads(file.read_text())
