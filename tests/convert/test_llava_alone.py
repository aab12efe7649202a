"""Layout hf of a FakeVLM: transformers opens it and computes what our model computes."""

import dataclasses

import family_folders
import jax
import jax.numpy as jnp
import layouts
import numpy as np
import pytest
import torch
import transformers
from random_models import QUICK_COMPILE
from stored_params import read_params
from torch_side import assert_close

from input_pipeline.photos.images import clip_image
from input_pipeline.text import conversation
from input_pipeline.text.dialogue import LLAVA15_CHAT
from input_pipeline.text.tokenizer import IMAGE_ID
from legion_jax.config import LoraConfig, VerdictConfig
from legion_jax.convert.names import LLAVA_5_FILE
from legion_jax.models import param_tree
from legion_jax.models.layers import numerics
from legion_jax.weights.checkpoint import Checkpoint

QUESTION = "Is it real?"


@pytest.fixture(scope="module")
def small(config):
    """A base of rotary tables and norms whose values show, and rows that are no tokens."""
    language = dataclasses.replace(config.language, vocab=300, norm_eps=0.01, rope_base=500.0,
                                   max_positions=512)
    return dataclasses.replace(
        config, language=language, vision=dataclasses.replace(config.vision, norm_eps=0.01),
        lora=LoraConfig(), sam=None, verdict=VerdictConfig("words", ("real", "fake"), hidden=0))


@pytest.fixture(scope="module")
def folders(small, tmp_path_factory):
    """(the checkpoint, its export), from a LLaVA without a template and in one of two spellings."""
    root = tmp_path_factory.mktemp("llava")
    tensors = {name: np.float32(0.3) * value
               for name, value in family_folders.random_tensors(small).items()}
    family_folders.fakevlm(root / "in", small, tensors, table=LLAVA_5_FILE, spare=3)
    (root / "in" / "chat_template.json").unlink()
    layouts.convert(root / "in", root / "jax")
    return root / "jax", layouts.write(root / "jax", root / "out", "hf")


@pytest.fixture(scope="module")
def processor(folders):
    return transformers.AutoProcessor.from_pretrained(folders[1])


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (90, 75, 3), np.uint8)


def test_logits_are_ours(small, folders, processor, photo):
    model, report = transformers.LlavaForConditionalGeneration.from_pretrained(
        folders[1], output_loading_info=True)
    assert not any(report.values()), report
    inputs = processor(images=photo, text=LLAVA15_CHAT.prompt(QUESTION), return_tensors="pt")
    with torch.no_grad():
        theirs = model(**inputs).logits
    tokenizer = Checkpoint.open(folders[0]).tokenizer
    ids = conversation.encode_prompt(tokenizer, QUESTION, dialogue=LLAVA15_CHAT)
    index = conversation.image_index(ids)

    def forward(params):
        legion = param_tree.merge(graph, param_tree.unflatten(params))
        view = clip_image(photo, small.vision.image_size)[None]
        embeddings = legion.embed(jnp.asarray(ids)[None], legion.see(view), index)
        states = legion.read(embeddings, jnp.ones(embeddings.shape[:2], bool))
        return legion.language.logits(states)[..., :small.language.vocab]

    graph, _, _ = param_tree.split_params(param_tree.abstract_model(small), param_tree.EVERYTHING)
    with numerics(small):
        ours = jax.jit(forward, compiler_options=QUICK_COMPILE)(
            {path: jnp.asarray(value) for path, value in read_params(folders[0]).items()})
    assert_close(ours, theirs, 1e-4)
    assert float(theirs.std()) > 0.1


def test_processor_reads_what_our_pipeline_reads(small, folders, processor, photo):
    """The prompt of the template, its ids with a photo, and what pads and ends."""
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    turns = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    assert text == LLAVA15_CHAT.prompt(QUESTION)
    answered = [*turns, {"role": "assistant", "content": [{"type": "text", "text": "No."}]}]
    assert processor.apply_chat_template(answered) == "".join(
        part.text for part in LLAVA15_CHAT.parts([(QUESTION, "No.")])).removesuffix("</s>")
    tokenizer = Checkpoint.open(folders[0]).tokenizer
    ids = conversation.encode_prompt(tokenizer, QUESTION, dialogue=LLAVA15_CHAT).tolist()
    index, image = ids.index(IMAGE_ID), tokenizer.added["<image>"]
    made = processor(images=photo, text=text)["input_ids"][0]
    assert list(made) == ids[:index] + [image] * small.vision.num_patches + ids[index + 1:]
    generation = transformers.GenerationConfig.from_pretrained(folders[1])
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (
        1, 2, tokenizer.pad_id)
    assert processor.tokenizer.pad_token_id == tokenizer.pad_id
    assert generation.suppress_tokens is None


def test_what_transformers_5_saves_comes_in(small, folders, tmp_path):
    """Its config has other fields, its processor other files, and no SentencePiece model."""
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folders[1])
    fresh = transformers.LlavaForConditionalGeneration(model.config)
    fresh.load_state_dict(model.state_dict())
    fresh.save_pretrained(tmp_path / "saved")
    assert "lm_head.weight" not in layouts.raw(tmp_path / "saved")
    summary = layouts.convert(tmp_path / "saved", tmp_path / "jax",
                              tokenizer=str(folders[0] / "tokenizer"))
    layouts.assert_same_arrays(read_params(tmp_path / "jax"), read_params(folders[0]))
    assert summary.config == Checkpoint.open(folders[0]).meta.config
