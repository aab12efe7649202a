"""Scores of masks, verdicts and texts: by hand, and against scikit-learn."""

import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as reference

from legion_jax import metrics

EMPTY, FULL = np.zeros((3, 4), bool), np.ones((3, 4), bool)


def _random_masks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(rng.random((2, 19, 23)) < rng.random((2, 1, 1)))


def _three_photos() -> np.ndarray:
    """A half-found artifact, a clean photo left alone, a clean photo with a quarter marked."""
    return np.array([[2, 2, 2, 10], [0, 0, 0, 16], [0, 4, 0, 12]])


def test_counts_by_hand():
    predicted = np.array([[1, 1, 0], [0, 1, 0]], bool)
    truth = np.array([[1, 0, 0], [1, 1, 0]], bool)
    counts = metrics.pixel_counts(predicted, truth)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, [2, 1, 1, 2])
    scores = metrics.pixel_scores(counts)
    assert scores == pytest.approx({"fg_iou": 1 / 2, "bg_iou": 1 / 2, "miou": 1 / 2, "f1": 2 / 3})


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        (EMPTY, EMPTY.T, r"\(3, 4\), true mask \(4, 3\)"),
        (EMPTY.astype(np.float32), EMPTY, "predicted mask needs dtype bool, got float32"),
        (EMPTY, EMPTY.astype(np.uint8), "true mask needs dtype bool, got uint8"),
    ],
)
def test_unusable_masks_are_named(predicted, truth, message):
    with pytest.raises(ValueError, match=message):
        metrics.pixel_counts(predicted, truth)


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        (EMPTY, EMPTY, (1, 1, 1, 1)),
        (FULL, FULL, (1, 1, 1, 1)),
        (FULL, EMPTY, (0, 0, 0, 0)),
        (EMPTY, FULL, (0, 0, 0, 0)),
    ],
)
def test_a_class_without_pixels_scores_one(predicted, truth, expected):
    scores = metrics.pixel_scores(metrics.pixel_counts(predicted, truth))
    assert scores == dict(zip(metrics.NAMES, expected, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_masks_agree_with_scikit_learn(seed):
    predicted, truth = _random_masks(seed)
    scores = metrics.pixel_scores(metrics.pixel_counts(predicted, truth))
    pair = truth.ravel(), predicted.ravel()
    assert scores["f1"] == pytest.approx(reference.f1_score(*pair))
    assert scores["fg_iou"] == pytest.approx(reference.jaccard_score(*pair))
    assert scores["bg_iou"] == pytest.approx(reference.jaccard_score(*pair, pos_label=False))
    assert scores["miou"] == pytest.approx(reference.jaccard_score(*pair, average="macro"))


def test_averages_by_hand():
    result = metrics.localisation(_three_photos())
    assert result["mean"] == pytest.approx({
        "fg_iou": (1 / 3 + 1 + 0) / 3, "bg_iou": (10 / 14 + 1 + 12 / 16) / 3,
        "miou": ((1 / 3 + 10 / 14) / 2 + 1 + 12 / 32) / 3, "f1": (1 / 2 + 1 + 0) / 3})
    assert result["mean_with_artifacts"] == pytest.approx({
        "fg_iou": 1 / 3, "bg_iou": 10 / 14, "miou": (1 / 3 + 10 / 14) / 2, "f1": 1 / 2})
    assert result["pooled"] == pytest.approx({
        "fg_iou": 2 / 10, "bg_iou": 38 / 46, "miou": (2 / 10 + 38 / 46) / 2, "f1": 4 / 12})
    counted = [result[k] for k in ("num_images", "num_empty_both", "num_with_artifacts")]
    assert counted == [3, 1, 1]
    assert result["false_area_on_clean"] == pytest.approx((0 + 4 / 16) / 2)


def test_pooled_scores_are_those_of_the_joined_photos():
    pairs = [_random_masks(seed) for seed in range(5)]
    result = metrics.localisation(np.stack([metrics.pixel_counts(*pair) for pair in pairs]))
    predicted, truth = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    assert result["pooled"]["f1"] == pytest.approx(reference.f1_score(truth, predicted))
    assert result["pooled"]["fg_iou"] == pytest.approx(
        result["pooled"]["f1"] / (2 - result["pooled"]["f1"]))


def test_pixels_beyond_int32_are_counted():
    many = np.full((4000, 4), 2_000_000, np.int32)
    assert metrics.localisation(many)["pooled"] == pytest.approx(
        {"fg_iou": 1 / 3, "bg_iou": 1 / 3, "miou": 1 / 3, "f1": 1 / 2})
    one = np.array([1, 0, 0, 2_147_483_647], np.int32)
    assert metrics.pixel_scores(one)["bg_iou"] == 1
    assert metrics.all_ones_counts(one + np.array([0, 2, 0, 0]))[1] == 2_147_483_649


def test_averages_over_nothing_are_none():
    nothing = metrics.localisation(np.zeros((0, 4), np.int64))
    assert nothing["num_images"] == 0 and nothing["false_area_on_clean"] is None
    for key in ("mean", "pooled", "mean_with_artifacts"):
        assert nothing[key] == dict.fromkeys(metrics.NAMES)
    assert metrics.localisation([]) == nothing
    clean = metrics.localisation([[0, 0, 0, 12]])
    assert clean["mean_with_artifacts"]["f1"] is None and clean["mean"]["f1"] == 1
    assert metrics.localisation([[3, 0, 0, 9]])["false_area_on_clean"] is None


@pytest.mark.parametrize("counts", [[1, 2, 3, 4], [[1, 2, 3]], [[1.0, 2, 3, 4]]])
def test_other_shapes_of_counts_are_refused(counts):
    with pytest.raises(ValueError, match="counts need"):
        metrics.localisation(counts)


def test_baselines_are_those_of_their_masks():
    pairs = [_random_masks(seed) for seed in range(3)]
    counts = np.stack([metrics.pixel_counts(*pair) for pair in pairs])
    ones = [metrics.pixel_counts(np.ones_like(truth), truth) for _, truth in pairs]
    zeros = [metrics.pixel_counts(np.zeros_like(truth), truth) for _, truth in pairs]
    np.testing.assert_array_equal(metrics.all_ones_counts(counts), ones)
    np.testing.assert_array_equal(metrics.empty_counts(counts), zeros)
    np.testing.assert_array_equal(metrics.empty_counts(counts[0]), zeros[0])


def test_small_masks_make_an_empty_answer_look_half_right():
    scores = metrics.pixel_scores(metrics.empty_counts([43, 0, 0, 957]))
    assert scores["miou"] == pytest.approx(0.4785) and scores["f1"] == 0


def test_verdicts_by_hand():
    result = metrics.detection([0.9, 0.8, 0.4, 0.3], [1, 0, 1, 0], [1, 1, 0, 0])
    assert result == pytest.approx({
        "accuracy": 0.5, "accuracy_real": 0.5, "accuracy_fake": 0.5, "auc": 0.75,
        "average_precision": 0.5 * 1 + 0.5 * 2 / 3, "f1": 0.5, "num": 4})


@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_verdicts_agree_with_scikit_learn(seed, levels):
    rng = np.random.default_rng(seed)
    score = rng.integers(0, levels, 60) / levels  # few levels: many ties
    truth = rng.random(60) < 0.2 + 0.6 * score
    result = metrics.detection(score, truth, score >= 0.5)
    assert result["auc"] == pytest.approx(reference.roc_auc_score(truth, score))
    assert result["average_precision"] == pytest.approx(
        reference.average_precision_score(truth, score))
    assert result["f1"] == pytest.approx(reference.f1_score(truth, score >= 0.5))
    assert result["accuracy"] == pytest.approx(reference.accuracy_score(truth, score >= 0.5))
    assert result["accuracy_fake"] == pytest.approx(reference.recall_score(truth, score >= 0.5))


def test_equal_probabilities_say_nothing():
    result = metrics.detection(np.full(6, 0.7), [1, 0, 0, 1, 0, 1], np.ones(6))
    assert result["auc"] == 0.5 and result["average_precision"] == 0.5


def test_one_class_has_no_ranking():
    fakes = metrics.detection([0.9, 0.2], [True, True], [True, False])
    assert fakes["auc"] is fakes["average_precision"] is fakes["accuracy_real"] is None
    assert fakes["accuracy_fake"] == 0.5 and fakes["f1"] == pytest.approx(2 / 3)
    reals = metrics.detection([0.1], [False], [False])
    assert reals["f1"] is reals["accuracy_fake"] is None and reals["accuracy"] == 1
    nothing = metrics.detection([], [], [])
    assert nothing["num"] == 0 and nothing["accuracy"] is None


def test_unusable_verdicts_are_named():
    with pytest.raises(ValueError, match=r"\(2,\), \(1,\) and \(2,\)"):
        metrics.detection([0.1, 0.2], [True], [True, False])
    with pytest.raises(ValueError, match="photo 1 is NaN"):
        metrics.detection([0.1, np.nan], [True, False], [True, False])


@pytest.mark.parametrize(
    ("prediction", "reference_text", "expected"),
    [
        ("the hand has six fingers", "the hand has six fingers", 1.0),
        ("The Hand!", "the hand", 1.0),
        ("the hand has six fingers", "the left hand shows six blurred fingers", 2 * 4 / (5 + 7)),
        ("fingers six", "six fingers", 0.5),  # order matters
        ("finger", "fingers", 0.0),  # no stemming
        ("", "six fingers", 0.0),
        ("", "", 0.0),
    ],
)
def test_texts_by_hand(prediction, reference_text, expected):
    assert metrics.rouge_l(prediction, reference_text) == pytest.approx(expected)


def test_texts_are_averaged():
    assert metrics.text(["a b", "c"], ["a b", "d"]) == {"rouge_l": 0.5, "num": 2}
    assert metrics.text([], []) == {"rouge_l": None, "num": 0}
    with pytest.raises(ValueError, match="2 predictions, but 1 references"):
        metrics.text(["a", "b"], ["a"])


def test_results_fit_json():
    results = [metrics.localisation(_three_photos()), metrics.detection([0.5], [True], [True]),
               metrics.text(["a"], ["a"]), metrics.pixel_scores(np.array([1, 2, 3, 4]))]
    assert json.loads(json.dumps(results)) == results


def test_importing_it_loads_no_heavy_library():
    heavy = {"torch", "tensorflow", "sklearn", "matplotlib", "jax", "nltk"}
    code = f"import sys, legion_jax.metrics; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
