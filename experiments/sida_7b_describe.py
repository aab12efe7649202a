"""SIDA's second stage: the language model learns to say what it sees, up to `[END]`.

    python -m legion_jax.train --config experiments/sida_7b_describe.py --workdir runs/describe \\
        --config.init_from=DIR --config.data.data_dir=DIR

`init_from` is the first stage: its run, or its weights with LoRA merged, which is then drawn anew
as in the published training. Its tokenizer needs `[END]` besides. `data_dir` is a SID-Set with
descriptions; answers to photos without one are not learned.
"""

import ml_collections

from legion_jax.config import sida_7b
from legion_jax.train import recipes

first = recipes.load("sida_7b")
POSITIONS = 1024
DESCRIPTION = (r"/lora_[ab]$", r"^language/head/", r"^(mask_decoder|verdict)/")


def get_config() -> ml_collections.ConfigDict:
    c = first.get_config()
    c.trainable = DESCRIPTION
    c.data.dialogue = "sida_described"
    c.data.text_length = POSITIONS + 1 - sida_7b().vision.num_patches
    c.loss.ce = 1.0
    c.loss.bce = c.loss.dice = c.loss.verdict = 0.5
    c.optimizer.total_steps = 500
    c.eval.max_new_tokens = 512
    return c
