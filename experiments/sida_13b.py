"""SIDA's first stage with LLaMA-2-13B; as sida_7b.

    python -m legion_jax.train --config experiments/sida_13b.py --workdir runs/sida_13b \\
        --config.init_from=DIR --config.data.data_dir=DIR
"""

import ml_collections

from legion_jax.train import recipes

smaller = recipes.load("sida_7b")


def get_config() -> ml_collections.ConfigDict:
    c = smaller.get_config()
    c.model.name = "sida_13b"
    return c
