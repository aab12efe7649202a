"""Which of the trained parts the published recipe could leave frozen.

    python -m tools.sweep --sweep experiments/sweeps/trainable_modules.py:tiny \\
        --output sweeps/trainable
"""

from experiments.sweeps import plan


def get_sweep(size: str = "") -> plan.Sweep:
    base, common = plan.recipe(size)
    lora, vocabulary, text_projection, mask_decoder = base.LOCALISATION
    runs = {
        "published": {"trainable": base.LOCALISATION},
        "no_lora": {"trainable": base.LOCALISATION[1:], "model.lora_rank": 0},
        "no_vocabulary": {"trainable": (lora, text_projection, mask_decoder)},
        "no_mask_decoder": {"trainable": (lora, vocabulary, text_projection)},
        "masks_only": {"trainable": (text_projection, mask_decoder), "model.lora_rank": 0},
        "and_projector": {"trainable": (*base.LOCALISATION, r"^projector/")},
    }
    return plan.Sweep(base=base, common=common, runs=runs, metric=plan.F1, also=plan.ALSO)
