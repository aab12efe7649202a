"""Compare two evaluations photo by photo: which is better, by how much, and how sure that is.

    python -m tools.compare RUN_A RUN_B --output DIR

RUN_A and RUN_B are output folders of `legion_jax.evaluate` on the same data, scored by the same
conventions. Writes DIR/compare.json and DIR/compare.html, one file with paired differences (B - A,
bootstrap 95 % intervals, over all photos both scored and by category) and the photos on which the
two differ most, side by side. Their pictures come from --data_dir, or else from the report.html of
either evaluation.
"""

import functools

from absl import flags
from rich.console import Console
from rich.table import Table

from input_pipeline import paths
from legion_jax import command
from legion_jax.evaluate.bootstrap import RESAMPLES
from legion_jax.evaluate.report import comparison, photos
from legion_jax.evaluate.report.folder import Evaluation, open_evaluation


def pictures(data_dir: str | None, a: Evaluation, b: Evaluation):
    """Where the page's pictures come from: a function of a row, or None where there are none."""
    if data_dir is not None:
        source = photos.of_data(data_dir, [str(run.metrics.get("split")) for run in (a, b)])
        return functools.partial(photos.picture_of, source)
    for run in (a, b):
        if (run.path / "report.html").exists():
            return photos.ReportPictures(run.path / "report.html")
    return None


def show(result: dict, run: Evaluation) -> None:
    """Print the differences, named as in the report of `run`."""
    table = Table("", "A", "B", "B - A", "95 % interval", "better")
    for row in comparison.forest(result["differences"], run):
        table.add_row(row.term.name, row.a, row.b, row.difference, row.interval, row.better or "-")
    console = Console()
    console.print(table)
    console.print(f"{result['num_shared']} photos both scored; left out: {result['num_only_a']} "
                  f"that only A has, {result['num_only_b']} that only B has")


if __name__ == "__main__":
    OUTPUT = flags.DEFINE_string("output", None, "Folder for compare.json and compare.html.",
                                 required=True)
    DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared data set, for the photos.")
    MAX_PHOTOS = flags.DEFINE_integer("max_photos", comparison.MAX_PHOTOS,
                                      "Photos in the page, those that differ most.", lower_bound=0)
    SAMPLES = flags.DEFINE_integer("resamples", RESAMPLES, "Bootstrap resamples.", lower_bound=1)
    SEED = flags.DEFINE_integer("seed", 0, "Of the resamples.", lower_bound=0)

    def main(first: str, second: str) -> None:
        """Compares the two folders on the command line."""
        output = paths.folder(OUTPUT.value, "--output")
        a, b = open_evaluation(first), open_evaluation(second)
        compared = comparison.compare(a, b, resamples=SAMPLES.value, seed=SEED.value)
        result = comparison.write_comparison(output, compared, max_photos=MAX_PHOTOS.value,
                                             picture=pictures(DATA_DIR.value, a, b))
        show(result, a)
        print(f"{output / 'compare.html'}")

    command.run(main, arguments=("RUN_A", "RUN_B"))
