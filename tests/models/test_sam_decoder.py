"""legion_jax/models/sam_decoder.py against the mask decoder of transformers, in float32."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from torch_side import assert_close, fill, randomize, tensors

from legion_jax.config import SamConfig
from legion_jax.convert.table import SAM
from legion_jax.models.sam_decoder import MaskDecoder, PromptEncoder

PUBLISHED = (
    (r"^shared_image_embedding\.positional_embedding",
     "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"upscale_conv1", "output_upscaling.0"), (r"upscale_layer_norm", "output_upscaling.1"),
    (r"upscale_conv2", "output_upscaling.3"), (r"layer_norm_final_attn", "norm_final_attn"),
    (r"layer_norm(\d)", r"norm\1"),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.(\d)",
     lambda m: f"{m[1]}.layers.{int(m[2]) + 1}"),
    (r"\.proj_in\.", ".layers.0."),
)


def published(name: str) -> str:
    """Name in a SAM checkpoint of a tensor of transformers' `SamModel`."""
    for pattern, replacement in PUBLISHED:
        name = re.sub(pattern, replacement, name)
    return SAM + name


def pair(config, *, iou_layers: int = 3, decoder_layers: int = 2, scale: float = 1.0):
    """(torch model, our prompt encoder, our mask decoder) of the same random weights.

    `scale` multiplies whatever feeds a norm: the smaller it is, the more an epsilon shows.
    """
    c = dataclasses.replace(config.sam, iou_layers=iou_layers, decoder_layers=decoder_layers)
    config = dataclasses.replace(config, sam=c)
    theirs = randomize(transformers.SamModel(transformers.SamConfig(
        vision_config=dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                           image_size=c.image_size, patch_size=c.patch,
                           output_channels=c.prompt_width, num_pos_feats=c.prompt_width // 2),
        prompt_encoder_config=dict(hidden_size=c.prompt_width, image_size=c.image_size,
                                   patch_size=c.patch, mask_input_channels=c.mask_channels),
        mask_decoder_config=dict(
            hidden_size=c.prompt_width, mlp_dim=c.decoder_mlp, num_hidden_layers=decoder_layers,
            num_attention_heads=c.decoder_heads, iou_head_depth=iou_layers,
            iou_head_hidden_dim=c.iou_hidden, layer_norm_eps=1e-5))))
    with torch.no_grad():
        theirs.shared_image_embedding.positional_embedding *= 5  # as spread as the published one
        for name, value in theirs.mask_decoder.named_parameters():
            if re.search(r"token|out_proj|lin2|upscale_conv1", name):
                value *= scale
    state = tensors(theirs, published)
    for head, last in [("iou_prediction_head", iou_layers - 1)] + [
            (f"output_hypernetworks_mlps.{i}", 2) for i in range(4)]:
        for kind in ("weight", "bias"):
            state[f"{SAM}mask_decoder.{head}.layers.{last}.{kind}"] = state.pop(
                f"{SAM}mask_decoder.{head}.proj_out.{kind}")
    prompt = nnx.eval_shape(lambda: PromptEncoder(c, position_dtype="float32"))
    decoder = nnx.eval_shape(lambda: MaskDecoder(c))
    return (theirs, fill(prompt, "prompt_encoder", config, state),
            fill(decoder, "mask_decoder", config, state))


@jax.jit
def decode(decoder, prompt, image, texts):
    """In one program, which takes less time than one for each operation."""
    return decoder(image, prompt.no_mask[...], prompt.positions(), texts)


def both(theirs, prompt, decoder, *, scale: float = 1.0):
    """((masks, iou) of ours, of torch) for 3 text prompts on each of 2 images."""
    rng, grid = np.random.default_rng(0), prompt.grid
    D = prompt.no_mask.shape[0]
    image = (scale * rng.normal(size=(2, grid, grid, D))).astype(np.float32)
    texts = (scale * rng.normal(size=(2, 3, D))).astype(np.float32)
    ours = decode(decoder, prompt, image, texts)
    with torch.no_grad():
        _, dense = theirs.prompt_encoder(None, None, None, None)
        masks, iou = theirs.mask_decoder(
            image_embeddings=torch.from_numpy(image).permute(0, 3, 1, 2),
            image_positional_embeddings=theirs.get_image_wide_positional_embeddings().repeat(
                2, 1, 1, 1),
            sparse_prompt_embeddings=torch.from_numpy(texts)[:, :, None],
            dense_prompt_embeddings=dense, multimask_output=False)
    return ours, (masks[:, :, 0], iou[:, :, 0])


@pytest.mark.parametrize("iou_layers, decoder_layers", [(3, 2), (4, 3)])
def test_first_mask_of_text_prompts(config, iou_layers, decoder_layers):
    models = pair(config, iou_layers=iou_layers, decoder_layers=decoder_layers)
    (masks, iou), (their_masks, their_iou) = both(*models)
    grid = config.sam.grid
    assert masks.shape == (2, 3, 4 * grid, 4 * grid) and masks.dtype == jnp.float32
    assert_close(masks, their_masks)
    assert_close(iou, their_iou)


def test_epsilons_of_the_norms(config):
    (masks, iou), (their_masks, their_iou) = both(*pair(config, scale=0.01), scale=0.01)
    assert_close(masks, their_masks)
    assert_close(iou, their_iou)


def test_prompts_do_not_see_each_other(config):
    _, prompt, decoder = pair(config)
    rng, c = np.random.default_rng(0), config.sam
    image = rng.normal(size=(2, c.grid, c.grid, c.prompt_width)).astype(np.float32)
    texts = rng.normal(size=(2, 3, c.prompt_width)).astype(np.float32)
    together, _ = decode(decoder, prompt, image, texts)
    alone, _ = decode(decoder, prompt, image[1:], texts[1:, 2:])
    assert_close(together[1:, 2:], alone)


def test_positions_are_those_of_transformers(config):
    theirs, prompt, _ = pair(config)
    expected = theirs.get_image_wide_positional_embeddings()[0].permute(1, 2, 0)
    assert_close(jax.jit(lambda p: p.positions())(prompt), expected)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("grid, width", [(64, 256), (10, 32)])
def test_bfloat16_positions_are_those_of_torch(grid, width, compiled):
    """Bit for bit the published expression with every tensor in bfloat16."""
    encoder = PromptEncoder(SamConfig(image_size=16 * grid, prompt_width=width),
                            position_dtype="bfloat16")
    encoder.frequencies[...] = jax.random.normal(jax.random.key(2), encoder.frequencies.shape)
    frequencies = torch.from_numpy(np.array(encoder.frequencies[...])).bfloat16()
    centre = (torch.arange(grid).bfloat16() + 0.5) / grid
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    angle = 2 * np.pi * ((2 * torch.stack([x, y], dim=-1) - 1) @ frequencies)
    expected = torch.cat([angle.sin(), angle.cos()], dim=-1)
    assert expected.dtype == torch.bfloat16
    positions = PromptEncoder.positions
    ours = (jax.jit(positions) if compiled else positions)(encoder)
    assert ours.dtype == jnp.float32
    np.testing.assert_array_equal(ours, expected.float().numpy())
