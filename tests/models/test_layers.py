"""legion_jax/models/layers.py: Dense with LoRA, activations, patches, stacks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from random_models import randomized
from torch_side import assert_close

from input_pipeline.errors import UserError
from legion_jax.config import REMAT, REMAT_TOWERS, LoraConfig, remat_by_tower
from legion_jax.models.layers import Dense, gelu, patchify, quick_gelu, run_stack, stack
from legion_jax.models.legion import Legion

X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)


def test_dense_is_an_affine_map():
    dense = randomized(Dense(6, 4))
    dense.bias[...] = jnp.arange(4.0)
    assert dense.lora_a is None
    assert_close(dense(X), X @ np.asarray(dense.kernel[...]) + np.arange(4))


def test_lora_adds_its_scaled_product():
    dense = randomized(Dense(6, 4, bias=False, lora=LoraConfig(rank=2, alpha=6.0)))
    kernel, a = np.asarray(dense.kernel[...]), np.asarray(dense.lora_a[...])
    b = np.arange(8, dtype=np.float32).reshape(2, 4)
    dense.lora_b[...] = b
    assert_close(dense(X), X @ (kernel + 3 * a @ b))


def test_lora_dropout_reaches_the_input_of_lora_only():
    """With identities for A and B, what LoRA adds is its input after dropout."""
    dense = randomized(Dense(64, 64, bias=False,
                             lora=LoraConfig(rank=64, alpha=64.0, dropout=0.25)))
    dense.lora_a[...] = dense.lora_b[...] = jnp.eye(64)
    x = np.random.default_rng(0).normal(size=(100, 64)).astype(np.float32)
    base = x @ np.asarray(dense.kernel[...])
    np.testing.assert_allclose(dense(x) - base, x, atol=1e-5)
    added = np.asarray(dense(x, jax.random.key(1)) - base)
    dropped = np.isclose(added, 0, atol=1e-5)
    np.testing.assert_allclose(added, np.where(dropped, 0, x / 0.75), atol=1e-5)
    assert 0.23 < dropped.mean() < 0.27
    np.testing.assert_array_equal(dense(x, jax.random.key(1)), dense(x, jax.random.key(1)))
    assert not np.array_equal(dense(x, jax.random.key(1)), dense(x, jax.random.key(2)))


def test_arithmetic_is_in_the_dtype_of_the_input():
    dense = randomized(Dense(6, 4, lora=LoraConfig(rank=2)))
    assert dense(jnp.asarray(X, jnp.bfloat16)).dtype == jnp.bfloat16
    assert dense.kernel[...].dtype == jnp.float32


@pytest.mark.parametrize("ours, theirs", [
    (gelu, torch.nn.functional.gelu),
    (quick_gelu, lambda x: x * torch.sigmoid(1.702 * x)),
], ids=["gelu", "quick_gelu"])
def test_activations(ours, theirs):
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)), atol=1e-6)


def test_patches_are_the_columns_of_a_convolution():
    pixels = np.random.default_rng(0).normal(size=(2, 6, 9, 3)).astype(np.float32)
    weight = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(weight), stride=3)
    ours = patchify(pixels, 3) @ weight.transpose(2, 3, 1, 0).reshape(27, 4)
    assert_close(ours, expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("remat", REMAT)
def test_stacked_layers_differ_and_run_in_order(remat):
    layers = randomized(stack(lambda: Dense(6, 6, bias=False), 3))
    kernels = np.asarray(layers.kernel[...])
    assert kernels.shape == (3, 6, 6) and not np.array_equal(kernels[0], kernels[1])

    def body(x, layer):
        x = layer(x)
        return x, x

    last, every = run_stack(body, jnp.asarray(X), layers, remat=remat)
    assert_close(last, X @ kernels[0] @ kernels[1] @ kernels[2])
    assert_close(every[0], X @ kernels[0])


def test_what_is_computed_again():
    """Gradients are the same; products with weights run twice only where whole layers do."""
    layers = randomized(stack(lambda: Dense(6, 6, bias=False), 3))

    def body(x, layer):
        y = layer(x).reshape(2, -1, 6)
        return jnp.tanh(y @ y.transpose(0, 2, 1) @ y).reshape(x.shape), None

    def loss(layers, remat):
        return (run_stack(body, jnp.asarray(np.tile(X, (2, 1))), layers, remat=remat)[0] ** 2).sum()

    products, gradients = {}, {}
    for remat in REMAT:
        gradient = jax.jit(jax.grad(loss), static_argnums=1)
        products[remat] = gradient.trace(layers, remat).jaxpr.pretty_print().count("dot_general")
        gradients[remat] = np.asarray(gradient(layers, remat).kernel[...])
    # Three forward and six backward; the two of activations again, and the one with weights too.
    assert products == {"none": 9, "attention": 11, "layers": 12}
    for remat in REMAT:
        assert_close(gradients[remat], gradients["none"])


@pytest.mark.parametrize("text, remats", [
    ("layers", ("layers", "layers", "layers")),
    ("layers,language=attention", ("layers", "attention", "layers")),
    ("vision=none,sam_encoder=layers,language=attention", ("none", "attention", "layers"))])
def test_remat_by_tower(config, text, remats):
    assert remat_by_tower(text) == dict(zip(REMAT_TOWERS, remats, strict=True))
    model = nnx.eval_shape(lambda: Legion(dataclasses.replace(config, remat=text)))
    assert (model.vision.remat, model.language.remat, model.sam_encoder.remat) == remats


@pytest.mark.parametrize("text, words", [
    ("some", "not 'some'"), ("vision=none", "leaves out language, sam_encoder"),
    ("layers,eyes=none", "no tower 'eyes'"), ("layers,vision=", "not ''"),
    ("layers,none", "no tower 'none'")])
def test_remat_that_says_nothing_is_named(config, text, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(config, remat=text)
