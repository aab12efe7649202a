"""The blocks of metrics.json."""

import dataclasses
import json

from made_rows import prediction, random_rows

from legion_jax.evaluate import summary
from legion_jax.evaluate.report import items


def test_results_fit_json():
    rows = random_rows(4, 30)
    result = summary.summary(rows)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result["categories"]) == {"human", "scene"}
    assert summary.summary([])["localisation"]["num_images"] == 0


def test_other_names_of_the_same_classes_change_no_number():
    """Also those of which no label is called so: `authentic` is real, and `gan` is not."""
    rows = random_rows(7, 40)
    other = [row | {"verdict": {"real": "Authentic", "tampered": "gan", None: None}[row["verdict"]]}
             for row in rows]
    assert {row["verdict"] for row in other} >= {"Authentic", "gan"}
    result = summary.summary(rows)
    assert 0 < result["detection"]["accuracy"] < 1
    assert summary.summary(other) == result
    assert [items.right(row) for row in other] == [items.right(row) for row in rows]


def test_words_are_compared_with_what_the_verdict_means():
    said = dataclasses.replace(prediction((8, 8), words="real"), verdict="genuine")
    assert said.words_agree
    assert not dataclasses.replace(said, verdict="full_synthetic").words_agree
