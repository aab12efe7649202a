"""Run a recipe several times with other knobs, and compare one number.

    python -m tools.sweep --sweep experiments/sweeps/lora_rank.py --output sweeps/lora_rank \\
        --set init_from=weights --set data.data_dir=data

`--sweep FILE:tiny` takes the small version, on what `make demo` made. Every run is trained, and
evaluated if the sweep wants it, in a process of its own under OUTPUT/runs/NAME, its output in
log.txt; OUTPUT/table.md, table.csv and plot.svg are written anew after each of them. The same
command after a stop of any kind leaves finished runs alone and continues broken ones. A run that
failed is reported and the others go on; the exit code is then 2.

On a cluster: `--print_commands` prints a line of shell per run, `--index N` does or prints run N
alone, from 0, and `--collect` writes the table and the plot from what there is.
"""

import itertools
import pathlib
import shlex
import sys
from collections.abc import Sequence

from absl import flags

from input_pipeline import paths
from input_pipeline.printed import shown
from legion_jax import command
from legion_jax.train.sweep_plan import Sweep, SweepError
from tools.sweep import process, results_table
from tools.sweep.runs import Run, check_folders, check_unchanged, make_runs, read_sweep


def chosen(runs: Sequence[Run], index: int | None) -> Sequence[Run]:
    """All runs, or the one of --index. Raises SweepError when there is no such one."""
    if index is None:
        return runs
    if not 0 <= index < len(runs):
        raise SweepError(f"--index: 0 to {len(runs) - 1}, got {index}")
    return [runs[index]]


def print_commands(runs: Sequence[Run]) -> None:
    """One line of shell per run, each to be run from the repository root.

    Raises SweepError before the first for a word that would begin another line or is not printed.
    """
    for run in runs:
        for word in itertools.chain.from_iterable(run.commands()):
            if "\n" in word or shown(word) != word:
                raise SweepError(f"run {run.name}: {word!a} cannot stand in a line of shell")
    for run in runs:
        print(" && ".join(shlex.join(words) for words in run.commands()))


def execute(sweep: Sweep, runs: Sequence[Run], output: pathlib.Path, *,
            collect: bool) -> dict[str, str]:
    """Do what is left of the runs, one after another.

    Args:
        collect: write the table and the plot after every run.

    Returns:
        {name: what went wrong} of the runs that failed.
    """
    check_folders(runs)
    failures: dict[str, str] = {}
    if collect:
        results_table.collect(sweep, runs, output, failures)
    with process.Progress(runs) as progress:
        for run in runs:
            if run.finished():
                continue
            if reason := process.finish(run, progress):
                failures[run.name] = reason
            progress.report(run, reason)
            if collect:
                results_table.collect(sweep, runs, output, failures)
    return failures


def main(options) -> int:
    """The whole command; returns the exit code."""
    output = paths.local_only(options.output, "--output", "a sweep locks the folder of each run")
    sweep = read_sweep(options.sweep)
    runs = make_runs(sweep, output, options.set)
    selected = chosen(runs, options.index)
    if options.print_commands:
        print_commands(selected)
        return 0
    alone = options.index is not None
    if options.collect:
        for run in runs:
            check_unchanged(run)
        failures = {}
        results_table.collect(sweep, runs, output, failures)
    else:
        failures = execute(sweep, selected, output, collect=not alone)
    if not alone:
        print(results_table.markdown(sweep, results_table.rows_of(sweep, runs, failures)))
        print(f"{output / 'table.md'}, table.csv, plot.svg")
    for name, reason in failures.items():
        print(f"run {name} failed: {reason}; see {output / 'runs' / name / 'log.txt'}",
              file=sys.stderr)
    return 2 if failures else 0


if __name__ == "__main__":
    flags.DEFINE_string("sweep", None, "Sweep file, or FILE:tiny.", required=True)
    flags.DEFINE_string("output", None, "Folder of the sweep.", required=True)
    flags.DEFINE_multi_string("set", [], "KNOB=VALUE for all runs; repeat it for more knobs.")
    flags.DEFINE_integer("index", None, "Only this run, from 0.")
    flags.DEFINE_bool("print_commands", False, "Print the commands and do nothing.")
    flags.DEFINE_bool("collect", False, "Only write the table and the plot.")
    command.run(lambda: main(flags.FLAGS))
