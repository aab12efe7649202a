"""The demo's own decisions; `make demo` runs the chain itself."""

import numpy as np
import pytest

from legion_jax.evaluate import mask_scores, minilm_files
from tools.demo import __main__ as demo


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
    score = demo.constant_mask("all-ones mask", mask_scores.all_ones_counts(counts))
    assert score.f1 == pytest.approx((2 * 20 / (2 * 20 + 80) + 0) / 2)
    assert score.accuracy is score.rouge_l is score.css is None
    empty = demo.constant_mask("empty mask", mask_scores.empty_counts(counts))
    assert empty.f1 == 0.5 and empty.f1_with_artifacts == 0


def test_css_is_scored_where_its_encoder_is_installed(monkeypatch, capsys):
    monkeypatch.setattr(minilm_files, "missing", lambda: "tokenizers")
    assert demo.css_encoder() == (None, "")
    assert capsys.readouterr().out == (
        "CSS is not computed: tokenizers is not installed: pip install -e '.[css]'\n")
    monkeypatch.setattr(minilm_files, "missing", lambda: "")
    monkeypatch.setattr(demo.text_scores, "encoder", lambda name: name.upper())
    assert demo.css_encoder() == ("MINILM", "minilm")
