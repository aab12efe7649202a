"""What the tests of parameter listings share: folders to list, and sums over listings."""

import dataclasses
import pathlib
import shutil

import jax.numpy as jnp
import published
import pytest

from input_pipeline.text.tokenizer import train_tokenizer
from legion_jax.config import LegionConfig, LoraConfig
from legion_jax.convert import from_torch
from legion_jax.convert.plan import Options
from legion_jax.models import param_tree
from legion_jax.weights import checkpoint, legion_json, run_checkpoints
from legion_jax.weights.checkpoint_error import read_json
from tools.inspect_params import __main__ as inspect_params, listing
from tools.inspect_params.inventory import Inventory, Parameter

ONE, EIGHT = (inspect_params.parse_mesh(text) for text in ("1,1,1", "1,4,2"))
KEY = "model.mm_projector.0.weight"


def sized(config: LegionConfig, folder: pathlib.Path) -> LegionConfig:
    """The small config with the vocabulary of the tokenizer that `published.make` trains."""
    probe = train_tokenizer(published.TEXTS, 300, folder)
    language = dataclasses.replace(config.language, vocab=probe.vocab_size)
    return dataclasses.replace(config, language=language, lora=LoraConfig(),
                               verdict=dataclasses.replace(
                                   config.verdict, classes=("synthetic", "real")))


@pytest.fixture(scope="module")
def converted(folders, tmp_path_factory) -> pathlib.Path:
    """The checkpoint that `folders` become."""
    (legion, clip), output = folders, tmp_path_factory.mktemp("converted") / "jax"
    from_torch.convert(str(legion), str(output), clip=str(clip), progress=False,
                       options=Options(sam=read_json(legion / "sam_config.json")))
    return output


@pytest.fixture(scope="module")
def run(sized, converted, tmp_path_factory) -> pathlib.Path:
    """A run that trained LoRA and the verdict head, at step 3."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = dataclasses.replace(sized, lora=LoraConfig(rank=2))
    trained = {p: jnp.zeros(a.shape) for p, a in param_tree.abstract_params(model).items()
               if "lora_" in p or p.startswith("verdict/")}
    writer = run_checkpoints.RunCheckpoints(folder, every=3, keep=1)
    tree = param_tree.unflatten(trained)
    writer.save(3, tree, {"m": tree})
    writer.close()
    legion_json.write_meta(folder, model, base=checkpoint.base_of(converted),
                           trained=sorted(trained))
    return folder


def copy(folders, target: pathlib.Path):
    """(LEGION without weights, CLIP, LEGION's tensors), to be edited."""
    legion, clip = (shutil.copytree(f, target / f.name) for f in folders)
    state = published.load(legion)
    for file in legion.glob("pytorch_model*"):
        file.unlink()
    return legion, clip, state


def by_path(found: Inventory) -> dict[str, Parameter]:
    return {p.path: p for p in found.parameters}


def shapes(found: Inventory) -> dict[str, tuple[int, ...]]:
    return {p.path: p.shape for p in found.parameters}


def sums(found: Inventory, mesh=ONE, depth=None) -> dict[str, dict[str, int]]:
    return listing.totals(listing.lines_of(found.parameters, mesh, depth))
