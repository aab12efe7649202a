"""A part that a config leaves out costs nothing: no view, parameter, program or operation."""

import dataclasses

import jax
import numpy as np
import pytest
import relatives
from random_models import IMAGE_INDEX, QUICK_COMPILE, SEG_ID, random_batch, randomized

from input_pipeline.batches.examples import ExampleSpec, fields
from input_pipeline.errors import UserError
from legion_jax import config as architecture, sharding
from legion_jax.config import TOKEN, WORDS, VerdictConfig
from legion_jax.models import flops, param_tree, tower_views
from legion_jax.models.reading import Reading, read_text, see
from legion_jax.predict.decoding import Rules
from legion_jax.predict.programs import Answering, Programs
from legion_jax.train import losses

CLS_ID = 91
MASKS = {"sam_image", "resized_size", "original_size", "masks", "mask_valid"}


def parts(config) -> set[str]:
    return {path.split("/")[0] for path in param_tree.abstract_params(config)}


def spec_of(config) -> ExampleSpec:
    return ExampleSpec(tower_views.of_vision(config), tower_views.of_sam(config), 14, 3, 32, "")


def test_parameters_of_each_system(config):
    common = {"vision", "projector", "language"}
    masks = {"sam_encoder", "prompt_encoder", "mask_decoder", "text_projection"}
    assert parts(config) == common | masks | {"verdict"}
    assert parts(relatives.fakevlm(config)) == common
    assert parts(relatives.sida(config)) == common | masks | {"verdict", "fusion"}
    assert not parts(dataclasses.replace(config, verdict=None)) & {"verdict", "fusion"}


def test_fields_and_programs_of_a_model_without_masks(config):
    small = relatives.fakevlm(config)
    assert fields(spec_of(config)).keys() - fields(spec_of(small)).keys() == MASKS
    answering = Answering((1, 2, 3, -200), IMAGE_INDEX, Rules(2, 96))
    mesh = sharding.make_mesh((1, 1, 1), jax.devices()[:1])
    programs = Programs(small, answering, mesh, places=1)
    assert not hasattr(programs, "draw") and not hasattr(programs, "place")
    assert hasattr(Programs(config, answering, mesh, places=1), "draw")


def test_operations_of_a_model_without_masks(config):
    sizes, losses = flops.Sizes(14, IMAGE_INDEX, 3, 32), {"ce": 1.0, "bce": 0, "dice": 0,
                                                          "verdict": 0}
    with_sam, without = (flops.training(each, sizes, trainable=(".*",), losses=losses)
                         for each in (config, relatives.fakevlm(config)))
    assert with_sam == without
    masked = losses | {"bce": 1.0}
    assert flops.training(config, sizes, trainable=(".*",), losses=masked).model > without.model


def test_every_parameter_of_every_named_model_has_a_layout():
    for config in (*(make() for make in architecture.PUBLISHED.values()),
                   *(make(512) for make in architecture.TINY.values())):
        for path in param_tree.abstract_params(config):
            sharding.spec_for(path)


@pytest.fixture(scope="module")
def sida(config):
    return randomized(param_tree.abstract_model(relatives.sida(config)))


def test_a_verdict_on_a_token_is_that_of_the_last_one(sida):
    """The state before the last [CLS] of each row is judged; a row without one counts for nothing.
    """
    batch = random_batch(sida.config, [[9], [8], [10], [9]])
    batch["ids"][0, [6, 8]] = CLS_ID
    batch["ids"][1, 7] = CLS_ID
    reading = Reading(IMAGE_INDEX, {"[SEG]": SEG_ID, "[CLS]": CLS_ID})
    run = jax.jit(lambda batch: (
        losses.sums(sida, batch, reading), losses.counts(sida.config, batch, reading),
        read_text(sida, batch, see(sida, batch), IMAGE_INDEX)),
        compiler_options=QUICK_COMPILE)
    sums, counts, states = run(batch)
    patches = sida.config.vision.num_patches
    logits = np.asarray(sida.judge(np.stack([states[0, 8 + patches - 2],
                                             states[1, 7 + patches - 2]])))
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    labels = batch["label"][:2]  # synthetic, real
    assert labels.tolist() == [1, 0] and counts["verdict"] == 2
    np.testing.assert_allclose(sums["verdict"], -log[[0, 1], labels].sum(), rtol=1e-5)
    # What the head says reaches the masks of photos with several [SEG]s alone.
    assert sums["bce"] > 0 and sums["dice"] > 0


@pytest.mark.parametrize("changes, message", [
    ({"fusion": True}, "fusion: joins a verdict on .CLS."),
    ({"projector": "mlp3x"}, "projector: mlp2x_gelu, linear, not 'mlp3x'"),
    ({"remat": "clip=none"}, "no tower 'clip'")])
def test_parts_that_do_not_fit_are_named(config, changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(config, **changes)


@pytest.mark.parametrize("source, hidden", [("eyes", 8), (WORDS, 8), (TOKEN, 0)])
def test_verdicts_that_cannot_be_are_named(source, hidden):
    with pytest.raises(UserError, match="verdict"):
        VerdictConfig(source, ("real", "fake"), hidden)
