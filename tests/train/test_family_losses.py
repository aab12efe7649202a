"""Losses and updates of SIDA: verdicts on [CLS], soft masks, batches that lack one or the other."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
import relatives
import torch
from random_models import IMAGE_INDEX, QUICK_COMPILE, SEG_ID, random_batch, randomized

from legion_jax.models import mask_frame, param_tree
from legion_jax.models.reading import Reading
from legion_jax.train import losses
from legion_jax.train.losses import Objective
from legion_jax.train.step import init_state, make_step

CLS_ID = 91
READING = Reading(IMAGE_INDEX, {"[CLS]": CLS_ID, "[SEG]": SEG_ID})
WEIGHTS = {"ce": 1.0, "bce": 0.4, "dice": 0.2, "verdict": 0.7}
EVERYTHING = (".*",)
# As relatives.sida is trained; the third row has no [CLS], of the last one nothing is known.
SEGS = [[8], [], [7], [9]]
LABELS = [2, 0, 2, -1]


@pytest.fixture(scope="module")
def model(config):
    return randomized(param_tree.abstract_model(relatives.sida(config)))


@pytest.fixture(scope="module")
def batch(config):
    return with_verdicts(random_batch(config, SEGS, slots=1))


def with_verdicts(batch):
    """[CLS] before the targets of all rows but the third."""
    batch["ids"][[0, 1, 3], 6] = CLS_ID
    return batch | {"label": np.array(LABELS, np.int32)}


def grey(batch, seed=3):
    """The batch with soft masks; those of bits count as nothing there."""
    rows, slots, side, _ = batch["masks"].shape
    values = np.random.default_rng(seed).integers(0, 256, (rows, slots, side, side), np.uint8)
    return batch | {"masks": values}


sums = jax.jit(functools.partial(losses.sums, reading=READING), compiler_options=QUICK_COMPILE)


def test_targets_are_bits_or_greys():
    bits = np.random.default_rng(0).integers(0, 2, (2, 3, 16, 16), np.uint8)
    np.testing.assert_array_equal(mask_frame.targets(np.packbits(bits, axis=-1)), bits)
    np.testing.assert_array_equal(mask_frame.targets(255 * bits), bits)
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.testing.assert_array_equal(mask_frame.targets(values), values.astype(np.float32) / 255)


def test_soft_masks_are_compared_as_shares():
    """One mask in a photo of 9 x 7 pixels, by the formulas of the published code."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 1, 16, 16)).astype(np.float32)
    values = rng.integers(0, 256, (1, 1, 16, 16), dtype=np.uint8)
    pixels = np.asarray(mask_frame.inside(np.array([[9, 7]]), 16))
    bce, dice = losses.mask_sums(logits, mask_frame.targets(values), pixels, np.ones((1, 1), bool))
    x, y = (torch.tensor(np.asarray(a, np.float64)[0, 0, :9, :7]) for a in (logits, values))
    y = y / 255
    np.testing.assert_allclose(
        bce, torch.nn.functional.binary_cross_entropy_with_logits(x, y), rtol=1e-5)
    p = x.sigmoid()
    overlap = 2 * (p * y / 1000).sum() + 1e-6
    np.testing.assert_allclose(
        dice, 1 - overlap / ((p / 1000).sum() + (y / 1000).sum() + 1e-6), rtol=1e-5)


def test_greys_of_black_and_white_cost_what_bits_do(model, batch):
    ours = sums(model, batch)
    bits = np.unpackbits(batch["masks"], axis=-1)
    same = sums(model, batch | {"masks": 255 * bits})
    for name in losses.ALL:
        np.testing.assert_allclose(same[name], ours[name], rtol=1e-6)
        assert ours[name] > 0.1
    assert abs(sums(model, grey(batch))["bce"] - ours["bce"]) > 0.01


def test_a_labelled_row_without_the_token_is_counted_and_not_judged(model, batch):
    objective = Objective(WEIGHTS, READING)
    assert objective.counts(model.config, batch)["verdict"] == 2
    assert objective.metrics(model.config, batch)["unjudged"] == 1
    none = batch | {"label": np.array([2, 0, -1, -1], np.int32)}
    assert objective.metrics(model.config, none)["unjudged"] == 0
    np.testing.assert_allclose(sums(model, none)["verdict"], sums(model, batch)["verdict"])
    vision = dataclasses.replace(model.config, fusion=False, verdict=dataclasses.replace(
        model.config.verdict, source="vision"))
    assert "unjudged" not in objective.metrics(vision, batch)


def test_a_batch_without_text_is_zero_or_nan(model, batch):
    silent = batch | {"loss_mask": np.zeros_like(batch["loss_mask"])}
    for faulty, wanted in ((False, 0.0), (True, np.nan)):
        objective = Objective(WEIGHTS, READING, nan_without_text=faulty)
        for rows, expected in ((silent, wanted), (batch, None)):
            terms = losses.weighted_means(sums(model, rows),
                                          objective.counts(model.config, rows), WEIGHTS)
            if expected is not None:
                np.testing.assert_equal(float(terms["ce"]), expected)
            assert np.isfinite([float(terms[n]) for n in ("bce", "dice", "verdict")]).all()
    without = Objective(WEIGHTS | {"ce": 0.0}, READING, nan_without_text=True)
    assert without.counts(model.config, silent)["ce"] == 0


@pytest.fixture(scope="module")
def updates(model):
    """`(optimizer, held, batches) -> (metrics, params)` after each; params are flat."""
    graph, params, frozen = param_tree.split_params(model, EVERYTHING)

    @functools.cache
    def step(optimizer, held):
        return jax.jit(make_step(graph, optimizer, lambda t: 1.0, is_held=held,
                                 objective=Objective(WEIGHTS, READING)),
                       compiler_options=QUICK_COMPILE)

    def run(optimizer, held, *batches):
        state, done = init_state(params, optimizer), [({}, param_tree.flatten(params))]
        for batch in batches:
            state, metrics = step(optimizer, held)(state, frozen, batch)
            done.append((jax.device_get(metrics), param_tree.flatten(state.params)))
        return done

    return run


PLAIN, ADAM = optax.sgd(1.0), optax.adamw(0.01, weight_decay=0.1)
OF_MASKS = ("mask_decoder/", "text_projection/", "fusion/")


@pytest.fixture(scope="module")
def pure(config):
    """A batch of tampered photos, and one of real ones without a [SEG]."""
    whole = with_verdicts(random_batch(config, [[8], [9], [10], [8]], slots=1))
    whole["ids"][2, 6], whole["label"] = CLS_ID, np.full(4, 2, np.int32)
    real = with_verdicts(random_batch(config, [[], [], [], []], slots=1))
    return grey(whole), grey(real) | {"label": np.zeros(4, np.int32)}


def test_one_mask_asks_the_verdict_nothing(updates, pure):
    """With one [SEG] the attention's weight is 1: what asks has gradients of exactly zero."""
    (_, before), (_, after) = updates(PLAIN, None, pure[0])
    still = {path for path in before if np.array_equal(before[path], after[path])}
    for path in ("fusion/ask/kernel", "fusion/query/kernel", "fusion/key/kernel"):
        assert path in still
    for path in ("fusion/value/kernel", "fusion/out/kernel", "text_projection/up/kernel",
                 "verdict/up/kernel", "mask_decoder/mask_tokens", "language/embed/embedding"):
        assert path not in still


def test_without_tampered_photos_masks_have_zeros_for_gradients(updates, pure):
    (_, before), (metrics, after) = updates(PLAIN, None, pure[1])
    assert metrics["masks"] == metrics["bce"] == metrics["dice"] == 0 < metrics["verdict"]
    assert np.isfinite(metrics["grad_norm"]) and not metrics["halted"]
    for path, value in before.items():
        if path.startswith(OF_MASKS):
            np.testing.assert_array_equal(after[path], value, err_msg=path)


@pytest.mark.slow  # a sibling of the two above, which compiles AdamW
def test_momentum_moves_what_has_no_gradient(updates, pure):
    """As in the published training, where zeros stand in for gradients that are not there."""
    _, (_, first), (metrics, second) = updates(ADAM, None, *pure)
    assert metrics["masks"] == 0
    for path in ("mask_decoder/mask_tokens", "text_projection/up/kernel", "fusion/out/kernel"):
        assert np.abs(second[path] - first[path]).max() > 1e-3, path


def is_held(path):
    return path.startswith(("text_projection/", "language/head/"))


@pytest.mark.slow
def test_what_is_held_stays_and_counts_for_no_norm(updates, pure):
    (_, before), (metrics, after) = updates(ADAM, is_held, pure[0])
    held = {path for path in before if is_held(path)}
    for path in held:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    assert not np.array_equal(before["verdict/up/kernel"], after["verdict/up/kernel"])
    (_, _), (_, all_moved) = updates(PLAIN, None, pure[0])
    gradients = {path: np.asarray(before[path] - all_moved[path], np.float64) for path in before}
    norm = np.sqrt(sum((g ** 2).sum() for path, g in gradients.items() if path not in held))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=2e-4)
    assert np.sqrt(sum((g ** 2).sum() for g in gradients.values())) > 1.003 * norm
