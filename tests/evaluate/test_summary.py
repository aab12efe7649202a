"""The blocks of metrics.json."""

import json

from made_rows import random_rows

from legion_jax.evaluate import summary


def test_results_fit_json():
    rows = random_rows(4, 30)
    result = summary.summary(rows)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result["categories"]) == {"human", "scene"}
    assert summary.summary([])["localisation"]["num_images"] == 0
