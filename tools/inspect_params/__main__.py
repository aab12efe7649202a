"""List every parameter of a checkpoint, of PyTorch weights or of a run's config, and the sums.

    python -m tools.inspect_params --checkpoint DIR
    python -m tools.inspect_params --torch DIR --clip DIR
    python -m tools.inspect_params --config experiments/base.py --mesh 1,16,1

DIR of --checkpoint is a converted checkpoint or a training run; --torch, --clip, --sam, --head and
--adapter are what tools.convert_from_torch takes. Values are never read, and no accelerator is
needed for any mesh. The exit code is 2 when tensors are missing, misshapen or without a place.
"""

import contextlib
import dataclasses
import json
import math
import re
import sys
from collections.abc import Iterator

import jax
from absl import flags
from jax.sharding import AbstractMesh
from ml_collections import config_flags

from input_pipeline import files, paths
from input_pipeline.errors import UserError
from legion_jax import command, sharding
from legion_jax.convert.local_copies import LocalCopies
from legion_jax.convert.roles import open_sources
from legion_jax.display.console import DataConsole
from legion_jax.train import recipes
from legion_jax.weights import checkpoint
from tools.inspect_params import inventory, listing
from tools.inspect_params.inventory import Inventory

HAS_PROBLEMS = 2
# Flags that go with --torch.
ADDED = {"clip": "Folder of the CLIP vision tower.", "sam": "SAM .pth, or a folder of SamModel.",
         "head": "File or folder with prediction_head.*.",
         "adapter": "PEFT LoRA folder on top of --torch."}


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


def select(inspected: Inventory, pattern: str | None) -> list[inventory.Parameter]:
    """The parameters whose path the pattern fits. Raises UserError when there is none."""
    if pattern is None:
        return inspected.parameters
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--match: {pattern!r} is no pattern ({error})") from error
    chosen = [p for p in inspected.parameters if regex.search(p.path)]
    if not chosen:
        example = inspected.parameters[0].path if inspected.parameters else "no path at all"
        raise UserError(f"--match: {pattern!r} fits none of {len(inspected.parameters)} paths, "
                        f"such as {example}")
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


@contextlib.contextmanager
def named(flags_given: str) -> Iterator[None]:
    """Begins a UserError of the block with the flags it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{flags_given}: {error}") from error


def of_checkpoint(folder: str) -> Inventory:
    """As `inventory.of_checkpoint`, naming the flag in errors."""
    if not (paths.find(folder, "--checkpoint") / checkpoint.META).exists():
        raise UserError(f"--checkpoint {folder}: no {checkpoint.META} there, so neither a "
                        f"converted checkpoint nor a training run; PyTorch weights are for --torch")
    with named(f"--checkpoint {folder}"):
        return inventory.of_checkpoint(folder)


def of_torch(folder: str, **added: str | None) -> Inventory:
    """As `inventory.of_sources`, naming the flag in errors."""
    if (paths.find(folder, "--torch") / checkpoint.META).exists():
        raise UserError(f"--torch {folder}: holds {checkpoint.META}, so no PyTorch weights but "
                        f"something for --checkpoint")
    given = {"torch": folder} | {name: value for name, value in added.items() if value}
    with named(" ".join(f"--{name} {value}" for name, value in given.items())), (
            LocalCopies()) as copies:
        return inventory.of_sources(open_sources(copies.of(folder), **{
            name: copies.of(value) for name, value in added.items()}))


def of_config(file: str, config, vocab: int | None) -> Inventory:
    """As `inventory.of_config`, naming the flag in errors."""
    with named(f"--config {file}"):
        inspected = inventory.of_config(config, vocab=vocab)
        return dataclasses.replace(inspected, title=f"{file}: {inspected.title}")


def write(inspected: Inventory, lines: list[listing.Line], mesh: AbstractMesh, *, style: str,
          output: str | None) -> None:
    """Print the listing, or write it to a file."""
    if style == "table" and not output and sys.stdout.isatty():
        return listing.show(inspected, lines, mesh, DataConsole())
    if style == "json":
        text = json.dumps(listing.as_dict(inspected, lines, mesh), indent=2) + "\n"
    else:
        text = {"table": listing.as_text, "tsv": listing.as_tsv}[style](
            inspected, lines, mesh)
    if output:
        files.write_text(paths.absolute(output), text)
    else:
        sys.stdout.write(text)
    return None


def main() -> None:
    """List what the command line names."""
    checkpoint_folder = flags.DEFINE_string(
        "checkpoint", None, "Converted checkpoint or training run.")
    torch_folder = flags.DEFINE_string("torch", None, "Folder or file of PyTorch weights.")
    config = recipes.define_flag()
    added_folders = {name: flags.DEFINE_string(name, None, text) for name, text in ADDED.items()}
    vocab = flags.DEFINE_integer("vocab", None, "Tokens of --config's tokenizer, if that is not "
                                 "there yet.", lower_bound=1)
    mesh_sizes = flags.DEFINE_string(
        "mesh", None, "Sizes of the mesh axes data, fsdp and tensor; by default 1,1,1, or the mesh "
        "of --config with 1 for -1.")
    match = flags.DEFINE_string("match", None, "Only paths in which this pattern is found.")
    depth = flags.DEFINE_integer("depth", None, "One line per first N words of the path.",
                                 lower_bound=1)
    style = flags.DEFINE_enum("format", "table", ["table", "tsv", "json"], "Of the listing.")
    output = flags.DEFINE_string("output", None, "File to write to instead of the terminal.")

    def run() -> int:
        jax.config.update("jax_platforms", "cpu")  # nothing is computed; leave accelerators alone
        added = {name: flag.value for name, flag in added_folders.items()}
        file = config.value and config_flags.get_config_filename(flags.FLAGS["config"])
        source = check_flags({"checkpoint": checkpoint_folder.value, "torch": torch_folder.value,
                              "config": file}, added, vocab.value)
        if output.value:
            paths.file(output.value, "--output")
        mesh = parse_mesh("1,1,1" if mesh_sizes.value is None else mesh_sizes.value)
        if source == "config":
            inspected = of_config(file, config.value, vocab.value)
            if mesh_sizes.value is None:
                sizes = ",".join("1" if s == -1 else str(s) for s in config.value.mesh)
                mesh = parse_mesh(sizes, flag="config.mesh")
        elif source == "torch":
            inspected = of_torch(torch_folder.value, **added)
        else:
            inspected = of_checkpoint(checkpoint_folder.value)
        lines = listing.lines_of(select(inspected, match.value), mesh, depth.value)
        write(inspected, lines, mesh, style=style.value, output=output.value)
        return HAS_PROBLEMS if inspected.problems else 0

    command.run(run)


if __name__ == "__main__":
    main()
