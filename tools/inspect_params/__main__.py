"""List every parameter of a checkpoint, of PyTorch weights or of a run's config, and the sums.

    python -m tools.inspect_params --checkpoint DIR
    python -m tools.inspect_params --torch DIR --clip DIR
    python -m tools.inspect_params --config experiments/base.py --mesh 1,16,1

DIR of --checkpoint is a converted checkpoint or a training run; --torch, --clip, --sam, --head and
--adapter are what tools.convert_from_torch takes. Values are never read, and no accelerator is
needed for any mesh. The exit code is 2 when tensors are missing, misshapen or without a place.
"""

import dataclasses
import json
import math
import pathlib
import re
import sys

import jax
from absl import flags
from jax.sharding import AbstractMesh
from ml_collections import config_flags
from rich.console import Console

from input_pipeline import files
from input_pipeline.errors import UserError
from legion_jax import command, sharding
from legion_jax.convert.roles import open_sources
from legion_jax.train import recipes
from legion_jax.weights import checkpoint
from tools.inspect_params import inventory, listing, torch_folders
from tools.inspect_params.inventory import Inventory

HAS_PROBLEMS = 2
ADDED = ("clip", "sam", "head", "adapter")  # flags that go with --torch


def parse_mesh(text: str, *, flag: str = "--mesh") -> AbstractMesh:
    """`1,16,1` as a mesh without devices. Raises UserError naming the flag."""
    sizes = [int(s) if re.fullmatch(r"\s*[0-9]{1,9}\s*", s) else 0 for s in text.split(",")]
    if min(sizes) < 1:
        raise UserError(f"{flag}: positive whole numbers, for {', '.join(sharding.AXES)}, not "
                        f"{text!r}")
    try:
        return AbstractMesh(sharding.mesh_sizes(sizes, math.prod(sizes)), sharding.AXES)
    except sharding.MeshError as error:
        raise UserError(f"{flag} {text}: {error}") from error


def select(found: Inventory, pattern: str | None) -> list[inventory.Parameter]:
    """The parameters whose path the pattern fits. Raises UserError when there is none."""
    if pattern is None:
        return found.parameters
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--match: {pattern!r} is no pattern ({error})") from error
    chosen = [p for p in found.parameters if regex.search(p.path)]
    if not chosen:
        example = found.parameters[0].path if found.parameters else "no path at all"
        raise UserError(f"--match: {pattern!r} fits none of {len(found.parameters)} paths, such "
                        f"as {example}")
    return chosen


def check_flags(given: dict[str, str | None], added: dict[str, str | None],
                vocab: int | None) -> str:
    """The one source that is given. Raises UserError naming what is missing or too much."""
    sources = [name for name, value in given.items() if value]
    if not sources:
        raise UserError(f"{', '.join(f'--{name}' for name in given)}: one of them is needed, none "
                        f"is given")
    if len(sources) > 1:
        both = " and ".join(f"--{name} {given[name]}" for name in sources)
        raise UserError(f"{both}: only one of them at a time")
    for name, value in added.items():
        if value and sources != ["torch"]:
            raise UserError(f"--{name} {value}: goes with --torch, here is --{sources[0]} "
                            f"{given[sources[0]]}")
    if vocab is not None and sources != ["config"]:
        raise UserError(f"--vocab {vocab}: goes with --config, here is --{sources[0]} "
                        f"{given[sources[0]]}")
    return sources[0]


def of_checkpoint(folder: str) -> Inventory:
    """As `inventory.of_checkpoint`, naming the flag in errors."""
    if not (pathlib.Path(folder) / checkpoint.META).exists() and "://" not in folder:
        raise UserError(f"--checkpoint {folder}: no {checkpoint.META} there, so neither a "
                        f"converted checkpoint nor a training run; PyTorch weights are for --torch")
    try:
        return inventory.of_checkpoint(folder)
    except UserError as error:
        raise UserError(f"--checkpoint {folder}: {error}") from error


def of_torch(folder: str, **added: str | None) -> Inventory:
    """As `survey.of_sources`, naming the flag in errors."""
    if (pathlib.Path(folder) / checkpoint.META).exists():
        raise UserError(f"--torch {folder}: holds {checkpoint.META}, so no PyTorch weights but "
                        f"something for --checkpoint")
    try:
        return torch_folders.of_sources(open_sources(folder, **added))
    except UserError as error:
        flags_given = "".join(f" --{name} {value}" for name, value in added.items() if value)
        raise UserError(f"--torch {folder}{flags_given}: {error}") from error


def of_config(file: str, config, vocab: int | None) -> Inventory:
    """As `inventory.of_config`, naming the flag in errors."""
    try:
        found = inventory.of_config(config, vocab=vocab)
        return dataclasses.replace(found, title=f"{file}: {found.title}")
    except UserError as error:
        raise UserError(f"--config {file}: {error}") from error


def check_output(output: str | None) -> None:
    """Raises UserError where no file can be written."""
    if output and pathlib.Path(output).is_dir():
        raise UserError(f"--output {output}: is a folder, the listing is one file")
    if output and "://" not in output and not pathlib.Path(output).parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {pathlib.Path(output).parent}")


def write(found: Inventory, lines: list[listing.Line], mesh: AbstractMesh, *, style: str,
          output: str | None) -> None:
    """Print the listing, or write it to a file."""
    if style == "table" and not output and sys.stdout.isatty():
        return listing.show(found, lines, mesh, Console())
    if style == "json":
        text = json.dumps(listing.as_dict(found, lines, mesh), indent=2) + "\n"
    else:
        text = {"table": listing.as_text, "tsv": listing.as_tsv}[style](
            found, lines, mesh)
    if output:
        files.write_text(checkpoint.absolute(output), text)
    else:
        sys.stdout.write(text)
    return None


if __name__ == "__main__":
    CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Converted checkpoint or training run.")
    TORCH = flags.DEFINE_string("torch", None, "Folder or file of PyTorch weights.")
    CONFIG = recipes.define_flag()
    MORE = {
        "clip": flags.DEFINE_string("clip", None, "Folder of the CLIP vision tower."),
        "sam": flags.DEFINE_string("sam", None, "SAM .pth, or a folder of SamModel."),
        "head": flags.DEFINE_string("head", None, "File or folder with prediction_head.*."),
        "adapter": flags.DEFINE_string("adapter", None, "PEFT LoRA folder on top of --torch.")}
    VOCAB = flags.DEFINE_integer("vocab", None, "Tokens of --config's tokenizer, if that is not "
                                 "there yet.", lower_bound=1)
    MESH = flags.DEFINE_string("mesh", None, "Sizes of the mesh axes data, fsdp and tensor; by "
                               "default 1,1,1, or the mesh of --config with 1 for -1.")
    MATCH = flags.DEFINE_string("match", None, "Only paths in which this pattern is found.")
    DEPTH = flags.DEFINE_integer("depth", None, "One line per first N words of the path.",
                                 lower_bound=1)
    FORMAT = flags.DEFINE_enum("format", "table", ["table", "tsv", "json"], "Of the listing.")
    OUTPUT = flags.DEFINE_string("output", None, "File to write to instead of the terminal.")

    def main() -> int:
        jax.config.update("jax_platforms", "cpu")  # nothing is computed; leave accelerators alone
        added = {name: flag.value for name, flag in MORE.items()}
        name = CONFIG.value and config_flags.get_config_filename(flags.FLAGS["config"])
        source = check_flags({"checkpoint": CHECKPOINT.value, "torch": TORCH.value,
                              "config": name}, added, VOCAB.value)
        check_output(OUTPUT.value)
        mesh = parse_mesh("1,1,1" if MESH.value is None else MESH.value)
        if source == "config":
            found = of_config(name, CONFIG.value, VOCAB.value)
            if MESH.value is None:
                sizes = ",".join("1" if s == -1 else str(s) for s in CONFIG.value.mesh)
                mesh = parse_mesh(sizes, flag="config.mesh")
        elif source == "torch":
            found = of_torch(TORCH.value, **added)
        else:
            found = of_checkpoint(CHECKPOINT.value)
        lines = listing.lines_of(select(found, MATCH.value), mesh, DEPTH.value)
        write(found, lines, mesh, style=FORMAT.value, output=OUTPUT.value)
        return HAS_PROBLEMS if found.problems else 0

    command.run(main)
