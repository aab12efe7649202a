"""Write a checkpoint or a training run for PyTorch.

    python -m tools.export_to_torch --checkpoint DIR --output DIR --layout legion

legion: a folder of the published layout, LoRA merged; OUTPUT/clip holds the vision tower, which
LEGION folders leave out. hf: LLaVA and SAM folders for transformers, and a README.md that puts
them together. adapter: a PEFT LoRA folder with the fully trained modules.
"""

import jax
from absl import flags

from legion_jax import command
from legion_jax.convert import to_torch

if __name__ == "__main__":
    CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Converted checkpoint or training run.")
    OUTPUT = flags.DEFINE_string("output", None, "New folder for the PyTorch files.")
    LAYOUT = flags.DEFINE_enum("layout", "legion", to_torch.LAYOUTS, "What to write.")
    FORMAT = flags.DEFINE_enum("format", None, ["bin", "safetensors"],
                               "Weights files of layout legion; by default what they came in.")

    def main() -> None:
        jax.config.update("jax_platforms", "cpu")  # file work; leave accelerators alone
        written = to_torch.export(CHECKPOINT.value, OUTPUT.value, layout=LAYOUT.value,
                                  file_format=FORMAT.value)
        for file, number in written.items():
            print(f"{OUTPUT.value}/{file}: {number} tensors")

    flags.mark_flags_as_required(["checkpoint", "output"])
    command.run(main)
