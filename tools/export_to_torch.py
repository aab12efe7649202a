"""Write a checkpoint or a training run for PyTorch.

    python -m tools.export_to_torch --checkpoint DIR --output DIR --layout legion

legion: a folder of the published layout, LoRA merged; OUTPUT/clip holds the vision tower, which
LEGION folders leave out. hf: LLaVA and SAM folders for transformers, and a README.md that puts
them together. adapter: a PEFT LoRA folder with the fully trained modules.
"""

from legion_jax.convert.export_command import main

if __name__ == "__main__":
    main()
