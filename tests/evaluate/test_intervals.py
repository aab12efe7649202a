"""Intervals: the numbers they are of, their width, their coverage, and differences of pairs."""

import time

import numpy as np
import pytest
from made_rows import random_rows

from input_pipeline.errors import UserError
from legion_jax.evaluate import mask_scores, summary, weighted
from legion_jax.evaluate.intervals import bootstrap_intervals, paired_difference


def at(result: dict, path: str):
    for name in path.split("."):
        result = result[name]
    return result


def scores_of(rows, rule="exact") -> dict:
    return dict(weighted.scores(summary.blocks(rows, rule=rule)))


@pytest.mark.parametrize("rule", mask_scores.RULES)
@pytest.mark.parametrize("seed", range(8))
def test_every_score_is_a_number_of_the_report(seed, rule):
    rows = random_rows(seed, 60)
    result, scores = summary.summary(rows, rule=rule), scores_of(rows, rule)
    assert {path: at(result, path) for path in scores} == weighted.values(scores, len(rows))
    assert len(scores) > 35


@pytest.mark.parametrize("rule", mask_scores.RULES)
@pytest.mark.parametrize("seed", range(3))
def test_a_photo_drawn_twice_counts_twice(seed, rule):
    rows = random_rows(seed, 40)
    draws = np.random.default_rng(seed).multinomial(40, np.full(40, 1 / 40), size=3)
    scores = scores_of(rows, rule)
    for number, drawn in enumerate(draws):
        # Their regions must stay side by side: where scores tie, the first row comes first.
        result = summary.summary([row for row, n in zip(rows, drawn, strict=True)
                                  for _ in range(n)], rule=rule)
        for path, score in scores.items():
            if path.startswith(("matching.hungarian", "matching.coco")):
                continue  # repeats of a tie are drawn as one block here, and one by one there
            value, wanted = score(draws)[number], at(result, path)
            assert value == pytest.approx(np.nan if wanted is None else wanted, nan_ok=True), path


def test_rare_rows_alone():
    for rows in (random_rows(1, 1), random_rows(2, 1), [
            row for row in random_rows(3, 80) if row["failed"]]):
        result = summary.summary(rows)
        for path, (low, high) in bootstrap_intervals(rows, resamples=20).items():
            assert low <= at(result, path) + 1e-9 and at(result, path) <= high + 1e-9
    assert bootstrap_intervals([], resamples=20) == {}
    assert bootstrap_intervals(random_rows(0, 5), resamples=0) == {}


def test_intervals_hold_their_number_and_repeat():
    rows = random_rows(5, 120)
    result, intervals = summary.summary(rows), bootstrap_intervals(rows, resamples=200)
    for path, (low, high) in intervals.items():
        assert low <= high
        if "average_precision" not in path and "ece" not in path and "matching" not in path:
            assert low <= at(result, path) <= high, path  # the others are biased in resamples
    assert intervals == bootstrap_intervals(rows, resamples=200)
    assert intervals != bootstrap_intervals(rows, resamples=200, seed=1)


def test_the_interval_of_a_mean_is_the_normal_one():
    rows = random_rows(6, 400)
    values = np.array([r["rouge_l"] for r in rows if r["rouge_l"] is not None])
    low, high = bootstrap_intervals(rows, resamples=2000)["text.rouge_l"]
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_pairs_are_more_certain_than_either_alone():
    rows_a = random_rows(7, 200)
    rows_b = [row | {"rouge_l": None if row["rouge_l"] is None else row["rouge_l"] + 0.05}
              for row in rows_a]
    change = paired_difference(rows_a, rows_b[::-1], resamples=200)["text.rouge_l"]
    assert [change[name] for name in ("difference", "low", "high")] == pytest.approx([0.05] * 3)
    assert change["b"] - change["a"] == pytest.approx(0.05) and change["share_above_zero"] == 1
    low, high = bootstrap_intervals(rows_a, resamples=200)["text.rouge_l"]
    assert high - low > 0.02
    nothing = paired_difference(rows_a, rows_a, resamples=50)
    assert all(v["difference"] == v["low"] == v["high"] == v["share_above_zero"] == 0
               for v in nothing.values()) and len(nothing) > 30


def test_other_photos_or_another_truth_are_no_pair():
    rows = random_rows(8, 6)
    with pytest.raises(UserError, match="6 and 5 rows; r5 is in the first alone"):
        paired_difference(rows, rows[:5])
    with pytest.raises(UserError, match="not of the same photos: 5 and 6"):
        paired_difference(rows[:5], rows)
    with pytest.raises(UserError, match="r3: the two evaluations differ in its label"):
        paired_difference(rows, [*rows[:3], rows[3] | {"label": 9}, *rows[4:]])
    with pytest.raises(UserError, match="not of the same photos"):
        paired_difference([], [])


def test_a_thousand_resamples_of_a_thousand_photos_take_seconds():
    rows = random_rows(9, 1000)
    started = time.monotonic()
    bootstrap_intervals(rows)
    assert time.monotonic() - started < 30
