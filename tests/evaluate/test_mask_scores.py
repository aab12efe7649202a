"""Scores of masks: by hand, and against scikit-learn."""

import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as reference

from legion_jax.evaluate import mask_scores, weighted

EMPTY, FULL = np.zeros((3, 4), bool), np.ones((3, 4), bool)


def _random_masks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(rng.random((2, 19, 23)) < rng.random((2, 1, 1)))


def localised(counts, **options) -> dict:
    """`mask_scores.localisation` as numbers."""
    return weighted.values(mask_scores.localisation(counts, **options), len(counts))


def _three_photos() -> np.ndarray:
    """A half-found artifact, a clean photo left alone, a clean photo with a quarter marked."""
    return np.array([[2, 2, 2, 10], [0, 0, 0, 16], [0, 4, 0, 12]])


def test_counts_by_hand():
    predicted = np.array([[1, 1, 0], [0, 1, 0]], bool)
    truth = np.array([[1, 0, 0], [1, 1, 0]], bool)
    counts = mask_scores.pixel_counts(predicted, truth)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, [2, 1, 1, 2])
    scores = mask_scores.pixel_scores(counts)
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
        mask_scores.pixel_counts(predicted, truth)


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
    scores = mask_scores.pixel_scores(mask_scores.pixel_counts(predicted, truth))
    assert scores == dict(zip(mask_scores.NAMES, expected, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_masks_agree_with_scikit_learn(seed):
    predicted, truth = _random_masks(seed)
    scores = mask_scores.pixel_scores(mask_scores.pixel_counts(predicted, truth))
    pair = truth.ravel(), predicted.ravel()
    assert scores["f1"] == pytest.approx(reference.f1_score(*pair))
    assert scores["fg_iou"] == pytest.approx(reference.jaccard_score(*pair))
    assert scores["bg_iou"] == pytest.approx(reference.jaccard_score(*pair, pos_label=False))
    assert scores["miou"] == pytest.approx(reference.jaccard_score(*pair, average="macro"))


@pytest.mark.parametrize("seed", range(40))
def test_photos_with_empty_masks_agree_with_scikit_learn(seed):
    """Whatever is empty, prediction, truth or both: nothing wrong scores 1."""
    rng = np.random.default_rng(seed)
    predicted, truth = rng.random((2, 5, 6)) < rng.choice([0, 0.5, 1], (2, 1, 1))
    scores = mask_scores.pixel_scores(mask_scores.pixel_counts(predicted, truth))
    pair = truth.ravel(), predicted.ravel()
    assert scores["f1"] == pytest.approx(reference.f1_score(*pair, zero_division=1))
    assert scores["fg_iou"] == pytest.approx(reference.jaccard_score(*pair, zero_division=1))
    assert scores["bg_iou"] == pytest.approx(
        reference.jaccard_score(*pair, pos_label=False, zero_division=1))
    assert scores["fg_iou"] == pytest.approx(scores["f1"] / (2 - scores["f1"]))


def test_averages_by_hand():
    result = localised(_three_photos())
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
    result = localised(np.stack([mask_scores.pixel_counts(*pair) for pair in pairs]))
    predicted, truth = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    assert result["pooled"]["f1"] == pytest.approx(reference.f1_score(truth, predicted))
    assert result["pooled"]["fg_iou"] == pytest.approx(
        result["pooled"]["f1"] / (2 - result["pooled"]["f1"]))


def test_pixels_beyond_int32_are_counted():
    many = np.full((4000, 4), 2_000_000, np.int32)
    assert localised(many)["pooled"] == pytest.approx(
        {"fg_iou": 1 / 3, "bg_iou": 1 / 3, "miou": 1 / 3, "f1": 1 / 2})
    one = np.array([1, 0, 0, 2_147_483_647], np.int32)
    assert mask_scores.pixel_scores(one)["bg_iou"] == 1
    assert mask_scores.all_ones_counts(one + np.array([0, 2, 0, 0]))[1] == 2_147_483_649


def test_averages_over_nothing_are_none():
    nothing = localised(np.zeros((0, 4), np.int64))
    assert nothing["num_images"] == 0 and nothing["false_area_on_clean"] is None
    for key in ("mean", "pooled", "mean_with_artifacts"):
        assert nothing[key] == dict.fromkeys(mask_scores.NAMES)
    assert localised([]) == nothing
    clean = localised([[0, 0, 0, 12]])
    assert clean["mean_with_artifacts"]["f1"] is None and clean["mean"]["f1"] == 1
    assert localised([[3, 0, 0, 9]])["false_area_on_clean"] is None


@pytest.mark.parametrize("counts", [[1, 2, 3, 4], [[1, 2, 3]], [[1.0, 2, 3, 4]]])
def test_other_shapes_of_counts_are_refused(counts):
    with pytest.raises(ValueError, match="counts need"):
        localised(counts)


def test_baselines_are_those_of_their_masks():
    pairs = [_random_masks(seed) for seed in range(3)]
    counts = np.stack([mask_scores.pixel_counts(*pair) for pair in pairs])
    ones = [mask_scores.pixel_counts(np.ones_like(truth), truth) for _, truth in pairs]
    zeros = [mask_scores.pixel_counts(np.zeros_like(truth), truth) for _, truth in pairs]
    np.testing.assert_array_equal(mask_scores.all_ones_counts(counts), ones)
    np.testing.assert_array_equal(mask_scores.empty_counts(counts), zeros)
    np.testing.assert_array_equal(mask_scores.empty_counts(counts[0]), zeros[0])


def test_small_masks_make_an_empty_answer_look_half_right():
    scores = mask_scores.pixel_scores(mask_scores.empty_counts([43, 0, 0, 957]))
    assert scores["miou"] == pytest.approx(0.4785) and scores["f1"] == 0


def test_results_fit_json():
    results = [localised(_three_photos()),
               mask_scores.pixel_scores(np.array([1, 2, 3, 4]))]
    assert json.loads(json.dumps(results)) == results


@pytest.mark.parametrize("counts", [[5, 3, 2, 90], [0, 0, 9, 91], [0, 9, 0, 91], [100, 0, 0, 0]])
def test_legions_rule_is_the_exact_one_where_there_is_something_to_find(counts):
    ours, theirs = (mask_scores.pixel_scores(np.array(counts), rule=rule)
                    for rule in mask_scores.RULES)
    assert theirs["f1"] == ours["f1"]
    assert theirs["fg_iou"] == pytest.approx(ours["fg_iou"], abs=1e-6)


def test_legions_rule_gives_an_untouched_clean_photo_half():
    scores = mask_scores.pixel_scores(np.array([0, 0, 0, 16]), rule="legion")
    assert scores["fg_iou"] == 0 and scores["f1"] == 1
    assert scores["miou"] == pytest.approx(0.5, abs=1e-6)
    with pytest.raises(ValueError, match="exact, legion, not 'lisa'"):
        mask_scores.pixel_scores(np.array([0, 0, 0, 16]), rule="lisa")


def test_a_photo_without_an_answer_scores_nothing_in_the_means():
    result = localised(_three_photos(), failed=[False, True, False])
    assert result["mean"]["f1"] == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert result["pooled"] == localised(_three_photos())["pooled"]
    assert result["num_images"] == 3


@pytest.mark.parametrize("seed", range(5))
def test_pooled_iou_follows_from_pooled_f1(seed):
    counts = np.random.default_rng(seed).integers(0, 50, (6, 4))
    pooled = localised(counts)["pooled"]
    assert pooled["fg_iou"] == pytest.approx(pooled["f1"] / (2 - pooled["f1"]))


def test_importing_it_loads_no_heavy_library():
    heavy = {"torch", "tensorflow", "sklearn", "matplotlib", "jax", "nltk"}
    code = f"import sys, legion_jax.evaluate.mask_scores; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
