"""SIDA's parts at the size of the demo: a verdict on `[CLS]`, one mask on `[SEG]`, both fused.

    python -m legion_jax.train --config experiments/tiny_sida.py --workdir runs/tiny_sida \\
        --config.data.data_dir=DIR --config.data.tokenizer=DIR

A tokenizer for it is made by `input_pipeline.text.dialogue.SIDA_DESCRIBED.train_tokenizer`. Both
stages at once: nothing was learned before, so answers are learned from the start, whether they say
a label alone or more.
"""

import ml_collections

from legion_jax.train import recipes

tiny = recipes.load("tiny")


def get_config() -> ml_collections.ConfigDict:
    c = tiny.get_config()
    c.model.name = "tiny_sida"
    c.data.dialogue = "sida_described"
    c.data.instruction = "Is this photo real?"
    c.data.learn_labels = True
    c.data.mask_slots = 1
    c.data.soft_masks = True
    c.optimizer.warmup = "from_zero"
    return c
