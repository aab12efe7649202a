"""Every tower of the published sizes trained at once: what a pod is for.

    python -m legion_jax.train --config experiments/pretrain_7b.py --workdir runs/pretrain \\
        --config.init_from=DIR --config.data.data_dir=DIR

Weights and AdamW's moments are float32, 12 bytes per parameter over the fsdp axis; arithmetic is
bfloat16. `init_from` starts from converted towers; empty, with `data.tokenizer`, from nothing.
"""

import ml_collections

from legion_jax.train import recipes

base = recipes.load("base")


def get_config() -> ml_collections.ConfigDict:
    c = base.get_config()
    c.trainable = base.EVERYTHING
    c.model.lora_rank = 0
    c.batch_size = 256
    c.loss.verdict = 1.0
    c.optimizer.learning_rate = 2e-5
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 500
    c.optimizer.total_steps = 20000
    c.optimizer.weight_decay = 0.1
    return c
