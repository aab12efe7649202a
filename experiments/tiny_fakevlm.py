"""FakeVLM's parts at the size of the demo: an answer in words, of which the verdict is read.

    python -m legion_jax.train --config experiments/tiny_fakevlm.py --workdir runs/tiny_fakevlm \\
        --config.data.data_dir=DIR --config.data.tokenizer=DIR

A tokenizer for it is made by `input_pipeline.text.dialogue.LLAVA15_CHAT.train_tokenizer`, and all
of it by `python -m tools.demo --system fakevlm`.
"""

import ml_collections

from legion_jax.train import recipes

tiny = recipes.load("tiny")


def get_config() -> ml_collections.ConfigDict:
    c = tiny.get_config()
    c.model.name = "tiny_fakevlm"
    c.data.dialogue = "llava15_chat"
    c.data.instruction = ""
    c.data.text_length = 96
    c.log_images_every = 0
    c.loss.ce = 1.0
    c.loss.bce = c.loss.dice = c.loss.verdict = 0.0
    # Words alone teach the tower what to look for, which takes longer than masks and a head do.
    c.optimizer.total_steps = 1200
    c.optimizer.warmup = "from_zero"
    c.checkpoint_every = 150
    c.eval.max_new_tokens = 80
    c.eval.metric = "detection.accuracy"
    return c
