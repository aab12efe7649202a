"""legion_jax/train/losses.py and the sums over a batch in step.py, against plain formulas."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from hypothesis import given, settings, strategies as st
from random_models import IMAGE_INDEX, QUICK_COMPILE, READING, SEG_ID, random_batch

from experiments import base
from legion_jax.models import param_tree
from legion_jax.train import losses
from legion_jax.train.losses import Objective
from legion_jax.train.step import init_state, make_step

cross_entropy = torch.nn.functional.cross_entropy
WEIGHTS = {"ce": 1.0, "bce": 0.4, "dice": 0.2, "verdict": 0.7}
TRAINABLE = (*base.LOCALISATION, *base.VERDICT_ONLY)
# Unequal numbers of masks: 2, none, 3 and 1.
SEGS = [[8, 11], [], [7, 9, 10], [9]]


@pytest.fixture(scope="module")
def batch(config):
    batch = random_batch(config, SEGS)
    batch["mask_valid"][0] = True  # a third mask, whose [SEG] was cut off with the text
    return batch


sums = jax.jit(functools.partial(losses.sums, reading=READING),
               compiler_options=QUICK_COMPILE)


def plain_mask_losses(logits, target) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy and dice of one mask float[h, w], by the formulas of the published code."""
    bce = (logits.clamp(min=0) - logits * target + (1 + (-logits.abs()).exp()).log()).mean()
    p = logits.sigmoid()
    overlap = 2 * (p * target / 1000).sum() + 1e-6
    return bce, 1 - overlap / ((p / 1000).sum() + (target / 1000).sum() + 1e-6)


def plain_sums(model, batch) -> dict[str, float]:
    """All sums, row by row and token by token."""
    to_torch = functools.partial(torch.tensor, dtype=torch.float64)
    patches = model.config.vision.num_patches
    seen = model.see(batch["vision_image"])
    image = np.ones((len(batch["ids"]), patches), bool)
    valid = np.concatenate([batch["valid"][:, :IMAGE_INDEX], image,
                            batch["valid"][:, IMAGE_INDEX + 1:]], axis=1)
    states = jax.jit(model.read)(model.embed(batch["ids"], seen, IMAGE_INDEX), valid)
    grounded = jax.jit(model.ground)(batch["sam_image"], batch["resized_size"])
    draw = jax.jit(lambda image, states: model.draw(image, model.prompt(states))[0])
    logits = np.asarray(jax.jit(model.language.logits)(states))
    out = dict.fromkeys(("ce", "bce", "dice", "verdict"), 0.0)
    for row, ids in enumerate(batch["ids"]):
        for k in np.flatnonzero(batch["loss_mask"][row]):
            predicted = to_torch(logits[row, k - 1 + patches - 1, :97])
            out["ce"] += float(cross_entropy(predicted, torch.tensor(int(ids[k]))))
        before = np.asarray(states)[row, np.flatnonzero(ids == SEG_ID) - 1 + patches - 1]
        masks = np.unpackbits(batch["masks"][row], axis=-1)[batch["mask_valid"][row]]
        if len(before):
            drawn = draw(grounded[row:row + 1], np.resize(before, (1, 3, before.shape[1])))
            drawn = np.asarray(drawn)[:, :len(before)]
            (h, w), (rows, columns) = batch["resized_size"][row], batch["original_size"][row]
            resize = functools.partial(torch.nn.functional.interpolate, mode="bilinear")
            framed = resize(to_torch(drawn), (64, 64))[..., :h, :w]
            framed = resize(framed, (int(rows), int(columns)))[0]
            for mask_logits, mask in zip(framed, masks, strict=False):
                bce, dice = plain_mask_losses(mask_logits, to_torch(mask[:rows, :columns]))
                out["bce"] += float(bce)
                out["dice"] += float(dice)
        if batch["label"][row] >= 0:
            real = torch.tensor(int(batch["label"][row] == 0))
            verdict = to_torch(np.asarray(model.judge(seen.summary[row:row + 1])[0]))
            out["verdict"] += float(cross_entropy(verdict, real))
    return out


def test_sums_are_those_of_plain_formulas(model, batch):
    ours, expected = sums(model, batch), plain_sums(model, batch)
    for name, value in expected.items():
        assert value > 0.1
        np.testing.assert_allclose(ours[name], value, rtol=1e-5)


def test_bfloat16_towers_come_close(config, model, batch):
    """The arithmetic of published training: bfloat16, recomputed layers, rounded positions."""
    coarse = dataclasses.replace(config, dtype="bfloat16", position_dtype="bfloat16",
                                 remat="layers")
    graph, _ = nnx.split(param_tree.abstract_model(coarse))
    ours = sums(nnx.merge(graph, nnx.split(model)[1]), batch)
    for name in losses.ALL:
        np.testing.assert_allclose(ours[name], sums(model, batch)[name],
                                   rtol=0.05)
        assert ours[name] != sums(model, batch)[name]


def test_texts_that_begin_late_need_no_logits_before(model, batch):
    """Targets of the batch start at index 6."""
    late = jax.jit(functools.partial(
        losses.sums, reading=dataclasses.replace(READING, first_target=6),
        wanted=("ce",)))(model, batch)
    np.testing.assert_allclose(late["ce"], sums(model, batch)["ce"], rtol=1e-6)


@pytest.mark.parametrize("wanted, needed", [
    ("verdict", ["vision_image", "label"]),
    ("ce", ["vision_image", "ids", "valid", "loss_mask"]),
])
def test_a_term_alone_needs_nothing_of_the_others(model, batch, wanted, needed):
    ours = jax.jit(functools.partial(losses.sums, reading=READING,
                                     wanted=(wanted,)))(model, {k: batch[k] for k in needed})
    for name in losses.ALL:
        expected = sums(model, batch)[name] if name == wanted else 0
        np.testing.assert_allclose(ours[name], expected, rtol=1e-5)


def test_counts(model, batch):
    counts = losses.counts(model.config, batch, READING)
    assert counts["ce"] == sum([14 - 6, 13 - 6, 12 - 6, 11 - 6])
    assert counts["bce"] == counts["dice"] == 2 + 0 + 3 + 1  # the cut-off mask does not count
    assert counts["verdict"] == 3


@pytest.mark.parametrize("logit", [-60.0, -1.5, 0.0, 3.0, 60.0])
def test_losses_of_constant_masks(logit):
    """One mask of 6 set and 2 clear pixels in a photo of 8; everything else is out of sight."""
    logits = np.full((1, 2, 4, 4), 1e4, np.float32)
    logits[0, 0, :2] = logit
    target = np.zeros((1, 2, 4, 4), np.float32)
    target[0, 0, 0] = target[0, 0, 1, :2] = target[0, :, 2:] = 1
    pixels = (np.arange(4) < 2)[None, :, None] & np.ones((1, 4, 4), bool)
    bce, dice = jax.jit(losses.mask_sums)(logits, target, pixels, np.array([[True, False]]))
    p = 1 / (1 + np.exp(-logit))
    np.testing.assert_allclose(bce, np.log1p(np.exp(-abs(logit))) + max(logit, 0) - 0.75 * logit,
                               rtol=1e-6)
    np.testing.assert_allclose(dice, 1 - (12 * p + 1e-3) / (8 * p + 6 + 1e-3), rtol=1e-5)


def test_empty_masks_that_are_predicted_empty_cost_nothing():
    empty = np.zeros((1, 1, 4, 4), np.float32)
    bce, dice = losses.mask_sums(empty - 200, empty, np.ones((1, 4, 4), bool), np.ones((1, 1)) > 0)
    assert bce == 0 and dice == 0


def test_weighted_means():
    sums, counts = (dict(zip(losses.ALL, values, strict=True))
                    for values in ((6.0, 4.0, 3.0, 0.0), (3, 2, 2, 0)))
    means = losses.weighted_means(sums, counts, WEIGHTS)
    np.testing.assert_allclose([means[name] for name in losses.ALL], [2.0, 0.8, 0.3, 0.0],
                               rtol=1e-6)


LABELS = ("real", "synthetic", "tampered")  # 0, 1 and 2 of a batch


@settings(max_examples=15, deadline=None)
@given(st.permutations(LABELS), st.lists(st.integers(-1, 2), min_size=5, max_size=5),
       st.integers(0, 99))
def test_the_order_of_classes_changes_no_verdict_loss(classes, labels, seed):
    """Sum and gradient against the plain formula, column by column, in any order of classes."""
    columns = np.random.default_rng(seed).normal(size=(3, len(labels))).astype(np.float32) * 4
    logits = np.stack([columns[LABELS.index(name)] for name in classes], axis=1)
    total, gradient = jax.value_and_grad(losses.verdict_sum)(
        jnp.array(logits), jnp.array(labels), tuple(classes))
    p = np.exp(columns.astype(np.float64)) / np.exp(columns.astype(np.float64)).sum(0)
    known = [row for row, label in enumerate(labels) if label >= 0]
    np.testing.assert_allclose(
        total, -sum(np.log(p[labels[row], row]) for row in known), rtol=1e-5, atol=1e-5)
    wanted = np.zeros((3, len(labels)))
    wanted[:, known] = p[:, known]
    for row in known:
        wanted[labels[row], row] -= 1
    for column, name in zip(gradient.T, classes, strict=True):
        np.testing.assert_allclose(column, wanted[LABELS.index(name)], atol=1e-5)


@pytest.mark.parametrize("classes, expected", [
    (("synthetic", "real"), [1, 0, 0, -1]), (("real", "fake"), [0, 1, 1, -1]),
    (("tampered", "real", "synthetic"), [1, 2, 0, -1]), (("real", "a", "b"), [0, -1, -1, -1])])
def test_record_labels_to_classes(classes, expected):
    label = jnp.array([0, 1, 2, -1])
    np.testing.assert_array_equal(losses.class_indices(label, classes), expected)
    total = losses.verdict_sum(jnp.ones((4, len(classes))), label, classes)
    # A label without a class is never a photo that counts for nothing.
    assert np.isnan(total) == (-1 in expected[:3])


@pytest.fixture(scope="module")
def update(model):
    """`(batch, accumulation) -> (metrics, {path: gradient})` of one compiled update."""
    graph, params, frozen = param_tree.split_params(model, TRAINABLE)
    optimizer = optax.sgd(1.0)  # so that the change is the gradient

    @functools.cache
    def step(accumulation):
        update = make_step(graph, optimizer, lambda t: 1.0, accumulation=accumulation,
                           objective=Objective(WEIGHTS, READING))
        return jax.jit(update, compiler_options=QUICK_COMPILE)

    def run(batch, accumulation=1):
        state, metrics = step(accumulation)(init_state(params, optimizer), frozen, batch)
        gradients = jax.tree.map(lambda a, b: np.asarray(a - b), params, state.params)
        return {k: float(v) for k, v in metrics.items()}, param_tree.flatten(gradients)

    return run


def assert_same_update(ours, expected):
    for name, value in expected[0].items():
        np.testing.assert_allclose(ours[0][name], value, rtol=5e-6, err_msg=name)
    largest = max(np.abs(g).max() for g in expected[1].values())
    for path, gradient in expected[1].items():
        np.testing.assert_allclose(ours[1][path], gradient, atol=1e-6 * largest, err_msg=path)


def test_metrics_of_an_update(model, batch, update):
    metrics, gradients = update(batch)
    terms = losses.weighted_means(
        sums(model, batch), losses.counts(model.config, batch, READING), WEIGHTS)
    for name in ("ce", "bce", "dice", "verdict"):
        np.testing.assert_allclose(metrics[name], terms[name], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], sum(jax.tree.leaves(terms)), rtol=1e-5)
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
    patches = model.config.vision.num_patches
    assert metrics["tokens"] == batch["valid"].sum() + len(SEGS) * (patches - 1)
    assert metrics["masks"] == 6 and metrics["dropped"] == 2 and metrics["learning_rate"] == 1


@pytest.mark.slow  # the gate has a command's, on eight devices
@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulation_changes_nothing(batch, update, accumulation):
    assert_same_update(update(batch, accumulation), update(batch))


def test_order_of_rows_does_not_matter(batch, update):
    order = [2, 0, 3, 1]
    assert_same_update(update({k: v[order] for k, v in batch.items()}), update(batch))


def test_a_batch_that_feeds_no_term(config, update):
    batch = random_batch(config, [[], [], [], []])
    batch["loss_mask"][:], batch["label"][:] = False, -1
    batch["bad"][:] = 1
    metrics, gradients = update(batch)
    assert metrics["loss"] == metrics["grad_norm"] == metrics["tokens"] == 0
    assert all((g == 0).all() for g in gradients.values())


def test_gradient_reaches_every_trained_parameter_in_use(batch, update):
    """All but the heads of what is thrown away and key biases, which softmax cancels."""
    _, gradients = update(batch)
    largest = max(np.abs(g).max() for g in gradients.values())
    without = {path for path, g in gradients.items() if np.abs(g).max() < 1e-6 * largest}
    assert {path for path in without if not path.endswith("key/bias")} == {
        path for path in gradients if "/iou_head/" in path}
    hyper = gradients["mask_decoder/hyper/last/kernel"]
    assert hyper[0].any() and not hyper[1:].any()
    assert not gradients["language/embed/embedding"][97:].any()  # padding rows
    assert not gradients["language/head/kernel"][:, 97:].any()
