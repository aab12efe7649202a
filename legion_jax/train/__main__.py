"""Train LEGION: `python -m legion_jax.train --config base --workdir DIR`."""

from absl import flags

from legion_jax import command, distributed
from legion_jax.train import recipes
from legion_jax.train.run import train


def main() -> None:
    """Train as the command line says."""
    config = recipes.define_flag()
    workdir = flags.DEFINE_string("workdir", None, "Where checkpoints and logs go.")
    profile = flags.DEFINE_boolean("profile", False, "Trace a few updates for XProf.")
    hosts = distributed.define_flag()
    flags.mark_flags_as_required(["config", "workdir"])

    def run() -> None:
        with distributed.joined(hosts.value):
            train(config.value, workdir.value, profile=profile.value)

    command.run(run)


if __name__ == "__main__":
    main()
