"""Longest side of the photo on SAM's canvas: small photos cost the same and show less.

    python -m tools.sweep --sweep experiments/sweeps/sam_resolution.py:tiny --output sweeps/sam
"""

from experiments.sweeps import plan


def get_sweep(size: str = "") -> plan.Sweep:
    base, common = plan.recipe(size)
    # The published training used 512 of 1024, its inference all of it.
    sides = (64, 96, 128) if size else (512, 768, 1024)
    return plan.Sweep(base=base, common=common, runs=plan.grid({"data.sam_longest": sides}),
                      metric=plan.F1, also=plan.ALSO)
