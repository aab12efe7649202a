"""The demo's own decisions, and the whole chain in miniature."""

import json

import numpy as np
import pytest

from legion_jax import metrics
from tools import demo


def row(label, f1):
    return {"label": label, "f1": f1}


def test_shown_photos_are_typical_and_the_failure_is_the_worst():
    rows = [row(2, f) for f in (0.1, 0.9, 0.5, 0.7, 0.0, 0.8)] + [row(0, 1.0), row(0, 0.0)]
    shown, worst = demo.choose(rows)
    assert len(set(shown)) == 3
    assert [rows[i]["label"] for i in shown] == [2, 2, 0]
    assert all(rows[i]["f1"] >= 0.8 for i in shown)
    assert rows[worst]["f1"] == 0 and worst not in shown


def test_constant_masks_are_scored_without_words_or_verdict():
    counts = np.array([[10, 0, 10, 80], [0, 5, 0, 95]])
    score = demo.constant_mask("all-ones mask", metrics.all_ones_counts(counts))
    assert score.f1 == pytest.approx((2 * 20 / (2 * 20 + 80) + 0) / 2)
    assert score.accuracy is score.rouge_l is None
    empty = demo.constant_mask("empty mask", metrics.empty_counts(counts))
    assert empty.f1 == 0.5 and empty.f1_with_artifacts == 0


@pytest.mark.slow
def test_whole_chain_in_miniature(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "NUM_TRAIN", 24)
    monkeypatch.setattr(demo, "NUM_TEST", 8)
    monkeypatch.setattr(demo, "PIECES", 420)
    config_of = demo.make_config

    def short(root):
        config = config_of(root)
        config.optimizer.total_steps, config.optimizer.warmup_steps = 3, 1
        config.batch_size, config.data.text_length, config.mesh = 8, 240, (1, 1, 8)
        return config

    monkeypatch.setattr(demo, "make_config", short)
    aims = demo.run(tmp_path)
    assert len(aims) == 2 and all(a.reached is not None for a in aims)
    assert "<html" in (tmp_path / "report.html").read_text()
    results = sorted((tmp_path / "predictions").glob("*.json"))
    assert len(results) == 4 and all("verdict" in json.loads(r.read_text()) for r in results)
    assert (tmp_path / "pytorch" / "pytorch_model.bin").exists()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    demo.run(tmp_path)  # a second run changes nothing and trains nothing
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
