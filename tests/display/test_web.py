"""What pages share: JSON that cannot leave its script, templates, colours, whole files."""

import json
import re

import numpy as np
import pytest

from input_pipeline import files
from legion_jax.display import charts, web


def test_json_in_a_script_cannot_end_it():
    value = {"a": "</script><!--", "b": [1, None, "é🦊"]}
    text = web.script_json(value)
    assert "<" not in text and json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        web.script_json(float("nan"))


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "page.html"
    with files.whole_file(path) as file:
        file.write("ä\ud800")
        assert not path.exists()
        assert file.num_bytes == 3
    assert path.read_bytes() == "ä?".encode()
    with pytest.raises(KeyboardInterrupt), files.whole_file(path) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_bytes() == "ä?".encode() and len(list(tmp_path.iterdir())) == 1


def test_templates_escape_and_refuse_what_is_missing(tmp_path):
    (tmp_path / "page.html").write_text("{{ text }}{{ 'page.js'|raw }}{{ 1234|count }}")
    (tmp_path / "page.js").write_text("a && b;")
    template = web.environment(tmp_path).get_template("page.html")
    assert template.render(text="<b>") == "&lt;b&gt;a && b;1,234"
    with pytest.raises(Exception, match="'text' is undefined"):
        template.render()


def test_texts_have_enough_contrast():
    """WCAG 2 AA, 4.5 to 1, on every ground a text stands on, in light and in dark."""
    code = (web.TEMPLATES / "colours.css").read_text()
    for theme in ("light", "dark"):
        block = code.split(f"macro {theme}()")[1].split("endmacro")[0]
        colours = dict(re.findall(r"--([\w-]+): (#\w{6});", block))
        pairs = [(text, ground) for text in ("ink", "soft", "accent", "bad", "good")
                 for ground in ("ground", "card")]
        for text, ground in (*pairs, ("good", "good-ground"), ("bad", "bad-ground"),
                             ("ground", "ink"), ("soft", "stage")):
            light, dark = sorted((_luminance(colours[name]) for name in (text, ground)),
                                 reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (theme, text, ground)
        for tone in charts.SERIES:  # shapes: 3 to 1
            light, dark = sorted((_luminance(colours[name]) for name in (tone, "card")),
                                 reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3, (theme, tone)
        if theme == "light":
            assert {tone: colours[tone] for tone in charts.TONES} == charts.TONES


def _luminance(colour: str) -> float:
    parts = [int(colour[k:k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
