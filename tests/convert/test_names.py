"""legion_jax/convert/names.py: both directions, and the names of transformers' own models."""

import dataclasses
import json

import numpy as np
import published
import pytest
import safetensors.numpy
import transformers

from legion_jax.config import LoraConfig, legion_7b
from legion_jax.convert import config_files
from legion_jax.convert.names import (
    CLIP,
    CLIP_5,
    CLS_TOWER,
    LLAVA_5,
    LLAVA_5_FILE,
    LLAVA_NEW,
    LLAVA_OLD,
    PUBLISHED,
    SAM_HF,
    SAM_ORIGINAL,
    TABLES,
    _rename,
    detect,
    sam_hf,
)
from legion_jax.convert.table import SAM, rules
from tools.make_random_checkpoint import published_shapes

LLAVA = (LLAVA_OLD, LLAVA_NEW, LLAVA_5, LLAVA_5_FILE)
# Published tensors that LLaVA and SAM have no place for.
ELSEWHERE = ("model.text_hidden_fcs.", "prediction_head.", "model.region_encoder.")
# Buffers that transformers computes itself.
COMPUTED = "rotary_emb.inv_freq"
# `shared_image_embedding.positional_embedding` again, in memory and in `.bin` files.
DUPLICATE = "prompt_encoder.shared_embedding.positional_embedding"


@pytest.fixture(scope="module")
def sized(config):
    return dataclasses.replace(config, lora=LoraConfig())


@pytest.fixture(scope="module")
def tensors(sized):
    out = published.random_tensors(sized, "float32")
    out["vision_model.post_layernorm.bias"] = out["vision_model.post_layernorm.weight"]
    return out


def shapes(state) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def of_llava(tensors):
    return {k: v for k, v in tensors.items()
            if not k.startswith((SAM, *ELSEWHERE)) and not k.endswith(COMPUTED)}


def of_sam(tensors):
    return {k: v for k, v in tensors.items() if k.startswith(SAM)}


def build(kind, config_kind, files):
    return kind(config_kind.from_dict(json.loads(files["config.json"])))


@pytest.fixture(scope="module")
def llava(sized):
    c = sized
    return build(transformers.LlavaForConditionalGeneration, transformers.LlavaConfig,
                 config_files.llava_files(c, blocks=c.vision.layers, rows=c.language.vocab,
                                          image_token=0, dtype="float32"))


def saved(model, folder) -> dict[str, np.ndarray]:
    model.save_pretrained(folder)
    return safetensors.numpy.load_file(folder / "model.safetensors")


def assert_renames(table, published_shapes, shapes_here):
    """`table` takes exactly the tensors of one side to exactly those of the other."""
    there = {table.from_published(k): s for k, s in published_shapes.items()}
    assert there == shapes_here
    assert {table.to_published(k): s for k, s in shapes_here.items()} == published_shapes


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_name_maps_there_and_back(tensors, table):
    tower = ("model.vision_tower.vision_tower.vision_model.post_layernorm.bias",)
    known = [k for k in (*tensors, *tower) if table.from_published(k) is not None]
    assert known
    here = [table.from_published(k) for k in known]
    assert [table.to_published(k) for k in here] == known
    assert len(set(here)) == len(here)
    for side, names in enumerate((known, here)):
        for name in names:
            fits = [pair for pair in table.pairs
                    if _rename(name, pair[side], "") is not None]
            assert len(fits) == 1, (name, fits)


def test_names_of_the_published_size():
    """Numbers of two digits, and CLIP's last block, which the model does not run."""
    config = legion_7b()
    names = {k for rule in rules(config) for k in rule.keys.ravel()} | set(published_shapes(config))
    tower = {f"vision_model.encoder.layers.23.layer_norm1.{kind}" for kind in ("weight", "bias")}
    for table in TABLES:
        known = [k for k in sorted(names | tower) if table.from_published(k) is not None]
        assert [table.to_published(table.from_published(k)) for k in known] == known
        if table in LLAVA:
            assert {k for k in names | tower if k.startswith("vision_model.")} < set(known)
        if table == SAM_HF:
            assert set(known) == {k for k in names if k.startswith(SAM)}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_unknown_names_have_no_translation(table):
    for name in ("novelty", "model.novelty.weight", "mask_decoder", "language_model."):
        assert table.to_published(name) is None
        assert table.from_published(name) is None


def test_names_that_sam_of_transformers_does_not_have():
    for name in (DUPLICATE, "prompt_encoder.mask_embed.conv4.weight",
                 "mask_decoder.iou_prediction_head.layers.1.weight"):
        assert SAM_HF.to_published(name) is None


def test_identity_tables(tensors):
    for table, belongs in ((CLIP, True), (PUBLISHED, False)):
        for key in tensors:
            expected = key if key.startswith("vision_model.") is belongs else None
            assert table.to_published(key) == table.from_published(key) == expected


def test_names_of_a_llava_in_memory_and_on_disk(llava, tensors, tmp_path):
    expected = shapes(of_llava(tensors))
    assert_renames(LLAVA_5, expected, shapes(llava.state_dict()))
    assert_renames(LLAVA_5_FILE, expected, shapes(saved(llava, tmp_path)))


@pytest.mark.parametrize("table", LLAVA, ids=lambda table: table.name)
def test_transformers_opens_every_llava_and_keeps_its_names(llava, tensors, tmp_path, table):
    llava.save_pretrained(tmp_path)
    renamed = {table.from_published(k): v for k, v in of_llava(tensors).items()}
    published.save(tmp_path / "model.safetensors", renamed)
    model, report = transformers.LlavaForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, tensors[LLAVA_5.to_published(name)])
    assert saved(model, tmp_path / "again").keys() == renamed.keys()


def test_only_the_region_branch_has_no_place_in_transformers(tensors):
    left = [k for k in tensors if not k.startswith(("model.text_hidden_fcs.", "prediction_head."))
            and all(table.from_published(k) is None for table in (*LLAVA, SAM_HF))]
    assert left == [k for k in tensors if k.startswith("model.region_encoder.")]


def test_names_of_a_clip_tower(llava, tensors, tmp_path):
    expected = {k: s for k, s in shapes(tensors).items() if k.startswith("vision_model.")}
    tower = transformers.CLIPVisionModel(llava.config.vision_config)
    assert_renames(CLIP_5, expected, shapes(tower.state_dict()))
    assert_renames(CLIP_5, expected, shapes(saved(tower, tmp_path)))


@pytest.mark.parametrize("iou_layers", [3, 4])
def test_names_of_a_sam_in_memory_and_on_disk(sized, tmp_path, iou_layers):
    config = dataclasses.replace(sized, sam=dataclasses.replace(sized.sam, iou_layers=iou_layers))
    expected = shapes(of_sam(published.random_tensors(config, "float32")))
    model = build(transformers.SamModel, transformers.SamConfig, config_files.sam_files(config))
    memory, disk = shapes(model.state_dict()), shapes(saved(model, tmp_path))
    assert memory.keys() - disk.keys() == {DUPLICATE}
    assert_renames(sam_hf(iou_layers), expected, disk)
    assert detect(memory) == detect(disk) == sam_hf(iou_layers)


def test_original_sam(tensors):
    names = [SAM_ORIGINAL.from_published(k) for k in of_sam(tensors)]
    assert "image_encoder.blocks.0.attn.rel_pos_h" in names
    assert detect(names) == SAM_ORIGINAL


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_layouts_are_recognised(tensors, table):
    names = [here for k in tensors if (here := table.from_published(k)) is not None]
    assert detect(names) == table
    assert detect([*names, "novelty"]) == table


def test_recognition_of_mixtures():
    tower = "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight"
    assert detect([tower]) == CLS_TOWER
    assert detect([tower, "prediction_head.0.weight"]) == PUBLISHED
    whole = ["vision_model.pre_layrnorm.weight", "logit_scale", "visual_projection.weight"]
    assert detect(whole) == CLIP
    assert detect(["novelty"]) is None
    assert detect([]) is None
