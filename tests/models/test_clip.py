"""legion_jax/models/clip.py against the vision tower of transformers, in float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from torch_side import assert_close, fill, randomize, tensors

from legion_jax.config import LegionConfig
from legion_jax.models.clip import ClipTower, normalize

# A large epsilon, so that leaving it out or putting it elsewhere shows.
EPS = 0.05


@pytest.fixture(scope="module")
def theirs(config):
    c = config.vision
    return randomize(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(
        hidden_size=c.width, intermediate_size=c.mlp, num_hidden_layers=c.layers,
        num_attention_heads=c.heads, image_size=c.image_size, patch_size=c.patch,
        layer_norm_eps=EPS, hidden_act="quick_gelu")))


def tower(config: LegionConfig, theirs, **changes) -> ClipTower:
    remat = changes.pop("remat", "none")
    config = dataclasses.replace(
        config, vision=dataclasses.replace(config.vision, norm_eps=EPS, **changes))
    state = tensors(theirs, lambda name: f"vision_model.{name.removeprefix('vision_model.')}")
    empty = nnx.eval_shape(lambda: ClipTower(config.vision, remat=remat))
    return fill(empty, "vision", config, state)


@pytest.fixture(scope="module")
def pixels(config):
    side = config.vision.image_size
    return np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def hidden_states(theirs, pixels):
    with torch.no_grad():
        return theirs(torch.from_numpy(pixels).permute(0, 3, 1, 2),
                      output_hidden_states=True).hidden_states


def test_every_hidden_state(config, theirs, pixels, hidden_states):
    selected, states = tower(config, theirs, select_layer=-1)(pixels, capture=True)
    assert len(states) == len(hidden_states) == 1 + config.vision.layers
    for ours, expected in zip(states, hidden_states, strict=True):
        assert_close(ours, expected)
    np.testing.assert_array_equal(selected, states[-1])


@pytest.mark.parametrize("select, blocks", [(-2, 2), (-1, 3), (-3, 1), (1, 1), (3, 3)])
def test_selected_state_is_that_entry_of_the_list(config, theirs, pixels, hidden_states, select,
                                                  blocks):
    ours = tower(config, theirs, select_layer=select)
    assert ours.layers.query.kernel.shape[0] == blocks
    assert_close(ours(pixels), hidden_states[select])


def test_remat_changes_nothing(config, theirs, pixels):
    plain = tower(config, theirs)
    again = tower(config, theirs, remat="layers")
    assert_close(jax.jit(again)(pixels), plain(pixels), 1e-6)


def test_gradient_of_remat_is_that_of_torch(config, theirs, pixels):
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).requires_grad_()
    theirs(x, output_hidden_states=True).hidden_states[-2].square().sum().backward()
    ours = tower(config, theirs, remat="layers")
    gradient = jax.grad(lambda p: (ours(p) ** 2).sum())(pixels)
    assert_close(gradient, x.grad.permute(0, 2, 3, 1))


def test_normalization_is_the_published_chain_of_roundings():
    bytes_ = np.arange(256, dtype=np.uint8)
    image = np.stack([bytes_, bytes_[::-1], bytes_], axis=-1).reshape(1, 16, 16, 3)
    reference = transformers.image_transforms.normalize(
        (image[0] * (1 / 255)).astype(np.float32), [0.48145466, 0.4578275, 0.40821073],
        [0.26862954, 0.26130258, 0.27577711])
    ours = jax.jit(normalize)(image)
    assert ours.dtype == jnp.float32
    np.testing.assert_array_equal(ours[0], reference)
