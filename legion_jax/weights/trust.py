"""Which place a checkpoint may send its reader to.

A run's legion.json names the folder that holds what the run kept frozen. Where the run came from
somebody else, so did that name: a folder of this machine is opened, as is one in the bucket of the
run itself, but another bucket is asked for nothing before the user has said so.
"""

from absl import flags
from etils import epath

from input_pipeline.paths import is_uri
from legion_jax.weights.checkpoint_error import CheckpointError

flags.DEFINE_boolean(
    "trust_base", False, "Fetch a run's frozen parameters from the bucket that its legion.json "
    "names, also where that is not the bucket of the run.")


def check_base(folder: epath.PathLike, base: str) -> None:
    """Raise CheckpointError where `folder` may not send its reader to `base` without a word."""
    said = flags.FLAGS["trust_base"].value  # also where no command has parsed any
    if is_uri(base) and not said and _bucket(base) != _bucket(folder):
        raise CheckpointError(
            f"{folder}: takes its frozen parameters from {base}, another bucket, which is asked "
            f"for nothing without your word: --trust_base where you know both")


def _bucket(path: epath.PathLike) -> str | None:
    scheme, separator, rest = str(path).partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if separator else None
