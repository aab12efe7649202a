"""Which place a checkpoint may send its reader to.

A run's legion.json names the folder that holds what the run kept frozen, a converted checkpoint's
the files it was made of. Where it came from somebody else, so did that name: a folder of this
machine is opened, as is one in the bucket of the checkpoint itself, but another bucket is asked for
nothing before the user has said so.
"""

from absl import flags
from etils import epath

from input_pipeline.paths import is_uri
from legion_jax.weights.checkpoint_error import CheckpointError

flags.DEFINE_boolean(
    "trust_base", False, "Ask the buckets that a legion.json names, for a run's frozen parameters "
    "or for what was converted, also where they are not the bucket of the checkpoint.")


def check_base(folder: epath.PathLike, base: str) -> None:
    """Raise CheckpointError where `folder` may not send its reader to `base` without a word."""
    check_place(folder, base, "takes its frozen parameters from")


def check_place(folder: epath.PathLike, place: str, verb: str) -> None:
    """The same of anything that its legion.json names; `verb` tells for what."""
    said = flags.FLAGS["trust_base"].value  # also where no command has parsed any
    if is_uri(place) and not said and _bucket(place) != _bucket(folder):
        raise CheckpointError(
            f"{folder}: {verb} {place}, another bucket, which is asked for nothing without your "
            f"word: --trust_base where you know both")


def _bucket(path: epath.PathLike) -> str | None:
    scheme, separator, rest = str(path).partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if separator else None
