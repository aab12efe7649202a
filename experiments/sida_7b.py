"""SIDA (Huang et al., 2025), first stage: a verdict of three classes, a mask of what was changed.

    python -m legion_jax.train --config experiments/sida_7b.py --workdir runs/sida \\
        --config.init_from=DIR --config.data.data_dir=DIR

`init_from` is a converted LISA with SIDA's tokens, `data_dir` a prepared SID-Set. No text is
learned: `sida_7b_describe` goes on from here and teaches the language model what to say. This is
the published training as it was meant; `sida_7b_published` has its faults.
"""

import ml_collections

from legion_jax.config import sida_7b
from legion_jax.train import recipes

base = recipes.load("base")
POSITIONS = 512  # of a row, those of the photo included
DETECTION = (r"/lora_[ab]$", r"^language/embed/",
             r"^(text_projection|mask_decoder|verdict|fusion)/")


def get_config() -> ml_collections.ConfigDict:
    c = base.get_config()
    c.trainable = DETECTION
    c.model.name = "sida_7b"

    c.data.dialogue = "sida"
    c.data.text_length = POSITIONS + 1 - sida_7b().vision.num_patches
    c.data.mask_slots = 1
    c.data.soft_masks = True

    c.batch_size = 160  # on each of 8 devices 2 photos, 10 times
    c.accumulation = 10
    c.loss.ce = 0.0
    c.loss.bce = c.loss.dice = c.loss.verdict = 1.0

    c.optimizer.warmup = "from_zero"
    c.optimizer.warmup_steps = 100
    c.optimizer.total_steps = 10000

    c.eval.max_new_tokens = 64
    c.eval.metric = "detection.accuracy"
    return c
