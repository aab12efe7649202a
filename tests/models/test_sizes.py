"""The published sizes, parameter by parameter, without allocating anything."""

import math

import pytest

from experiments import base
from legion_jax.config import LegionConfig, LoraConfig, legion_7b
from legion_jax.convert.names import is_known
from legion_jax.convert.table import SAM, rules
from legion_jax.models import param_tree
from tools import make_random_checkpoint

# Counts of the published model: 32007 tokens, LoRA of rank 8.
COUNTS = {
    "embed_tokens": 131_100_672,
    "lm_head": 131_100_672,
    "language layers": 6_476_267_520,
    "final norm": 4_096,
    "projector": 20_979_712,
    "SAM image encoder": 637_026_048,
    "SAM prompt encoder": 6_220,
    "SAM mask decoder": 4_058_340,
    "text_hidden_fcs": 17_830_144,
    "region encoder": 299_142_912,
    "verdict": 2_103_298,
}
KEYS = {
    "embed_tokens": "model.embed_tokens.", "lm_head": "lm_head.",
    "language layers": "model.layers.", "final norm": "model.norm.",
    "projector": "model.mm_projector.",
    "SAM image encoder": f"{SAM}image_encoder.", "SAM prompt encoder": f"{SAM}prompt_encoder.",
    "SAM mask decoder": f"{SAM}mask_decoder.", "text_hidden_fcs": "model.text_hidden_fcs.",
    "region encoder": "model.region_encoder.", "verdict": "prediction_head.",
}
BUFFERS = ("rotary_emb.inv_freq", "positional_encoding_gaussian_matrix")
TOTAL = 7_719_619_634  # without CLIP and LoRA
TRAINED = 587_427_044  # printed by the published training


@pytest.fixture(scope="module")
def lora() -> LegionConfig:
    return legion_7b(lora=LoraConfig(rank=8))


@pytest.fixture(scope="module")
def params(lora) -> dict:
    return param_tree.abstract_params(lora)


def published_shapes(config: LegionConfig) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the tensors of a published LEGION checkpoint, without CLIP."""
    abstract = param_tree.abstract_params(config)
    shapes = dict(make_random_checkpoint.published_shapes(config))
    for rule in rules(config):
        if not rule.path.startswith("vision/"):
            shape = rule.layout.torch_shape(abstract[rule.path].shape[rule.keys.ndim:])
            for key in rule.keys.ravel():
                assert key not in shapes
                shapes[key] = shape
    return shapes


@pytest.fixture(scope="module")
def tensors(lora) -> dict:
    return published_shapes(lora)


def parameters(tensors: dict, prefix) -> int:
    return sum(math.prod(shape) for key, shape in tensors.items()
               if key.startswith(prefix) and not key.endswith(BUFFERS))


@pytest.mark.parametrize("part", COUNTS)
def test_parameters_of_a_part(tensors, part):
    assert parameters(tensors, KEYS[part]) == COUNTS[part]


def test_all_parameters(tensors):
    assert parameters(tensors, "") == sum(COUNTS.values()) == TOTAL


def test_number_of_tensors(tensors):
    assert len(tensors) == 972
    assert len(published_shapes(legion_7b(verdict=None))) == 968


@pytest.mark.parametrize("key, shape", [
    ("lm_head.weight", (32007, 4096)),
    ("model.embed_tokens.weight", (32007, 4096)),
    ("model.layers.31.mlp.down_proj.weight", (4096, 11008)),
    ("model.layers.0.self_attn.rotary_emb.inv_freq", (64,)),
    ("model.norm.weight", (4096,)),
    ("model.mm_projector.0.weight", (4096, 1024)),
    ("model.text_hidden_fcs.0.2.weight", (256, 4096)),
    (SAM + "image_encoder.pos_embed", (1, 64, 64, 1280)),
    (SAM + "image_encoder.patch_embed.proj.weight", (1280, 3, 16, 16)),
    (SAM + "image_encoder.blocks.6.attn.rel_pos_h", (27, 80)),
    (SAM + "image_encoder.blocks.7.attn.rel_pos_w", (127, 80)),
    (SAM + "image_encoder.neck.0.weight", (256, 1280, 1, 1)),
    (SAM + "image_encoder.neck.2.weight", (256, 256, 3, 3)),
    (SAM + "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", (2, 128)),
    (SAM + "prompt_encoder.no_mask_embed.weight", (1, 256)),
    (SAM + "prompt_encoder.mask_downscaling.6.weight", (256, 16, 1, 1)),
    (SAM + "mask_decoder.transformer.layers.1.cross_attn_image_to_token.out_proj.weight",
     (256, 128)),
    (SAM + "mask_decoder.output_upscaling.3.weight", (64, 32, 2, 2)),
    (SAM + "mask_decoder.output_hypernetworks_mlps.3.layers.2.weight", (32, 256)),
    (SAM + "mask_decoder.iou_prediction_head.layers.2.bias", (4,)),
    ("model.region_encoder.roi_align.flatten_linear.weight", (1024, 200704)),
    ("prediction_head.2.weight", (2, 2048)),
])
def test_name_and_shape(tensors, key, shape):
    assert tensors[key] == shape


def test_unmodelled_tensors_are_known_and_modelled_ones_are_not(lora):
    assert all(is_known(key) for key in make_random_checkpoint.published_shapes(lora))
    modelled = [key for rule in rules(lora) if not rule.path.startswith("vision/")
                for key in rule.keys.ravel()]
    assert not any(is_known(key) for key in modelled)


def test_clip_has_23_of_its_24_blocks(params):
    blocks = {path: a.shape for path, a in params.items() if path.startswith("vision/layers/")}
    assert {shape[0] for shape in blocks.values()} == {23}
    assert params["vision/position"].shape == (577, 1024)


def test_lora(params):
    lora = {path: a for path, a in params.items() if "lora_" in path}
    assert param_tree.count(lora) == 4_194_304
    assert {path.split("/")[2] for path in lora} == {"query", "value"}


def test_trained_parameters(lora):
    """What the published recipe trains: the vocabulary without our padding rows."""
    _, trained, frozen = param_tree.split_params(
        param_tree.abstract_model(lora), base.LOCALISATION)
    padding = 2 * (lora.language.padded_vocab - lora.language.vocab) * 4096
    assert lora.language.padded_vocab == 32128
    assert param_tree.count(trained) - padding + COUNTS["region encoder"] == TRAINED
    assert not param_tree.flatten(trained).keys() & param_tree.flatten(frozen).keys()


def test_every_parameter_has_one_rule(lora):
    paths = [rule.path for rule in rules(lora)]
    without_lora = param_tree.abstract_params(legion_7b())
    assert sorted(paths) == sorted(without_lora)
