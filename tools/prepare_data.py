"""Turn a data set as downloaded into records, and show what went in.

    python -m tools.prepare_data --dataset synthscars/published --source DIR --data_dir DIR

--source is a folder, or a .zip or .tar that is read without unpacking. --beam reads the images by
Apache Beam: on this machine, or on any cluster Beam knows.
"""

from absl import flags
from etils import epath
from rich.console import Console
from rich.table import Table

from input_pipeline.datasets import ALL, open_dataset
from input_pipeline.records import manifest
from input_pipeline.records.builder import prepare
from input_pipeline.records.record import LABELS
from legion_jax import command
from legion_jax.display.console import DataConsole

NAMES = [f"{name}/{config}" for name, kind in ALL.items() for config in kind.configs]
SPLITS = 6  # columns of a table, as many as fit a terminal


def show_summary(folder: epath.PathLike, console: Console) -> None:
    """Prints what was published and what is there, then every reason for a difference."""
    summary = manifest.read_summary(folder)
    names = list(summary["splits"])
    for start in range(0, len(names), SPLITS):
        splits = {name: summary["splits"][name] for name in names[start:start + SPLITS]}
        console.print(_table("" if start else str(folder), splits))
    if shared := summary["groups_in_several_splits"]:
        console.print(f"{shared:,} of {summary['groups']:,} groups are in several splits: figures "
                      f"on the smaller split will flatter a model trained on the larger")
    if contradictory := summary["images_with_several_labels"]:
        console.print(f"{contradictory:,} images are there several times, with different labels")
    console.print(f"Every item is named in {folder}/*-{manifest.MANIFEST}", soft_wrap=True)


def _table(title: str, splits: dict[str, dict]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("", *splits):
        table.add_column(column, justify="right" if column else "left")
    for name in ("published", "items", "records", "regions"):
        table.add_row(name, *(f"{c[name]:,}" if c[name] is not None else "unknown"
                              for c in splits.values()))
    labels = {str(number): name for number, name in LABELS.items()}
    for kind, text in (("label", "records"), ("skipped", "skipped record"),
                       ("repaired", "repaired"), ("dropped", "dropped region")):
        for reason in sorted({reason for c in splits.values() for reason in c[kind]}):
            shown = labels[reason] if kind == "label" else reason
            table.add_row(f"{text}: {shown}", *(f"{c[kind].get(reason, 0):,}"
                                                for c in splits.values()))
    return table


def main() -> None:
    """Prepares the data set named by the command line and shows what went in."""
    dataset = flags.DEFINE_string("dataset", None, f"One of {', '.join(NAMES)}.", required=True)
    source = flags.DEFINE_string("source", None, "The data set as downloaded.", required=True)
    data_dir = flags.DEFINE_string("data_dir", None, "Folder of prepared data.",
                                   required=True)
    beam = flags.DEFINE_multi_string(
        "beam", None, "Option of the Beam pipeline, such as --runner=DirectRunner; may be "
        "repeated.")

    def run() -> None:
        builder = prepare(open_dataset(dataset.value, source.value), data_dir.value,
                          beam=beam.value)
        show_summary(builder.data_path, DataConsole())

    command.run(run)


if __name__ == "__main__":
    main()
