"""FakeVLM (Wen et al., 2025): a LLaVA-1.5 of which everything is trained, to say real or fake.

    python -m legion_jax.train --config experiments/fakevlm_7b.py --workdir runs/fakevlm \\
        --config.init_from=DIR --config.data.data_dir=DIR

`init_from` is a converted LLaVA-1.5, `data_dir` a prepared FakeClue. Weights and AdamW's moments
are float32, 12 bytes per parameter over the fsdp axis; arithmetic is bfloat16.
"""

import ml_collections

from legion_jax.config import fakevlm_7b
from legion_jax.train import recipes

base = recipes.load("base")
POSITIONS = 1024  # of a row, those of the photo included
UPDATES = 812  # two epochs of FakeClue's 104 thousand photos


def get_config() -> ml_collections.ConfigDict:
    c = base.get_config()
    c.trainable = base.EVERYTHING
    c.model.name = "fakevlm_7b"
    c.model.lora_rank = 0
    c.model.position_dtype = "float32"

    c.data.dialogue = "llava15_chat"
    c.data.own_questions = True
    c.data.text_length = POSITIONS + 1 - fakevlm_7b().vision.num_patches

    c.batch_size = 256
    c.log_images_every = 0  # there are no masks
    c.loss.bce = c.loss.dice = 0.0

    c.optimizer.learning_rate = 2e-5
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = "from_zero"
    c.optimizer.total_steps = UPDATES
    # 3 % of the updates, rounded up; follows --config.optimizer.total_steps.
    c.optimizer.warmup_steps = (c.optimizer.get_oneway_ref("total_steps") * 3 + 99) // 100
    c.optimizer.beta2 = 0.999

    c.eval.max_new_tokens = 256
    c.eval.metric = "words.accuracy"
    return c
