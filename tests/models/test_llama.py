"""legion_jax/models/llama.py against LlamaForCausalLM, its cache, and rotary tables."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from random_models import randomized
from torch_side import assert_close, fill, randomize, tensors

from input_pipeline.errors import UserError
from legion_jax.config import LAYER_KERNELS, LanguageConfig, LoraConfig
from legion_jax.models import param_tree
from legion_jax.models.llama import Llama, rope_tables, round_to_bf16

# A large epsilon, so that leaving it out or putting it elsewhere shows.
EPS = 0.05
LENGTH = 11
IDS = np.random.default_rng(0).integers(0, 97, (3, LENGTH))
VALID = np.ones((3, LENGTH), bool)
VALID[1, 7:] = False  # padding behind the text, as in training
VALID[2, 3:6] = False  # and in the middle of it


@pytest.fixture(scope="module")
def theirs(config):
    c = config.language
    return randomize(transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=c.vocab, hidden_size=c.width, intermediate_size=c.mlp,
        num_hidden_layers=c.layers, num_attention_heads=c.heads, num_key_value_heads=c.heads,
        max_position_embeddings=c.max_positions, rms_norm_eps=EPS, tie_word_embeddings=False,
        attn_implementation="eager")))


@pytest.fixture(scope="module")
def legion(config, theirs):
    """The model without LoRA and without values, but for those of `theirs`."""
    config = dataclasses.replace(
        config, language=dataclasses.replace(config.language, norm_eps=EPS), lora=LoraConfig(),
        verdict=None)
    out = param_tree.abstract_model(config)
    out.language = fill(out.language, "language", config, tensors(theirs))
    return out


def test_logits_and_states_with_padding(config, legion, theirs):
    with torch.no_grad():
        out = theirs(torch.from_numpy(IDS), attention_mask=torch.from_numpy(VALID).long(),
                     position_ids=torch.arange(LENGTH)[None].expand(3, -1),
                     output_hidden_states=True)
    states, every = legion.read(legion.language.embed(IDS), VALID, capture=True)
    for ours, expected in zip(every, out.hidden_states, strict=True):
        assert_close(ours, expected)
    np.testing.assert_array_equal(states, every[-1])
    logits = legion.language.logits(states)
    assert logits.dtype == jnp.float32
    assert_close(logits[..., :config.language.vocab], out.logits)


def test_padded_vocabulary_rows_can_never_be_chosen(config, legion):
    states = 100 * jax.random.normal(jax.random.key(0), (50, config.language.width))
    language = jax.tree.map(lambda x: x + 1, legion.language)  # as if padding rows were trained
    logits = np.asarray(language.logits(states))
    assert logits.shape == (50, 128)
    assert (logits[:, 97:] == np.finfo(np.float32).min).all()
    probabilities = np.asarray(jax.nn.softmax(logits))
    assert (probabilities[:, 97:] == 0).all() and np.isfinite(probabilities).all()


def cached_run(language: Llama, ids, pieces: list[int]):
    """States of `ids`, fed in pieces of the given lengths."""
    B, S = ids.shape[0], sum(pieces)
    cache, start, states = language.init_cache(B, S + 3), 0, []
    for length in pieces:
        positions = jnp.broadcast_to(start + jnp.arange(length), (B, length))
        mask = jnp.broadcast_to(
            jnp.arange(S + 3) <= positions[..., None], (B, length, S + 3))[:, None]
        new, cache = language.extend(language.embed(ids[:, start:start + length]), positions,
                                     mask, cache, start)
        states.append(new)
        start += length
    return jnp.concatenate(states, axis=1), cache


@pytest.mark.parametrize("pieces", [[LENGTH], [4] + [1] * 7, [2, 5, 4]])
def test_cached_pass_equals_uncached(model, pieces):
    language, everything = model.language, np.ones(IDS.shape, bool)
    uncached = model.read(language.embed(IDS), everything)
    states, cache = cached_run(language, IDS, pieces)
    assert_close(states, uncached)
    assert cache.key.shape == cache.value.shape == (3, 3, LENGTH + 3, 4, 12)
    assert (np.asarray(cache.key)[:, :, LENGTH:] == 0).all()  # nothing beyond what was fed


def test_cache_index_may_be_traced(model):
    whole, _ = cached_run(model.language, IDS, [LENGTH])
    _, cache = cached_run(model.language, IDS, [LENGTH - 1])
    x, mask = model.language.embed(IDS[:, -1:]), np.ones((3, 1, 1, LENGTH + 2), bool)
    mask[..., LENGTH:] = False

    @jax.jit
    def last(language, cache, index):
        return language.extend(x, jnp.full((3, 1), index), mask, cache, index)[0]

    assert_close(last(model.language, cache, LENGTH - 1), whole[:, -1:])


def test_lora_stands_on_query_and_value_only(model):
    layers = model.language.layers
    with_lora = {name for name in ("query", "key", "value", "out", "gate", "up", "down")
                 if getattr(layers, name).lora_a is not None}
    assert with_lora == {"query", "value"}


@pytest.mark.parametrize("targets", [("key", "down"), LAYER_KERNELS])
def test_lora_stands_where_it_is_told_to_and_equals_merged_weights(config, targets):
    lora = dataclasses.replace(config.lora, targets=targets)
    language = randomized(nnx.eval_shape(lambda: Llama(config.language, lora)))
    flat = param_tree.flatten(nnx.to_pure_dict(nnx.split(language)[1]))
    assert {path.split("/")[1] for path in flat if "lora_" in path} == set(targets)
    for name in targets:
        a, b = (flat.pop(f"layers/{name}/lora_{factor}") for factor in "ab")
        flat[f"layers/{name}/kernel"] += 2.0 * a @ b  # alpha 4, rank 2
    plain = nnx.split(nnx.eval_shape(lambda: Llama(config.language, LoraConfig())))[0]
    assert_close(read(language), read(param_tree.merge(plain, param_tree.unflatten(flat))))
    dropped = dataclasses.replace(lora, dropout=0.5)
    noisy = nnx.merge(nnx.split(nnx.eval_shape(lambda: Llama(config.language, dropped)))[0],
                      nnx.split(language)[1])
    assert np.abs(read(noisy, jax.random.key(3)) - read(noisy)).max() > 0.01


@pytest.mark.parametrize("targets, said", [
    ((), "none"), (("query", "query"), "'query', 'query'"), (("q_proj",), "'q_proj'")])
def test_targets_of_lora_that_are_none(targets, said):
    with pytest.raises(UserError, match=f"lora.targets: some of query, .*, each once, not {said}"):
        LoraConfig(rank=2, targets=targets)


def read(language: Llama, key=None):
    """Uncached pass over IDS without padding."""
    positions = jnp.broadcast_to(jnp.arange(LENGTH), IDS.shape)
    return language(language.embed(IDS), positions, jnp.ones_like(IDS, bool), key=key)


def test_lora_equals_merged_weights(config, model):
    """y = x (W + alpha / rank A B), as a model that has no LoRA."""
    graph, params = nnx.split(nnx.eval_shape(
        lambda: Llama(config.language, LoraConfig())))
    flat = param_tree.flatten(nnx.to_pure_dict(nnx.split(model.language)[1]))
    for name in ("query", "value"):
        a, b = (flat.pop(f"layers/{name}/lora_{factor}") for factor in "ab")
        flat[f"layers/{name}/kernel"] += 2.0 * a @ b  # alpha 4, rank 2
    assert flat.keys() == param_tree.flatten(nnx.to_pure_dict(params)).keys()
    plain = param_tree.merge(graph, param_tree.unflatten(flat))
    assert_close(read(model.language), read(plain))


def test_lora_dropout_is_keyed(config, model):
    def with_dropout(rate):
        lora = dataclasses.replace(config.lora, dropout=rate)
        graph, _ = nnx.split(nnx.eval_shape(
            lambda: Llama(config.language, lora)))
        return nnx.merge(graph, nnx.split(model.language)[1])

    run = jax.jit(read)
    noisy = with_dropout(0.5)
    first, again, other, none = (
        np.asarray(run(noisy, key))
        for key in (jax.random.key(3), jax.random.key(3), jax.random.key(4), None))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    assert np.abs(first - none).max() > 0.01
    assert_close(none, run(with_dropout(0.0)), 1e-6)
    assert_close(run(with_dropout(0.0), jax.random.key(3)), none, 1e-6)


def torch_tables(length: int, head_width: int):
    """cos and sin as the published code computes them, before any rounding."""
    frequency = 1.0 / (10000 ** (torch.arange(0, head_width, 2).float() / head_width))
    angle = torch.outer(torch.arange(length).float(), frequency)
    return angle.cos(), angle.sin()


@pytest.mark.parametrize("head_width", [12, 128])
@pytest.mark.parametrize("compiled", [False, True])
def test_bfloat16_rotary_tables(head_width, compiled):
    """Rounded values also when compiled, and those of PyTorch for every position in use.

    One unit in the last place of a float32 cosine can carry a value over the border between two
    bfloat16 neighbours, so one in ten thousand may differ.
    """
    config = LanguageConfig(width=2 * head_width, heads=2)
    tables = jax.jit(rope_tables, static_argnums=(1, 2)) if compiled else rope_tables
    ours = tables(jnp.arange(2048)[None], config, "bfloat16")
    for table, exact in zip(ours, torch_tables(2048, head_width), strict=True):
        assert table.shape == (1, 2048, 1, head_width // 2) and table.dtype == jnp.float32
        table, expected = np.asarray(table)[0, :, 0], exact.bfloat16().float().numpy()
        np.testing.assert_array_equal(table, table.astype(jnp.bfloat16).astype(np.float32))
        np.testing.assert_array_equal(table[:64], expected[:64])
        assert (table != expected).mean() < 1e-4
        np.testing.assert_allclose(table, expected, rtol=2 ** -7, atol=2e-4)


def test_rounding_is_an_operation_of_its_own():
    """Compilers for accelerators drop a cast to bfloat16 that is cast back at once."""
    x = jnp.array([1 + 2.0 ** -9, -1 - 2.0 ** -7 - 2.0 ** -8, 3e38, 0.0])
    np.testing.assert_array_equal(round_to_bf16(x), x.astype(jnp.bfloat16).astype(jnp.float32))
    compiled = jax.jit(rope_tables, static_argnums=(1, 2)).lower(
        jnp.arange(8)[None], LanguageConfig(), "bfloat16").compile().as_text()
    assert compiled.count("reduce-precision(") == 2


def test_float32_rotary_tables_are_exact():
    config = LanguageConfig(width=256, heads=2)
    ours = jax.jit(rope_tables, static_argnums=(1, 2))(jnp.arange(2048)[None], config, "float32")
    angle = np.arange(2048)[:, None] * 10000.0 ** (-np.arange(0, 128, 2) / 128)
    for table, exact in zip(ours, (np.cos(angle), np.sin(angle)), strict=True):
        np.testing.assert_allclose(np.asarray(table)[0, :, 0], exact, atol=2e-4)
        np.testing.assert_allclose(np.asarray(table)[0, :64, 0], exact[:64], atol=8e-6)
