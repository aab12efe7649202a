"""Weights of the two mask losses against that of the text, which stays at its base value.

    python -m tools.sweep --sweep experiments/sweeps/loss_weights.py:tiny --output sweeps/weights
"""

from legion_jax.train import recipes
from legion_jax.train.sweep_plan import Sweep, grid

sizes = recipes.load("sweeps/sweep_sizes")


def get_sweep(size: str = "") -> Sweep:
    if size:
        runs = grid({"loss.bce": (0.5, 2.0), "loss.dice": (0.25, 1.0)})
    else:
        # LEGION was published with 0.4 and 0.2, GLaMM, which it builds on, with 2.0 and 0.5.
        runs = grid({"loss.bce": (0.2, 0.4, 0.8, 2.0), "loss.dice": (0.2, 0.5)})
    # The loss is left out: with other weights it is another sum.
    also = tuple(name for name in sizes.ALSO if name != "train.loss") + ("train.ce",)
    return sizes.sweep(size, runs, also)
