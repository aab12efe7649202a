"""Scores of verdicts: by hand, and against scikit-learn."""

import json

import numpy as np
import pytest
from sklearn import metrics as reference

from input_pipeline.datasets import folder_binary
from legion_jax.evaluate import verdict_scores


def test_verdicts_by_hand():
    result = verdict_scores.detection([0.9, 0.8, 0.4, 0.3], [1, 0, 1, 0], [1, 1, 0, 0])
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
    result = verdict_scores.detection(score, truth, score >= 0.5)
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
    assert verdict_scores.detection(inside, truth, score >= 0.5)["nll"] == pytest.approx(
        reference.log_loss(truth, inside))


def test_equal_probabilities_say_nothing():
    result = verdict_scores.detection(np.full(6, 0.7), [1, 0, 0, 1, 0, 1], np.ones(6))
    assert result["auc"] == 0.5 and result["average_precision"] == 0.5


def test_one_class_has_no_ranking():
    fakes = verdict_scores.detection([0.9, 0.2], [True, True], [True, False])
    assert fakes["auc"] is fakes["average_precision"] is fakes["accuracy_real"] is None
    assert fakes["accuracy_fake"] == 0.5 and fakes["f1"] == pytest.approx(2 / 3)
    reals = verdict_scores.detection([0.1], [False], [False])
    assert reals["f1"] is reals["accuracy_fake"] is None and reals["accuracy"] == 1
    nothing = verdict_scores.detection([], [], [])
    assert nothing["num"] == 0 and nothing["accuracy"] is None


def test_unusable_verdicts_are_named():
    with pytest.raises(ValueError, match=r"\(2,\), \(1,\) and \(2,\)"):
        verdict_scores.detection([0.1, 0.2], [True], [True, False])
    for wrong in (np.nan, 1.5, -0.1):
        with pytest.raises(ValueError, match=f"photo 1 is {wrong}, not in 0 to 1"):
            verdict_scores.detection([0.1, wrong], [True, False], [True, False])


def test_a_photo_without_an_answer_is_a_wrong_verdict_and_ranks_nowhere():
    result = verdict_scores.detection([0.9, np.nan, 0.2], [True, True, False], [True, True, False],
                                      answered=[True, False, True])
    assert result["accuracy"] == pytest.approx(2 / 3) and result["accuracy_fake"] == 0.5
    assert result["auc"] == 1 and result["num"] == 3 and result["num_unanswered"] == 1
    assert result["f1"] == pytest.approx(2 / 3) and result["f1_real"] == pytest.approx(2 / 3)


UNIFD = {
    "progan": 100, "cyclegan": 98.50, "biggan": 94.50, "stylegan": 82.00, "gaugan": 99.50,
    "stargan": 97.00, "deepfake": 66.60, "seeingdark": 63.00, "san": 57.50, "crn": 59.50,
    "imle": 72.00, "guided": 70.03, "ldm_200": 94.19, "ldm_200_cfg": 73.76, "ldm_100": 94.36,
    "glide_100_27": 79.07, "glide_50_27": 79.85, "glide_100_10": 78.14, "dalle": 86.78}


def test_the_columns_of_the_papers_table_come_out_of_unifds_row():
    found = verdict_scores.grouped(UNIFD)
    assert {name: round(column["accuracy"], 2) for name, column in found.items()} == {
        "GANs": 95.25, "Deepfakes": 66.60, "CRN": 59.50, "IMLE": 72.00, "SITD": 63.00,
        "SAN": 57.50, "Diffusion": 82.02}
    assert not any(column["missing"] for column in found.values())


def test_the_columns_name_every_test_set_of_the_builder():
    names = [name for column in verdict_scores.GROUPS.values() for name in column]
    assert sorted(names) == sorted(folder_binary.UniversalFakeDetect.sets)


def test_a_column_says_what_it_lacks():
    found = verdict_scores.grouped({"progan": 0.5, "crn": 1.0, "holiday": 0.0})
    assert set(found) == {"GANs", "CRN"} and found["GANs"]["sets"] == ["progan"]
    assert found["GANs"]["missing"] == ["cyclegan", "biggan", "stylegan", "gaugan", "stargan"]


def row(label, fake, **facts):
    return {"label": label, "fake_probability": fake, "failed": None, "words": None,
            "words_agree": None, "split": "", "category": "", "generator": "",
            "verdict": None if fake is None else "tampered" if fake > 0.5 else "real"} | facts


def test_parts_of_a_data_set():
    rows = [row(0, 0.1, split="progan", category="dog"), row(1, 0.9, split="progan"),
            row(1, 0.2, split="crn", category="dog", generator="crn"),
            row(-1, 0.9, split="crn", category="cat"),
            row(2, None, split="crn", generator="crn", failed="broken")]
    found = verdict_scores.block(rows)
    assert found["by_split"] == {"crn": {"accuracy": 0.0, "num": 2},
                                 "progan": {"accuracy": 1.0, "num": 2}}
    assert found["by_category"] == {"dog": {"accuracy": 0.5, "num": 2}}
    assert found["by_generator"] == {"crn": {"accuracy": 0.0, "num": 2}}
    assert found["mean_accuracy_of_splits"] == 0.5 and found["accuracy"] == 0.5
    assert found["num"] == 4 and found["num_unanswered"] == 1
    columns = verdict_scores.groups(found)
    assert columns["GANs"]["accuracy"] == 1 and columns["CRN"]["accuracy"] == 0
    assert json.loads(json.dumps(found)) == found


def test_without_a_verdict_or_a_label_there_is_nothing_to_score():
    assert verdict_scores.block([]) is verdict_scores.block([row(1, None)]) is None
    assert verdict_scores.block([row(-1, 0.5)]) is None
    assert verdict_scores.block([row(1, None, failed="broken")]) is None


def test_words_beside_verdict_and_truth():
    rows = [row(1, 0.9, words="fake", words_agree=True),
            row(0, 0.9, words="real", words_agree=False), row(0, 0.9),
            row(0, None, words="fake"), row(-1, 0.1, words="real", words_agree=True),
            row(1, None, failed="broken")]
    assert verdict_scores.words(rows) == {"agreement": pytest.approx(2 / 3),
                                          "accuracy": pytest.approx(2 / 3), "num": 5,
                                          "num_silent": 1,
                                          "num_disagree": 1}
    assert verdict_scores.words([]) == {"agreement": None, "accuracy": None, "num": 0,
                                        "num_silent": 0,
                                        "num_disagree": 0}

