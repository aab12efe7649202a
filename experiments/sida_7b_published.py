"""SIDA's first stage as its published code runs it, faults and all; for comparison.

    python -m legion_jax.train --config experiments/sida_7b_published.py --workdir runs/published \\
        --config.init_from=DIR --config.data.data_dir=DIR

Each fault has a switch, which `base.py` explains. For the second stage set the same four in
`sida_7b_describe`, without `doubled_masks`, which that stage does not have.
"""

import ml_collections

from legion_jax.train import recipes

intended = recipes.load("sida_7b")


def get_config() -> ml_collections.ConfigDict:
    c = intended.get_config()
    c.compat.doubled_masks = True
    c.compat.trained_norms = True
    c.compat.fresh_heads = True
    c.compat.nan_without_text = True  # of no consequence without a loss on text
    c.optimizer.warmup = "peak_first"
    return c
