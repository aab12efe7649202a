"""The demo: every tower from scratch on scarred photographs, minutes on two CPU cores.

    python -m legion_jax.train --config experiments/tiny.py --workdir runs/tiny \\
        --config.data.data_dir=DIR --config.data.tokenizer=DIR
"""

import ml_collections

from legion_jax.train import recipes

base = recipes.load("base")


def get_config() -> ml_collections.ConfigDict:
    c = base.get_config()
    c.trainable = base.EVERYTHING
    c.model.name = "tiny"
    c.model.lora_rank = 0
    c.model.dtype = "float32"
    c.model.position_dtype = "float32"
    c.model.remat = "none"

    # A short question: the published one alone would be half of the sequence.
    c.data.instruction = "Is this photo real? Name and mask every artifact."
    c.data.text_length = 144
    c.data.mask_slots = 3
    c.data.mask_canvas = 176

    c.batch_size = 16
    c.log_every = 25
    c.log_images_every = 90
    c.checkpoint_every = 90
    c.loss.ce = 3.0
    c.loss.bce = 2.0
    c.loss.dice = 1.0
    c.loss.verdict = 3.0

    c.optimizer.learning_rate = 1e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 50
    c.optimizer.total_steps = 540
    c.optimizer.beta2 = 0.98
    c.optimizer.weight_decay = 0.01

    c.eval.batch_size = 16
    c.eval.max_new_tokens = 110
    return c
