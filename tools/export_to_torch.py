"""Write a checkpoint or a training run back in the published PyTorch layout, LoRA merged.

    python -m tools.export_to_torch --checkpoint DIR --output DIR

OUTPUT is a LEGION folder; OUTPUT/clip holds the vision tower, which LEGION folders leave out.
"""

import jax
from absl import flags

from legion_jax import command
from legion_jax.convert import export

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Converted checkpoint or training run.")
OUTPUT = flags.DEFINE_string("output", None, "New folder for the PyTorch files.")
FORMAT = flags.DEFINE_enum("format", "bin", ["bin", "safetensors"],
                           "Weights file of a model that did not come from PyTorch.")


def main() -> None:
    jax.config.update("jax_platforms", "cpu")  # file work; leave accelerators alone
    written = export.export(CHECKPOINT.value, OUTPUT.value, file_format=FORMAT.value)
    print(f"{OUTPUT.value}: " + ", ".join(f"{n} tensors ({role})" for role, n in written.items()))


if __name__ == "__main__":
    flags.mark_flags_as_required(["checkpoint", "output"])
    command.run(main)
