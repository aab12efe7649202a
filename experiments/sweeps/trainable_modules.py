"""Which of the trained parts the published recipe could leave frozen.

    python -m tools.sweep --sweep experiments/sweeps/trainable_modules.py:tiny \\
        --output sweeps/trainable
"""

from legion_jax.train import recipes
from legion_jax.train.sweep_plan import Sweep

sizes = recipes.load("sweeps/sweep_sizes")


def get_sweep(size: str = "") -> Sweep:
    lora, vocabulary, text_projection, mask_decoder = sizes.LOCALISATION
    runs = {
        "published": {"trainable": sizes.LOCALISATION},
        "no_lora": {"trainable": sizes.LOCALISATION[1:], "model.lora_rank": 0},
        "no_vocabulary": {"trainable": (lora, text_projection, mask_decoder)},
        "no_mask_decoder": {"trainable": (lora, vocabulary, text_projection)},
        "masks_only": {"trainable": (text_projection, mask_decoder), "model.lora_rank": 0},
        "and_projector": {"trainable": (*sizes.LOCALISATION, r"^projector/")},
    }
    return sizes.sweep(size, runs)
