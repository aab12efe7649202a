"""legion_jax/models/sam_encoder.py against the SAM encoder of transformers, in float32."""

import dataclasses
import re

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from torch_side import assert_close, fill, randomize, tensors

from legion_jax.convert.table import SAM
from legion_jax.models.sam_encoder import SamEncoder, normalize

# Order of the blocks' kinds: the published pattern, and those that need another way of running.
PATTERNS = {
    "regular": (4, (1, 3)),
    "irregular": (4, (0, 2, 3)),
    "windowed blocks at the end": (4, (1,)),
    "global blocks only": (2, (0, 1)),
    "windowed blocks only": (2, ()),
}
PUBLISHED = (
    (r"patch_embed\.projection", "patch_embed.proj"), (r"^layers\.", "blocks."),
    (r"^neck\.conv1", "neck.0"), (r"^neck\.layer_norm1", "neck.1"),
    (r"^neck\.conv2", "neck.2"), (r"^neck\.layer_norm2", "neck.3"),
    (r"layer_norm([12])", r"norm\1"),
)


def published(name: str) -> str:
    """Name in a SAM checkpoint of a tensor of transformers' `SamVisionModel`."""
    name = name.removeprefix("vision_encoder.")
    for pattern, replacement in PUBLISHED:
        name = re.sub(pattern, replacement, name)
    return f"{SAM}image_encoder.{name}"


def pair(config, *, layers: int, global_blocks: tuple[int, ...], window: int = 3,
         remat: str = "none"):
    """(torch model, ours) of the same random weights."""
    c = dataclasses.replace(config.sam, layers=layers, global_blocks=global_blocks, window=window)
    theirs = randomize(transformers.SamVisionModel(transformers.SamVisionConfig(
        hidden_size=c.width, output_channels=c.prompt_width, num_hidden_layers=c.layers,
        num_attention_heads=c.heads, image_size=c.image_size, patch_size=c.patch,
        window_size=c.window, global_attn_indexes=list(c.global_blocks), mlp_dim=c.mlp,
        layer_norm_eps=1e-6, attn_implementation="eager")))
    with torch.no_grad():
        # Activations so small that the epsilon of the norms shows.
        for weight in (theirs.vision_encoder.neck.conv1.weight, theirs.vision_encoder.pos_embed,
                       *theirs.vision_encoder.patch_embed.parameters()):
            weight *= 0.01
    empty = nnx.eval_shape(lambda: SamEncoder(c, remat=remat))
    config = dataclasses.replace(config, sam=c)
    return theirs, fill(empty, "sam_encoder", config, tensors(theirs, published))


@pytest.fixture(scope="module")
def pixels(config):
    side = config.sam.image_size
    return np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)


def channels_first(pixels):
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("layers, global_blocks", PATTERNS.values(), ids=PATTERNS.keys())
def test_embedding_and_every_block(config, pixels, layers, global_blocks):
    theirs, ours = pair(config, layers=layers, global_blocks=global_blocks)
    seen = []
    for block in theirs.vision_encoder.layers:
        block.register_forward_hook(lambda _, inputs, output: seen.append(output))
    with torch.no_grad():
        expected = theirs(channels_first(pixels)).last_hidden_state.permute(0, 2, 3, 1)
        patches = theirs.vision_encoder.patch_embed(channels_first(pixels))
    embedding, our_patches, states = ours(pixels, capture=True)
    assert_close(our_patches, patches)
    assert len(states) == layers
    for state, block in zip(states, seen, strict=True):
        assert_close(state, block)
    assert_close(embedding, expected)


@pytest.mark.parametrize("window", [4, 5, 8])
def test_windows_with_and_without_padding(config, pixels, window):
    theirs, ours = pair(config, layers=2, global_blocks=(1,), window=window)
    with torch.no_grad():
        expected = theirs(channels_first(pixels)).last_hidden_state.permute(0, 2, 3, 1)
    assert_close(ours(pixels), expected)


def test_gradient_with_remat_is_that_of_torch(config, pixels):
    theirs, ours = pair(config, layers=4, global_blocks=(1, 3), remat="layers")
    x = channels_first(pixels).requires_grad_()
    theirs(x).last_hidden_state[:, 0].square().sum().backward()
    gradient = jax.grad(lambda p: (ours(p)[..., 0] ** 2).sum())(pixels)
    assert_close(gradient, x.grad.permute(0, 2, 3, 1))


def test_normalization_leaves_padding_at_zero():
    image = np.full((2, 4, 4, 3), 200, np.uint8)
    ours = np.asarray(jax.jit(normalize)(image, np.array([[4, 2], [1, 3]])))
    expected = np.zeros((2, 4, 4, 3))
    colour = [(200 - 123.675) / 58.395, (200 - 116.28) / 57.12, (200 - 103.53) / 57.375]
    expected[0, :4, :2] = expected[1, :1, :3] = colour
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
