"""Scores of verdicts and of their probabilities: by hand, and against scikit-learn."""

import json

import numpy as np
import pytest
from sklearn import metrics as reference

from input_pipeline.datasets import folder_binary
from legion_jax.evaluate import verdict_scores, weighted


def detected(score, truth, verdict, **options):
    """`verdict_scores.detection` as numbers."""
    return weighted.values(verdict_scores.detection(score, truth, verdict, **options), len(score))


def judged(rows):
    """`verdict_scores.block` as numbers."""
    return weighted.values(verdict_scores.block(rows), len(rows))


def said(rows):
    """`verdict_scores.words` as numbers."""
    return weighted.values(verdict_scores.words(rows), len(rows))


def test_verdicts_by_hand():
    result = detected([0.9, 0.8, 0.4, 0.3], [1, 0, 1, 0], [1, 1, 0, 0])
    assert len(result.pop("reliability")) == 15
    # Confidences 0.9 and 0.7 were right, 0.8 and 0.6 wrong; each is alone in its bin.
    assert result == pytest.approx({
        "accuracy": 0.5, "accuracy_real": 0.5, "accuracy_fake": 0.5, "balanced_accuracy": 0.5,
        "auc": 0.75, "average_precision": 0.5 * 1 + 0.5 * 2 / 3, "f1": 0.5, "f1_real": 0.5,
        "macro_f1": 0.5, "ece": (0.1 + 0.8 + 0.6 + 0.3) / 4,
        "brier": (0.01 + 0.64 + 0.36 + 0.09) / 4,
        "nll": -np.log([0.9, 0.2, 0.4, 0.7]).mean(), "num": 4, "num_unanswered": 0})


@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_verdicts_agree_with_scikit_learn(seed, levels):
    rng = np.random.default_rng(seed)
    score = rng.integers(0, levels, 60) / levels  # few levels: many ties
    truth = rng.random(60) < 0.2 + 0.6 * score
    result = detected(score, truth, score >= 0.5)
    assert result["auc"] == pytest.approx(reference.roc_auc_score(truth, score))
    assert result["average_precision"] == pytest.approx(
        reference.average_precision_score(truth, score))
    assert result["f1"] == pytest.approx(reference.f1_score(truth, score >= 0.5))
    assert result["accuracy"] == pytest.approx(reference.accuracy_score(truth, score >= 0.5))
    assert result["accuracy_fake"] == pytest.approx(reference.recall_score(truth, score >= 0.5))
    assert result["macro_f1"] == pytest.approx(
        reference.f1_score(truth, score >= 0.5, average="macro"))
    assert result["balanced_accuracy"] == pytest.approx(
        reference.balanced_accuracy_score(truth, score >= 0.5))
    assert result["brier"] == pytest.approx(reference.brier_score_loss(truth, score))
    inside = np.clip(score, 0.01, 0.99)  # scikit-learn clips a probability of 0 elsewhere
    assert detected(inside, truth, score >= 0.5)["nll"] == pytest.approx(
        reference.log_loss(truth, inside))


def test_equal_probabilities_say_nothing():
    result = detected(np.full(6, 0.7), [1, 0, 0, 1, 0, 1], np.ones(6))
    assert result["auc"] == 0.5 and result["average_precision"] == 0.5


def test_one_class_has_no_ranking():
    fakes = detected([0.9, 0.2], [True, True], [True, False])
    assert fakes["auc"] is fakes["average_precision"] is fakes["accuracy_real"] is None
    assert fakes["accuracy_fake"] == 0.5 and fakes["f1"] == pytest.approx(2 / 3)
    reals = detected([0.1], [False], [False])
    assert reals["f1"] is reals["accuracy_fake"] is None and reals["accuracy"] == 1
    nothing = detected([], [], [])
    assert nothing["num"] == 0 and nothing["accuracy"] is None


def test_unusable_verdicts_are_named():
    with pytest.raises(ValueError, match=r"\(2,\), \(1,\) and \(2,\)"):
        detected([0.1, 0.2], [True], [True, False])
    for wrong in (np.nan, 1.5, -0.1):
        with pytest.raises(ValueError, match=f"photo 1 is {wrong}, not in 0 to 1"):
            detected([0.1, wrong], [True, False], [True, False])


def test_a_photo_without_an_answer_is_a_wrong_verdict_and_ranks_nowhere():
    result = detected([0.9, np.nan, 0.2], [True, True, False], [True, True, False],
                      answered=[True, False, True])
    assert result["accuracy"] == pytest.approx(2 / 3) and result["accuracy_fake"] == 0.5
    assert result["auc"] == 1 and result["num"] == 3 and result["num_unanswered"] == 1
    assert result["f1"] == pytest.approx(2 / 3) and result["f1_real"] == pytest.approx(2 / 3)


def test_bins_by_hand():
    confidence, right = np.array([0.05, 0.41, 0.45, 1.0]), np.array([False, True, False, True])
    bins = verdict_scores.reliability_bins(confidence, right)
    assert len(bins) == 15 and bins[0]["low"] == 0 and bins[14]["high"] == 1
    assert [b["num"] for b in bins] == [1, 0, 0, 0, 0, 0, 2] + [0] * 7 + [1]
    assert bins[6] == {"low": 6 / 15, "high": 7 / 15, "num": 2, "accuracy": 0.5,
                       "confidence": pytest.approx(0.43)}
    assert bins[1]["confidence"] is bins[1]["accuracy"] is None
    error = weighted.values(verdict_scores.calibration_error(confidence, right), 4)
    assert error == pytest.approx((0.05 + 2 * 0.07) / 4)


def test_a_confidence_on_a_border_is_in_the_bin_below_and_zero_in_the_first():
    bins = verdict_scores.reliability_bins(np.array([0.0, 1 / 15]), np.array([True, True]))
    assert [b["num"] for b in bins] == [2] + [0] * 14


def test_honest_and_overconfident_probabilities():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 200_000)
    right = rng.random(200_000) < confidence

    def error(confidence):
        return weighted.values(verdict_scores.calibration_error(confidence, right), len(right))
    assert error(confidence) < 0.005
    assert error(np.full(200_000, 0.99)) == pytest.approx(0.99 - right.mean())


def test_no_photos_and_a_probability_of_zero_that_was_wrong():
    nothing = detected([], [], [])
    assert nothing["nll"] is nothing["ece"] is nothing["brier"] is None
    assert detected([0.0], [True], [False])["nll"] == pytest.approx(
        -np.log(verdict_scores.SMALLEST))


@pytest.mark.parametrize("seed", range(5))
def test_drawn_photos_weigh_as_in_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    score = rng.integers(1, 12, 80) / 12
    truth, verdict = rng.random(80) < 0.2 + 0.6 * score, score >= 0.5
    draws = rng.multinomial(80, np.full(80, 1 / 80), size=4)
    tree = verdict_scores.detection(score, truth, verdict)
    for number, weights in enumerate(draws):
        for name, wanted in {
                "auc": reference.roc_auc_score(truth, score, sample_weight=weights),
                "average_precision": reference.average_precision_score(
                    truth, score, sample_weight=weights),
                "f1": reference.f1_score(truth, verdict, sample_weight=weights),
                "macro_f1": reference.f1_score(truth, verdict, sample_weight=weights,
                                               average="macro"),
                "accuracy": reference.accuracy_score(truth, verdict, sample_weight=weights),
                "balanced_accuracy": reference.balanced_accuracy_score(
                    truth, verdict, sample_weight=weights),
                "brier": reference.brier_score_loss(truth, score, sample_weight=weights),
                "nll": reference.log_loss(truth, score, sample_weight=weights)}.items():
            assert tree[name](draws)[number] == pytest.approx(wanted), name


UNIFD = {
    "progan": 100, "cyclegan": 98.50, "biggan": 94.50, "stylegan": 82.00, "gaugan": 99.50,
    "stargan": 97.00, "deepfake": 66.60, "seeingdark": 63.00, "san": 57.50, "crn": 59.50,
    "imle": 72.00, "guided": 70.03, "ldm_200": 94.19, "ldm_200_cfg": 73.76, "ldm_100": 94.36,
    "glide_100_27": 79.07, "glide_50_27": 79.85, "glide_100_10": 78.14, "dalle": 86.78}


def test_the_columns_of_the_papers_table_come_out_of_unifds_row():
    columns = verdict_scores.grouped(UNIFD)
    assert {name: round(column["accuracy"], 2) for name, column in columns.items()} == {
        "GANs": 95.25, "Deepfakes": 66.60, "CRN": 59.50, "IMLE": 72.00, "SITD": 63.00,
        "SAN": 57.50, "Diffusion": 82.02}
    assert not any(column["missing"] for column in columns.values())


def test_the_columns_name_every_test_set_of_the_builder():
    names = [name for column in verdict_scores.GROUPS.values() for name in column]
    assert sorted(names) == sorted(folder_binary.UniversalFakeDetect.sets)


def test_a_column_says_what_it_lacks():
    columns = verdict_scores.grouped({"progan": 0.5, "crn": 1.0, "holiday": 0.0})
    assert set(columns) == {"GANs", "CRN"} and columns["GANs"]["sets"] == ["progan"]
    assert columns["GANs"]["missing"] == ["cyclegan", "biggan", "stylegan", "gaugan", "stargan"]


def row(label, fake, **facts):
    return {"label": label, "fake_probability": fake, "failed": None, "words": None,
            "words_agree": None, "split": "", "category": "", "generator": "",
            "verdict": None if fake is None else "tampered" if fake > 0.5 else "real"} | facts


def test_parts_of_a_data_set():
    rows = [row(0, 0.1, split="progan", category="dog"), row(1, 0.9, split="progan"),
            row(1, 0.2, split="crn", category="dog", generator="crn"),
            row(-1, 0.9, split="crn", category="cat"),
            row(2, None, split="crn", generator="crn", failed="broken")]
    scores = judged(rows)
    assert scores["by_split"] == {"crn": {"accuracy": 0.0, "num": 2},
                                  "progan": {"accuracy": 1.0, "num": 2}}
    assert scores["by_category"] == {"dog": {"accuracy": 0.5, "num": 2}}
    assert scores["by_generator"] == {"crn": {"accuracy": 0.0, "num": 2}}
    assert scores["mean_accuracy_of_splits"] == 0.5 and scores["accuracy"] == 0.5
    assert scores["num"] == 4 and scores["num_unanswered"] == 1
    columns = verdict_scores.groups(scores)
    assert columns["GANs"]["accuracy"] == 1 and columns["CRN"]["accuracy"] == 0
    assert json.loads(json.dumps(scores)) == scores


def test_without_a_verdict_or_a_label_there_is_nothing_to_score():
    for rows in ([], [row(1, None)], [row(-1, 0.5)], [row(1, None, failed="broken")]):
        assert judged(rows) == {}


def test_words_beside_verdict_and_truth():
    rows = [row(1, 0.9, words="fake", words_agree=True),
            row(0, 0.9, words="real", words_agree=False), row(0, 0.9),
            row(0, None, words="fake"), row(-1, 0.1, words="real", words_agree=True),
            row(1, None, failed="broken")]
    assert said(rows) == {"agreement": pytest.approx(2 / 3),
                          "accuracy": pytest.approx(2 / 3), "num": 5,
                          "num_silent": 1,
                          "num_disagree": 1}
    assert said([]) == {"agreement": None, "accuracy": None, "num": 0,
                        "num_silent": 0,
                        "num_disagree": 0}

