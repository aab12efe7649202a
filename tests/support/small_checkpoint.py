"""A converted checkpoint with random weights, its tokenizer, and photos for it."""

import dataclasses

import jax
import numpy as np
import pytest
import stored_params
from random_models import randomized

from input_pipeline.photos import images
from input_pipeline.text import conversation
from input_pipeline.text.tokenizer import train_tokenizer
from legion_jax.models import param_tree
from legion_jax.predict.prediction import Question
from legion_jax.weights import legion_json

TEXTS = ["I have found a grainy patch in the centre.", "Nothing is wrong here."] * 30
QUESTION = Question(instruction="Is it real?", max_new_tokens=12, mask_slots=3)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(TEXTS + [conversation.build_prompt("Is it real?")], 320,
                           tmp_path_factory.mktemp("tokenizer") / "t")


@pytest.fixture(scope="module")
def folder(config, tokenizer, photos, tmp_path_factory):
    """A converted checkpoint with random weights whose [SEG] row wins now and then."""
    root = tmp_path_factory.mktemp("checkpoint")
    sized = dataclasses.replace(config, language=dataclasses.replace(
        config.language, vocab=tokenizer.vocab_size, max_positions=512))
    params = param_tree.flatten(param_tree.split_params(
        randomized(param_tree.abstract_model(sized)), param_tree.EVERYTHING)[1])
    head = np.array(params["language/head/kernel"])
    head[:, tokenizer.seg_id] *= 5
    params |= {"language/head/kernel": head} | divided_verdict(sized, params, photos)
    stored_params.save_params(root, params)
    tokenizer.save(root / "tokenizer")
    legion_json.write_meta(root, sized, base=None, trained=[],
                          question=dataclasses.asdict(QUESTION))
    return root


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (h, w, 3), np.uint8)
            for h, w in ((40, 60), (61, 33), (100, 100), (8, 200), (256, 31))]


def divided_verdict(config, params, photos):
    """A bias of the verdict by which half of the photos are judged real."""
    rows = np.stack([images.clip_image(photo, config.vision.image_size) for photo in photos])
    graph = param_tree.split_params(param_tree.abstract_model(config), param_tree.EVERYTHING)[0]
    logits = jax.jit(lambda params: (lambda m: m.judge(m.see(rows).summary))(
        param_tree.merge(graph, params)))(param_tree.unflatten(params))
    real = config.classes.index("real")
    bias = np.array(params["verdict/down/bias"])
    bias[real] -= np.median(logits[:, real] - logits[:, 1 - real]) + 1e-3
    return {"verdict/down/bias": bias}
