"""Writes a data set in SynthScars' layout as ArrayRecord files and shows what went in.

python -m tools.prepare_data --dataset synthscars/photos --source DIR --data_dir DIR
"""

import tensorflow_datasets as tfds
from absl import flags
from rich.console import Console
from rich.table import Table

from input_pipeline.synthscars import SKIPPED, prepare, read_summary
from legion_jax import command

DATASETS = ("synthscars/published", "synthscars/photos")

_DATASET = flags.DEFINE_enum("dataset", DATASETS[0], DATASETS, "Data set and its flavour.")
_SOURCE = flags.DEFINE_string("source", None, "Folder with train/ and test/.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared data.", required=True)


def _reasons(counts):
    return "\n".join(f"{count} {reason}" for reason, count in counts.items()) or "none"


def show_summary(builder: tfds.core.DatasetBuilder, console: Console) -> None:
    """Prints a table: per split records, regions, and what was left out and why."""
    table = Table(title=str(builder.data_path), title_justify="left")
    for column in ("split", "records", "regions"):
        table.add_column(column, justify="left" if column == "split" else "right")
    table.add_column("skipped records")
    table.add_column("dropped regions")
    left_out = 0
    for split, counts in read_summary(builder)["splits"].items():
        skipped, dropped = counts["skipped"], counts["dropped"]
        left_out += sum(skipped.values()) + sum(dropped.values())
        numbers = str(counts["records"]), str(counts["regions"])
        table.add_row(split, *numbers, _reasons(skipped), _reasons(dropped))
    console.print(table)
    if left_out:
        console.print(f"Each one is named in {builder.data_path / SKIPPED}", soft_wrap=True)


def main() -> None:
    """Prepares the data set named by the flags."""
    config = _DATASET.value.partition("/")[2]
    show_summary(prepare(_SOURCE.value, _DATA_DIR.value, config=config), Console())


if __name__ == "__main__":
    command.run(main)
