"""The verdict head alone, on a model that experiments/tiny.py trained.

    python -m legion_jax.train --config experiments/detect_tiny.py --workdir runs/detect \\
        --config.init_from=runs/tiny --config.data.data_dir=DIR

The published detection stage: everything frozen but the head, cosine schedule, no warm-up. Only
CLIP runs: terms of weight 0 cost nothing.
"""

import ml_collections

from legion_jax.train import recipes

base, tiny = recipes.load("base"), recipes.load("tiny")


def get_config() -> ml_collections.ConfigDict:
    c = tiny.get_config()
    c.trainable = base.VERDICT_ONLY
    c.frozen_dtype = "float32"
    c.batch_size = 64
    c.loss.ce = 0.0
    c.loss.bce = 0.0
    c.loss.dice = 0.0
    c.loss.verdict = 1.0
    c.optimizer.learning_rate = 1e-3
    c.optimizer.warmup_steps = 0
    c.optimizer.total_steps = 150
    c.optimizer.beta2 = 0.95
    c.optimizer.weight_decay = 0.0
    return c
