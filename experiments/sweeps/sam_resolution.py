"""Longest side of the photo on SAM's canvas: small photos cost the same and show less.

    python -m tools.sweep --sweep experiments/sweeps/sam_resolution.py:tiny --output sweeps/sam
"""

from legion_jax.train import recipes
from legion_jax.train.sweep_plan import Sweep, grid

sizes = recipes.load("sweeps/sweep_sizes")


def get_sweep(size: str = "") -> Sweep:
    # The published training used 512 of 1024, its inference all of it.
    sides = (64, 96, 128) if size else (512, 768, 1024)
    return sizes.sweep(size, grid({"data.sam_longest": sides}))
