"""The demo's chain from photos to page, at a size at which nothing is learned."""

import dataclasses
import json

import pytest
from html_page import Page

from input_pipeline.text.dialogue import LLAVA15_CHAT, SIDA_DESCRIBED
from tools.demo import __main__ as demo
from tools.demo.demo_systems import FAKEVLM, SIDA

pytest.importorskip("skimage")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small():
    """The demo with few photos and updates."""
    with pytest.MonkeyPatch.context() as patch:
        for name, number in (("NUM_TRAIN", 24), ("NUM_TEST", 10), ("DECIDING", 4),
                             ("PIECES", 420)):
            patch.setattr(demo, name, number)
        yield patch


def shortened(system, patch):
    """A system whose recipe ends after four updates, scored after two."""
    config = system.recipe.get_config()
    config.optimizer.total_steps, config.checkpoint_every, config.batch_size = 4, 2, 8
    config.optimizer.warmup_steps = 0
    config.data.text_length, config.eval.max_new_tokens, config.eval.batch_size = 300, 6, 4
    patch.setattr(system.recipe, "get_config", lambda: config)
    return dataclasses.replace(system, scored_every=2)


def test_fakevlm_ends_in_a_page_without_masks(small, tmp_path):
    aims = demo.run(tmp_path, shortened(FAKEVLM, small))
    root = FAKEVLM.folder(tmp_path)
    assert [(aim.name, aim.reached) for aim in aims] == [
        ("verdict accuracy on held-out photos",
         json.loads((root / "evaluation/metrics.json").read_text())["detection"]["accuracy"])]
    text = " ".join(Page((root / "report.html").read_text()).texts)
    assert "mask" not in text and "of photos that are" in text and "written for PyTorch" in text
    assert (root / "pytorch").is_dir() and LLAVA15_CHAT.open_tokenizer(root / "tokenizer")
    assert json.loads((root / "run/legion.json").read_text())["dialogue"] == "llava15_chat"


def test_sida_ends_in_a_page_of_three_classes(small, tmp_path):
    aims = demo.run(tmp_path, shortened(SIDA, small))
    root = SIDA.folder(tmp_path)
    metrics = json.loads((root / "evaluation/metrics.json").read_text())
    assert aims[1].reached == metrics["localisation"]["mean_with_artifacts"]["f1"]
    assert 0 <= aims[0].reached <= 1
    text = " ".join(Page((root / "report.html").read_text()).texts)
    for words in ("called synthetic", "recall", "F1, with artifacts", "On real photos it marks"):
        assert words in text, words
    assert SIDA_DESCRIBED.open_tokenizer(root / "tokenizer")
