"""The settings of an evaluation, and the sentences that say what they mean."""


import pytest

from input_pipeline.errors import UserError
from input_pipeline.photos import perturbations
from legion_jax.evaluate import settings
from legion_jax.evaluate.settings import DEFAULT, Settings


def test_the_published_conventions():
    ours, theirs = settings.compatible(""), settings.compatible("legion")
    assert ours == DEFAULT and (theirs.rasteriser, theirs.pixel_rule) == ("fillpoly", "legion")
    sentence = settings.explain("legion")
    for part in ("rasteriser fillpoly", "pixel_rule legion", "noise 25.5", "blur 5", "jpeg 50"):
        assert part in sentence
    with pytest.raises(UserError, match="--compat: one of legion, fakevlm, sida, not 'lisa'"):
        settings.compatible("lisa")
    with pytest.raises(UserError, match="rasteriser: one of coco, fillpoly, not 'opencv'"):
        Settings(rasteriser="opencv")
    assert "embeddings of all-MiniLM-L6-v2," in settings.conventions(
        theirs, css_model="minilm")["text"]
    sentences = settings.conventions(theirs, css_model="mini", resamples=9)
    assert "border included" in sentences["localisation"] and "mini" in sentences["text"]
    assert "1e-6" in sentences["localisation"] and "9 bootstrap" in sentences["intervals"]


def test_which_damage_is_done():
    parse = settings.parse_robustness
    assert parse("") == []
    assert parse("jpeg,blur=5") == [("jpeg", 90), ("jpeg", 70), ("jpeg", 50), ("jpeg", 35),
                                    ("blur", 5)]
    everything = parse("all")
    assert len(everything) == sum(map(len, perturbations.GRID.values()))
    assert parse("all", compat="legion") == [("noise", 25.5), ("blur", 5), ("jpeg", 50)]
    assert parse("jpeg=50,jpeg=50") == [("jpeg", 50)]
    for text, message in (("fog", "no perturbation 'fog'; known: all, noise"),
                          ("jpeg=high", "'high' is no level of jpeg"),
                          ("blur,jpeg=0", "jpeg: a whole quality 1 to 95, got 0")):
        with pytest.raises(UserError, match=message):
            parse(text)
    with pytest.raises(UserError, match="web has no published level; known with --compat: noise"):
        parse("web", compat="legion")
