"""Masks per photo: regions beyond them stay plain text, and every slot costs a mask decoder.

    python -m tools.sweep --sweep experiments/sweeps/mask_slots.py:tiny --output sweeps/mask_slots
"""

from legion_jax.train import recipes
from legion_jax.train.sweep_plan import Sweep, grid

sizes = recipes.load("sweeps/sweep_sizes")


def get_sweep(size: str = "") -> Sweep:
    slots = (1, 2, 3) if size else (2, 4, 8, 16)  # no scarred photo of the demo has more than 3
    return sizes.sweep(size, grid({"data.mask_slots": slots}))
