"""Compile the real programs for TPUs that are not there, and say what they cost per chip.

    python -m tools.aot_report --config experiments/base.py --topology v5e:4x4 --mesh 1,16,1
    python -m tools.aot_report --table

No TPU, no weights, data or tokenizer: only `pip install -e '.[aot]'`, which brings the compiler.
The train step is the one `legion_jax.train` runs, the decode step the one of
`legion_jax.predict.predictor`. --table compiles the rows of `topology_table.py` one after another
and prints a table in Markdown. The exit code is 2 when a program does not fit its chip.
"""

import dataclasses
import os

import jax
from absl import flags
from rich.console import Console

from input_pipeline import files, paths
from input_pipeline.errors import UserError
from input_pipeline.files import write_json
from legion_jax import command
from legion_jax.chips import Chip
from legion_jax.display.console import DataConsole
from legion_jax.train import recipes
from tools.aot_report import costs, lowering, topologies, topology_table

DOES_NOT_FIT = 2
# Compiling uses no chip: libtpu need not look for one, wait for one, or warn that there is none.
WITHOUT_CHIP = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
                "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
                "TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3"}
LOWER = {"train": lowering.lower_train, "decode": lowering.lower_decode}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The programs of a run, compiled for a topology; `mesh` is {axis: size}."""

    chip: Chip
    topology: str
    mesh: dict[str, int]
    reports: list[costs.Report]


def compile_all(config, *, topology: str, mesh: str, wanted: list[str],
                keep: str | None = None) -> Compiled:
    """Compile the programs `wanted`; their text goes to the folder `keep`. Raises UserError."""
    if unknown := sorted(set(wanted) - LOWER.keys()):
        raise UserError(f"--programs: {', '.join(LOWER)}, not {', '.join(unknown)}")
    chip, devices = topologies.open_topology(topology)
    over = lowering.make_mesh(mesh, devices)
    run = lowering.read_run(config, over)
    return Compiled(chip, topology, dict(over.shape), [
        costs.measure(LOWER[name](run, over), chip, over.size, keep) for name in wanted])


def as_dict(compiled: Compiled) -> dict:
    """Everything, ready for JSON."""
    return {"topology": compiled.topology, "mesh": compiled.mesh,
            "chip": dataclasses.asdict(compiled.chip), "notes": costs.NOTES,
            "programs": [costs.as_dict(report) for report in compiled.reports]}


def show(compiled: Compiled, console: Console) -> None:
    sizes = " x ".join(f"{name} {size}" for name, size in compiled.mesh.items())
    console.print(f"{compiled.chip.name}, topology {compiled.topology}, mesh of {sizes}",
                  highlight=False)
    for report in compiled.reports:
        costs.show(report, compiled.chip, console)
    for note in costs.NOTES:
        console.print(note, highlight=False)


def check_outputs(file: str | None, folder: str | None) -> None:
    """Raises UserError where nothing can be written."""
    if folder:
        files.make_folder(paths.folder(folder, "--hlo"))
    if file:
        paths.file(file, "--json")


def print_table(file: str | None, console: Console) -> int:
    """Compile every row and print the Markdown table; a row is kept in the file as it is made.

    Returns the exit code: a row that fits no chip, or that did not compile, is no success.
    """
    results = []
    for row in topology_table.ROWS:
        results.append((row, topology_table.run(row)))
        console.print(f"done: {' '.join(row.command())}", highlight=False, soft_wrap=True)
        if file:
            write_json(file, [dataclasses.asdict(r) | result for r, result in results])
    print(topology_table.markdown(results), end="")
    whole = all(program["fits"] for _, result in results
                for program in result.get("programs", [{"fits": False}]))
    return 0 if whole else DOES_NOT_FIT


if __name__ == "__main__":
    CONFIG = recipes.define_flag()
    TOPOLOGY = flags.DEFINE_string("topology", None, "Such as v5e:4x4, v6e:16x16 or, for two "
                                   "slices, 2*v5e:4x4.")
    MESH = flags.DEFINE_string("mesh", None, "Sizes of the mesh axes data, fsdp, tensor and, if "
                               "given, sequence; by default those of --config.")
    PROGRAMS = flags.DEFINE_list("programs", ["train", "decode"], "Which ones to compile.")
    JSON = flags.DEFINE_string("json", None, "File to write the same to.")
    HLO = flags.DEFINE_string("hlo", None, "Folder to keep the compiled text in.")
    TABLE = flags.DEFINE_bool("table", False, "Rows of topology_table.py instead of one config.")

    def main() -> int:
        os.environ.update({k: v for k, v in WITHOUT_CHIP.items() if k not in os.environ})
        jax.config.update("jax_platforms", "cpu")  # leaves accelerators of this machine alone
        check_outputs(JSON.value, HLO.value)
        if TABLE.value:
            return print_table(JSON.value, DataConsole(stderr=True))
        if CONFIG.value is None or TOPOLOGY.value is None:
            raise UserError("--config and --topology are needed, or --table alone")
        mesh = MESH.value or ",".join(map(str, CONFIG.value.mesh))
        compiled = compile_all(CONFIG.value, topology=TOPOLOGY.value, mesh=mesh,
                               wanted=PROGRAMS.value, keep=HLO.value)
        show(compiled, DataConsole())
        if JSON.value:
            write_json(JSON.value, as_dict(compiled))
        return 0 if all(report.fits for report in compiled.reports) else DOES_NOT_FIT

    command.run(main)
