"""Train LEGION: `python -m legion_jax.train --config experiments/RUN.py --workdir DIR`."""

from absl import flags
from ml_collections import config_flags

from legion_jax import command, distributed
from legion_jax.train import knobs
from legion_jax.train.run import train


def main() -> None:
    """Train as the command line says."""
    config = config_flags.DEFINE_config_file("config", None, "File with get_config().")
    workdir = flags.DEFINE_string("workdir", None, "Where checkpoints and logs go.")
    profile = flags.DEFINE_boolean("profile", False, "Trace a few updates for XProf.")
    hosts = distributed.define_flag()
    flags.mark_flags_as_required(["config", "workdir"])

    def run() -> None:
        with distributed.joined(hosts.value):
            train(knobs.check(config.value), workdir.value, profile=profile.value)

    command.run(run)


if __name__ == "__main__":
    main()
