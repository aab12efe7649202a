"""Masks per photo: regions beyond them stay plain text, and every slot costs a mask decoder.

    python -m tools.sweep --sweep experiments/sweeps/mask_slots.py:tiny --output sweeps/mask_slots
"""

from experiments.sweeps import plan


def get_sweep(size: str = "") -> plan.Sweep:
    base, common = plan.recipe(size)
    slots = (1, 2, 3) if size else (2, 4, 8, 16)  # no scarred photo of the demo has more than 3
    return plan.Sweep(base=base, common=common, runs=plan.grid({"data.mask_slots": slots}),
                      metric=plan.F1, also=plan.ALSO)
