"""legion_jax/models/attention.py against attention with all logits at once, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from legion_jax import sharding
from legion_jax.models import attention


def normal(*shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def agree(mine, plain, arguments):
    """Outputs and the gradients of all arguments."""
    def both(run):
        def loss(arguments):
            output = run(*arguments)
            return (jnp.sin(output) ** 2).sum(), output
        return jax.jit(jax.grad(loss, has_aux=True))(arguments)

    for ours, expected in zip(jax.tree.leaves(both(mine)), jax.tree.leaves(both(plain)),
                              strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-5)


@pytest.mark.parametrize("first", [None, 12])
@pytest.mark.parametrize("block", [2 ** 19, 200, *(
    pytest.param(block, marks=pytest.mark.slow) for block in (6000, 1500))])
def test_masked_in_blocks_of_any_size(monkeypatch, block, first):
    """Many heads at once, one head, blocks that do not divide the queries, one query."""
    monkeypatch.setattr(attention, "BLOCK", block)
    T, S = 67, 79
    mask = jnp.arange(S) <= jnp.arange(T)[:, None] + S - T
    mask = mask[None, None] & (jnp.arange(S) != 5)
    mask = jnp.concatenate([mask, mask & (jnp.arange(S) != 9)])
    agree(lambda *qkv: attention.masked_attention(*qkv, mask, first=first),
          lambda *qkv: jax.nn.dot_product_attention(*qkv, mask=mask),
          normal((2, T, 4, 8), (2, S, 4, 8), (2, S, 4, 8)))


def test_what_no_causal_query_sees_is_not_computed():
    """Four parts of 64 queries see 64, 128, 192 and 256 keys: five eighths of all logits."""
    qkv, valid = normal(*3 * [(1, 256, 1, 16)]), jnp.ones((1, 256), bool)

    def products(run, *arguments):
        return jax.jit(run).lower(*arguments).cost_analysis()["flops"]

    mask = jnp.tril(jnp.ones((256, 256), bool))[None, None]
    whole = products(attention.masked_attention, *qkv, mask)
    assert 0.6 * whole < products(attention.causal_attention, *qkv, valid) < 0.68 * whole


def test_causal_with_padding():
    valid = jnp.ones((2, 70), bool).at[1, 50:].set(False)
    agree(lambda *qkv: jnp.where(valid[..., None, None],
                                 attention.causal_attention(*qkv, valid), 0),
          lambda *qkv: jnp.where(valid[..., None, None],
                                 attention.causal_by_mask(*qkv, valid), 0),
          normal(*3 * [(2, 70, 4, 8)]))


@pytest.mark.parametrize("block", [2 ** 19, 100, *(
    pytest.param(block, marks=pytest.mark.slow) for block in (7000, 1000))])
def test_grid_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setattr(attention, "BLOCK", block)
    S, heads = 9, 2
    shape, table = (3, S * S, heads, 8), (3, heads, S, S, S)
    agree(attention.grid_attention, attention.grid_with_bias,
          normal(shape, shape, shape, table, table))


def test_one_query_of_each_row_and_a_layer_of_a_cache():
    q, keys, values = normal((3, 1, 4, 8), (2, 3, 70, 4, 8), (2, 3, 70, 4, 8))
    mask = jnp.arange(70) < jnp.array([70, 1, 33])[:, None]
    mask = mask[:, None, None]
    for layer in (0, 1):
        np.testing.assert_allclose(
            jax.jit(attention.cached_attention)(q, keys, values, layer, mask),
            jax.nn.dot_product_attention(q, keys[layer], values[layer], mask=mask), atol=1e-6)


def has_loop(run, *arguments) -> bool:
    return "while" in jax.jit(run).lower(*arguments).as_text()


def test_short_or_split_queries_are_left_alone():
    long, short = (normal((8, T, 2, 8)) * 3 for T in (64, 63))
    mask = jnp.ones((1, 1, 64, 64), bool)
    assert has_loop(attention.masked_attention, *long, mask)
    assert not has_loop(attention.masked_attention, *short, mask[..., :63, :63])
    with jax.set_mesh(sharding.make_mesh((8, 1, 1))):
        assert not has_loop(attention.masked_attention, *long, mask)
    with jax.set_mesh(sharding.make_mesh((1, 1, 1), jax.devices()[:1])):
        assert has_loop(attention.masked_attention, *long, mask)
