"""What pages share: numbers as text and JSON that cannot leave its script."""

import json

import pytest

from legion_jax.display import numbers, web


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 %"), (0.004, "< 1 %"), (0.5, "50 %"), (0.973, "97 %"), (0.999, "> 99 %"), (1, "100 %")],
)
def test_shares(value, text):
    assert numbers.share(value) == text


def test_scores():
    assert [numbers.score(value) for value in (None, 0, 0.8126)] == ["–", "0.000", "0.813"]


@pytest.mark.parametrize(
    ("low", "high", "whole", "wanted"),
    [(0, 1, False, [0, 0.5, 1]), (0, 7, True, [0, 2, 4, 6, 8]), (0, 1, True, [0, 1]),
     (3, 3, False, [0, 5]), (0, 0, True, [0, 1])],
)
def test_ticks_are_round_and_reach_both_ends(low, high, whole, wanted):
    assert web.ticks(low, high, whole=whole) == pytest.approx(wanted)


def test_json_in_a_script_cannot_end_it():
    value = {"a": "</script><!--", "b": [1, None, "é🦊"]}
    text = web.script_json(value)
    assert "<" not in text and json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        web.script_json(float("nan"))


def test_templates_escape_and_refuse_what_is_missing(tmp_path):
    (tmp_path / "page.html").write_text("{{ text }}{{ 'page.js'|raw }}{{ 1234|count }}")
    (tmp_path / "page.js").write_text("a && b;")
    template = web.environment(tmp_path).get_template("page.html")
    assert template.render(text="<b>") == "&lt;b&gt;a && b;1,234"
    with pytest.raises(Exception, match="'text' is undefined"):
        template.render()
