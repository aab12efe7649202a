"""Compare two evaluations photo by photo: which is better, by how much, and how sure that is.

    python -m tools.compare RUN_A RUN_B --output DIR

RUN_A and RUN_B are output folders of `legion_jax.evaluate` on the same data, scored by the same
conventions. Writes DIR/compare.json and DIR/compare.html, one file with paired differences (B - A,
bootstrap 95 % intervals, over all photos both scored and by category) and the photos on which the
two differ most, side by side. Their pictures come from --data_dir; without it the page has none.
"""

import functools

from absl import flags
from rich.table import Table

from input_pipeline import paths
from legion_jax import command
from legion_jax.display.console import DataConsole
from legion_jax.evaluate.intervals import RESAMPLES
from legion_jax.evaluate.report import comparison, photos
from legion_jax.evaluate.report.folder import Evaluation, open_evaluation


def pictures(data_dir: str | None, a: Evaluation, b: Evaluation):
    """Where the page's pictures come from: a function of a row, or None where there are none."""
    if data_dir is None:
        return None
    source = photos.of_data(data_dir, [str(run.metrics.get("split")) for run in (a, b)])
    return functools.partial(photos.picture_of, source)


def show(result: dict, run: Evaluation) -> None:
    """Print the differences, named as in the report of `run`."""
    table = Table("", "A", "B", "B - A", "95 % interval", "better")
    for row in comparison.forest(result["differences"], run):
        table.add_row(row.term.name, row.a, row.b, row.difference, row.interval, row.better or "-")
    console = DataConsole()
    console.print(table)
    console.print(f"{result['num_shared']} photos both scored; left out: {result['num_only_a']} "
                  f"that only A has, {result['num_only_b']} that only B has")


def main() -> None:
    """Compare the two folders on the command line."""
    flags.DEFINE_string("output", None, "Folder for compare.json and compare.html.", required=True)
    flags.DEFINE_string("data_dir", None, "Prepared data set, for the photos.")
    flags.DEFINE_integer("max_photos", comparison.MAX_PHOTOS,
                         "Photos in the page, those that differ most.", lower_bound=0)
    flags.DEFINE_integer("resamples", RESAMPLES, "Bootstrap resamples.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the resamples.", lower_bound=0)
    asked = flags.FLAGS

    def compare(first: str, second: str) -> None:
        output = paths.folder(asked.output, "--output")
        a, b = open_evaluation(first), open_evaluation(second)
        compared = comparison.compare(a, b, resamples=asked.resamples, seed=asked.seed)
        result = comparison.write_comparison(output, compared, max_photos=asked.max_photos,
                                             picture=pictures(asked.data_dir, a, b))
        show(result, a)
        print(f"{output / 'compare.html'}")

    command.run(compare, arguments=("RUN_A", "RUN_B"))


if __name__ == "__main__":
    main()
