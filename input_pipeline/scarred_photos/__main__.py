"""Make the data set: `python -m input_pipeline.scarred_photos --output DIR --num_train 2000`."""

import signal
import sys

from absl import app, flags

from input_pipeline import paths
from input_pipeline.errors import UserError
from input_pipeline.scarred_photos.dataset_folder import make_dataset
from input_pipeline.scarred_photos.layouts import LAYOUTS


def main() -> None:
    """Makes the data set the command line describes."""
    output = flags.DEFINE_string("output", None, "New folder for the data set.", required=True)
    train = flags.DEFINE_integer("num_train", 2000, "Images of the train split.", lower_bound=1)
    test = flags.DEFINE_integer("num_test", 200, "Images of the test split.", lower_bound=1)
    size = flags.DEFINE_integer("size", 160, "Mean side in pixels.", lower_bound=64)
    seed = flags.DEFINE_integer("seed", 0, "Seed of every random choice.", lower_bound=0)
    layout = flags.DEFINE_enum("layout", "synthscars", list(LAYOUTS),
                               "Published data set whose folders and annotations are imitated.")

    def run(arguments: list[str]) -> None:
        # legion_jax.command, which all other commands use, is not for this package to import.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        if unexpected := arguments[1:]:
            sys.exit(f"error: unexpected argument {unexpected[0]!r}; every argument is a --flag")
        try:
            folder = make_dataset(
                paths.folder(output.value, "--output"), num_train=train.value,
                num_test=test.value, size=size.value, seed=seed.value,
                layout=layout.value, progress=True)
        except (UserError, OSError) as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
        print(f"{folder}: {train.value} train and {test.value} test images")

    app.run(run)


if __name__ == "__main__":
    main()
