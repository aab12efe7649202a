"""FakeVLM on few devices: LoRA on all kernels of the language model's layers, nothing else.

    python -m legion_jax.train --config experiments/fakevlm_7b_lora.py --workdir runs/lora \\
        --config.init_from=DIR --config.data.data_dir=DIR

The published script offers it, with these numbers; the released model was not made so.
"""

import ml_collections

from legion_jax.config import LAYER_KERNELS
from legion_jax.train import recipes

full = recipes.load("fakevlm_7b")


def get_config() -> ml_collections.ConfigDict:
    c = full.get_config()
    c.trainable = (r"/lora_[ab]$",)
    c.model.lora_rank = 8
    c.model.lora_alpha = 8.0
    c.model.lora_targets = LAYER_KERNELS
    return c
