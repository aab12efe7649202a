"""Paired differences: the numbers of both sides, and intervals that know what a pair is."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from input_pipeline.errors import UserError
from legion_jax import metrics
from legion_jax.evaluation.pages.folder import UNKNOWN
from legion_jax.evaluation.paired import paired_difference


def _rows(seed: int, *, better: float = 0.0, number: int = 60) -> list[dict]:
    hard = np.random.default_rng(0).uniform(0, 0.6, number)  # the same for every seed
    rng = np.random.default_rng(seed)
    rows = []
    for k, level in enumerate(hard):
        found = int(100 * np.clip(level + better + rng.normal(0, 0.01), 0, 1))
        counts = [found, 10, 100 - found, 890] if k % 3 else [0, 0, 0, 1000]
        rows.append(UNKNOWN | {"id": str(k), "label": 2 if k % 3 else 0, "counts": counts,
                               "verdict": "real" if rng.random() < 0.3 else "tampered",
                               "rouge_l": float(level + better)} | metrics.pixel_scores(counts))
    return rows


def test_values_are_those_of_the_metrics():
    a, b = _rows(1), _rows(2, better=0.2)
    found = paired_difference(a, b, resamples=20)
    for side, rows in (("a", a), ("b", b)):
        block = metrics.localisation(np.array([row["counts"] for row in rows]))
        for way in ("mean", "mean_with_artifacts", "pooled"):
            for name in metrics.NAMES:
                assert found[f"localisation.{way}.{name}"][side] == pytest.approx(block[way][name])
        assert found["detection.accuracy"][side] == pytest.approx(accuracy_score(
            [row["label"] == 0 for row in rows], [row["verdict"] == "real" for row in rows]))
        assert found["text.rouge_l"][side] == pytest.approx(
            np.mean([row["rouge_l"] for row in rows]))
    assert "text.css" not in found  # nobody has any
    for value in found.values():
        assert value["difference"] == pytest.approx(value["b"] - value["a"])
        assert value["low"] <= value["difference"] <= value["high"]


def test_what_is_hard_for_both_cancels():
    """Photos differ far more than the two sides do; unpaired intervals would hide the difference.
    """
    found = paired_difference(_rows(1), _rows(2, better=0.05), resamples=400)
    value = found["localisation.mean_with_artifacts.f1"]
    assert value["low"] > 0.02 and value["high"] - value["low"] < 0.03
    spread = np.std([row["f1"] for row in _rows(1) if row["label"]]) / np.sqrt(40)
    assert 2 * 1.96 * spread > 0.08


def test_the_interval_of_a_mean_is_about_that_of_the_normal_distribution():
    rng = np.random.default_rng(3)
    change = rng.normal(0.1, 1.0, 400)
    base = [UNKNOWN | {"id": str(k), "rouge_l": 0.0} for k in range(400)]
    moved = [row | {"rouge_l": float(c)} for row, c in zip(base, change, strict=True)]
    value = paired_difference(base, moved, resamples=2000)["text.rouge_l"]
    half = 1.96 * change.std() / 20
    assert value["low"] == pytest.approx(change.mean() - half, abs=0.01)
    assert value["high"] == pytest.approx(change.mean() + half, abs=0.01)
    again = paired_difference(base, moved, resamples=2000)["text.rouge_l"]
    assert again == value
    assert paired_difference(base, moved, resamples=2000, seed=1)["text.rouge_l"] != value


def test_another_truth_is_refused():
    a, b = _rows(1), _rows(1)
    b[5]["truth_rle"] = {"size": [1, 1], "counts": "1"}
    with pytest.raises(UserError, match="5: the evaluations differ in its truth_rle"):
        paired_difference(a, b)
