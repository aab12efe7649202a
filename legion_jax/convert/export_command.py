"""The command that writes a checkpoint or a training run for PyTorch."""

import jax
from absl import flags

from legion_jax import command
from legion_jax.convert import to_torch
from legion_jax.weights.checkpoint import BEST, define_step_flag, find_step

flags.disclaim_key_flags()  # --help of whatever command calls `main` lists them


def main() -> None:
    """Export as the command line says."""
    checkpoint = flags.DEFINE_string("checkpoint", None, "Converted checkpoint or training run.")
    step = define_step_flag()
    output = flags.DEFINE_string("output", None, "New folder for the PyTorch files.")
    layout = flags.DEFINE_enum("layout", "legion", to_torch.LAYOUTS, "What to write.")
    file_format = flags.DEFINE_enum(
        "format", None, ["bin", "safetensors"],
        "Weights files of layout legion; by default what they came in.")
    flags.mark_flags_as_required(["checkpoint", "output"])

    def run() -> None:
        jax.config.update("jax_platforms", "cpu")  # file work; leave accelerators alone
        wanted = step.value
        # Chosen once: a run that goes on may have another best when the export is done.
        if wanted == BEST and (best := find_step(checkpoint.value, BEST)) is not None:
            wanted = str(best)
            print(f"step {best} of {checkpoint.value}, its best")
        written = to_torch.export(checkpoint.value, output.value, layout=layout.value,
                                  step=wanted, file_format=file_format.value)
        for file, tensors in written.items():
            print(f"{output.value}/{file}: {tensors} tensors")

    command.run(run)
