"""FakeVLM at the size of the demo: from scratch on scarred photographs, minutes on two CPU cores.

    python -m legion_jax.train --config experiments/tiny_fakevlm.py --workdir runs/tiny_fakevlm \\
        --config.data.data_dir=DIR --config.data.tokenizer=DIR

The answer's words are all that is learned, and the verdict is among them.
"""

import ml_collections

from legion_jax.train import recipes

tiny = recipes.load("tiny")


def get_config() -> ml_collections.ConfigDict:
    c = tiny.get_config()
    c.model.name = "tiny_fakevlm"
    c.data.dialogue = "llava15_chat"
    c.data.instruction = "Does the image looks real/fake?"
    c.data.text_length = 112
    c.log_images_every = 0

    c.loss.ce = 1.0
    c.loss.bce = 0.0
    c.loss.dice = 0.0
    c.loss.verdict = 0.0

    c.batch_size = 32
    c.optimizer.total_steps = 900
    c.checkpoint_every = 150
    c.eval.metric = "detection.accuracy"
    c.eval.max_new_tokens = 100
    return c
