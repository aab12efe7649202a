"""Heads of three classes: trained, judged, scored and calibrated alike in whatever order."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
import small_checkpoint
from made_rows import record
from random_models import QUICK_COMPILE, READING, random_batch, randomized
from small_checkpoint import QUESTION

from experiments import base
from input_pipeline.photos import images
from input_pipeline.records.record import LABELS
from legion_jax.evaluate import calibration_fit, photo_rows
from legion_jax.evaluate.settings import DEFAULT
from legion_jax.evaluate.summary import summary
from legion_jax.models import param_tree
from legion_jax.predict.predictor import Predictor
from legion_jax.predict.programs import inference_mesh
from legion_jax.train.losses import Objective
from legion_jax.train.step import init_state, make_step

tokenizer = small_checkpoint.tokenizer
ORDERS = [("tampered", "real", "synthetic"), ("real", "full_synthetic", "tampered")]  # 2nd: SIDA's
UPDATES = 40


@dataclasses.dataclass
class Trained:
    """What became of a head: losses of its updates, logits and rows of all photos, metrics."""

    classes: tuple[str, ...]
    losses: list[float]
    logits: np.ndarray
    rows: list[dict]
    metrics: dict


@pytest.fixture(scope="module")
def records():
    """Four photos of each label, told apart by their colour; three more have the next one's."""
    rng, out = np.random.default_rng(0), []
    for number in range(15):
        label, photo = number % 3, rng.integers(0, 90, (20, 24, 3), np.uint8)
        photo[..., (label + (number >= 12)) % 3] += 150
        out.append(record(f"r{number}", photo, label=label, has_masks=False))
    return out


def permuted(params: dict, classes: tuple[str, ...]) -> dict:
    """Parameters of a head in the first order -> of the same head in the order of `classes`."""
    order = [[0, 1, 2], [1, 2, 0]][ORDERS.index(classes)]
    return params | {path: np.asarray(params[path])[..., order]
                     for path in ("verdict/down/kernel", "verdict/down/bias")}


def train(model, photos: np.ndarray, labels: list[int]) -> tuple[dict, list[float]]:
    """Parameters after training the head alone, and the loss before each update."""
    graph, params, frozen = param_tree.split_params(model, base.VERDICT_ONLY)
    optimizer = optax.adam(0.01)
    step = jax.jit(make_step(graph, optimizer, lambda t: 0.01, objective=Objective(
        {"ce": 0, "bce": 0, "dice": 0, "verdict": 1.0}, READING)),
                   compiler_options=QUICK_COMPILE)
    batch = random_batch(model.config, [[]] * len(labels)) | {
        "vision_image": photos, "label": np.array(labels, np.int32)}
    state, losses = init_state(params, optimizer), []
    for _ in range(UPDATES):
        state, metrics = step(state, frozen, batch)
        losses.append(float(metrics["verdict"]))
    return param_tree.flatten(state.params) | param_tree.flatten(frozen), losses


def trained(config, tokenizer, records, classes: tuple[str, ...]) -> Trained:
    sized = dataclasses.replace(
        config, verdict=dataclasses.replace(config.verdict, classes=classes),
        language=dataclasses.replace(
            config.language, vocab=tokenizer.vocab_size, max_positions=512))
    graph, first, _ = param_tree.split_params(
        randomized(param_tree.abstract_model(sized)), param_tree.EVERYTHING)
    model = param_tree.merge(graph, param_tree.unflatten(
        permuted(param_tree.flatten(first), classes)))
    photos = [images.read_image(r.image, name=r.id) for r in records]
    views = np.stack([images.clip_image(photo, sized.vision.image_size) for photo in photos])
    params, losses = train(model, views[:12], [r.label for r in records[:12]])
    predictor = Predictor(sized, params, tokenizer, question=QUESTION, batch_size=4, group=4,
                          mesh=inference_mesh(sized, jax.devices()[:1]))
    known = [photo_rows.begin(r, (r.height, r.width), split="test", settings=DEFAULT)
             for r in records]
    rows = [photo_rows.finish(half, answer, settings=DEFAULT)
            for half, answer in zip(known, predictor(photos, explain="never"), strict=True)]
    return Trained(classes, losses, predictor.verdict_logits(photos), rows, summary(rows))


@pytest.fixture(scope="module")
def heads(config, tokenizer, records):
    return [trained(config, tokenizer, records, classes) for classes in ORDERS]


def test_training_teaches_the_class_that_the_label_names(heads):
    for head in heads:
        assert head.losses[-1] < 0.1 < 0.5 < head.losses[0]
        for row in head.rows[:12]:
            # "full_synthetic" is the other order's name of synthetic.
            assert row["verdict"].removeprefix("full_") == LABELS[row["label"]]


def test_binary_scores_come_from_the_class_that_means_real(heads):
    for head in heads:
        p = np.exp(head.logits) / np.exp(head.logits).sum(-1, keepdims=True)
        fake = 1 - p[:, head.classes.index("real")]
        np.testing.assert_allclose([row["fake_probability"] for row in head.rows], fake, atol=1e-5)
        detected = head.metrics["detection"]
        # Of the three that have another's colour, the synthetic one is taken for tampered: fake.
        assert detected["accuracy"] == pytest.approx(13 / 15)
        assert detected["accuracy_fake"] == pytest.approx(9 / 10)
        assert detected["accuracy_real"] == pytest.approx(4 / 5)


def test_calibration_scores_the_class_that_the_label_names(heads, records):
    labels = [r.label for r in records]
    fits = []
    for head in heads:
        truth = calibration_fit.class_indices(labels, head.classes)
        assert [head.classes[i].removeprefix("full_") for i in truth] == [
            LABELS[label] for label in labels]
        assert (head.logits.argmax(-1) == truth).mean() == 12 / 15
        temperature = calibration_fit.fit(head.logits, truth)
        fits.append([temperature, *calibration_fit.quality(
            head.logits, truth, temperature).values()])
    np.testing.assert_allclose(*fits, rtol=1e-3)


def test_the_order_of_classes_changes_nothing(heads):
    """The same weights permuted: the same losses, answers and metrics."""
    a, b = heads
    np.testing.assert_allclose(a.losses, b.losses, rtol=1e-4, atol=1e-6)
    columns = [a.classes.index(name.removeprefix("full_")) for name in b.classes]
    np.testing.assert_allclose(a.logits[:, columns], b.logits, atol=1e-3)
    for ours, theirs in zip(a.rows, b.rows, strict=True):
        assert ours["verdict"] == theirs["verdict"].removeprefix("full_")
        assert ours["fake_probability"] == pytest.approx(theirs["fake_probability"], abs=1e-4)
    for name, value in a.metrics["detection"].items():
        if isinstance(value, int | float):
            assert value == pytest.approx(b.metrics["detection"][name], abs=1e-3), name
