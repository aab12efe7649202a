"""The HTML report: whole, self-contained, escaped, with honest numbers; and its curves."""

import base64
import dataclasses
import io
import math

import numpy as np
import pytest
from html_page import Page
from PIL import Image

from legion_jax.display import overlay
from tools.demo import demo_page, loss_curves
from tools.demo.confusion import Confusion
from tools.demo.demo_page import Aim, DemoReport, Example, ScoreRow


def _example(**changes) -> Example:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    truth = np.zeros((30, 40), bool)
    truth[5:15, 5:25] = True
    example = Example(
        name="dog", image=image, truth=truth, prediction=Image.fromarray(image), verdict="tampered",
        probability=0.973, label="fake", right=True, explanation="a smeared ear",
        reference="a blurred ear", f1=0.8125)
    return dataclasses.replace(example, **changes)


def _curve(steps: int) -> list[dict]:
    rows = [{"step": step} | dict.fromkeys(loss_curves.TERMS, 1 + math.exp(-step / 20))
            for step in range(steps)]
    for row in rows[9::10]:
        row["eval/localisation.mean.f1"] = 1 / (1 + abs(row["step"] - 29))
    return rows


def _report(**changes) -> DemoReport:
    report = DemoReport(
        title="A demo", facts=[("training time", "5 min 12 s")], curve=_curve(50),
        scores=[ScoreRow("trained model", 0.8125, 0.7, 0.85, 0.69, 0.77, 0.95, 0.98765, 0.684,
                         0.731),
                ScoreRow("empty mask", 0.3, 0.0, 0.489, 0.3, 0.0, *[None] * 4)],
        compared=[ScoreRow("best, after 30 updates", 0.625, *[None] * 8),
                  ScoreRow("last, after 50 updates", 0.5, *[None] * 8)],
        aims=[Aim("mask F1", 0.7, 0.8125), Aim("accuracy", 0.9, 0.88)],
        examples=[_example()],
        failure=_example(name="church", verdict="real", right=False, f1=None))
    return dataclasses.replace(report, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"facts": [], "curve": [], "scores": [], "compared": [], "aims": [], "examples": [],
         "failure": None},
        {"curve": _curve(1)},
        {"examples": [_example(prediction=np.zeros((50, 2000, 3), np.uint8),
                               truth=np.zeros((30, 40), bool))]},
    ],
)
def test_report_is_one_file_that_parses(tmp_path, changes):
    path = tmp_path / "demo.html"
    demo_page.write_report(path, _report(**changes))
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "http://" not in text and "https://" not in text and "url(" not in text
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    for name, value in (pair for _, attributes in page.tags for pair in attributes.items()):
        if name in ("src", "href"):
            kind, _, code = value.partition(",")
            assert kind == "data:image/jpeg;base64"
            picture = Image.open(io.BytesIO(base64.b64decode(code)))
            picture.load()
            assert picture.width <= demo_page.MAX_WIDTH
    assert [p.name for p in tmp_path.iterdir()] == ["demo.html"]


def test_report_shows_its_numbers():
    texts = Page(demo_page.render(_report())).texts
    for text in ("1 of 2 aims was met.", "0.812", "wanted at least 0.700", "✓ met, 0.113 above",
                 "✗ missed by 0.020", "0.988", "0.489", "0.731", "0.000", "5 min 12 s",
                 "97 % likely fake",
                 "Truth: artifacts, 17 % of the photo", "✓ says tampered", "✗ says real",
                 "mask F1 –", "best, after 30 updates", "0.625",
                 "a smeared ear", "Where it goes wrong"):
        assert text in texts, text
    assert texts.count("–") == 4 + 2 * 8  # what the empty mask and the compared have no score for
    assert any("highest 1.000 after 30 updates" in text for text in texts)


def test_a_system_without_masks_shows_nothing_about_them():
    rows = [{"step": step, "loss": 1.0, "ce": 1.0, "bce": 0.0, "dice": 0.0, "verdict": 0.0}
            for step in range(20)]
    silent = _example(truth=None, prediction=None, verdict=None, probability=None, label="real",
                      right=False, f1=None)
    report = _report(
        masks=False, aims=[Aim("accuracy", 0.9, 0.95)], metric="detection.accuracy", curve=rows,
        examples=[silent], failure=silent,
        scores=[ScoreRow("trained model", *[None] * 5, 0.95, 0.98765, 0.684, 0.731)],
        compared=[], confusion=Confusion(("real", "fake"), np.array([[4, 1, 1], [0, 6, 0]])))
    page = Page(demo_page.render(report))
    text = " ".join(page.texts)
    assert "mask" not in text and "IoU" not in text and "rtifact" not in text
    assert "✗ says neither" in text and "likely fake" not in text and "truth: real" in text
    for words in ("called real", "without a verdict", "recall", "0.667", "1.000", "0.950"):
        assert words in text, words
    assert sum(tag == "img" for tag, _ in page.tags) == 2  # the photo alone, of each


def test_three_classes_have_a_table_and_a_column():
    report = _report(
        confusion=Confusion(("real", "synthetic", "tampered"),
                            np.array([[5, 0, 1, 0], [0, 3, 0, 0], [2, 0, 7, 0]])),
        false_area=0.013, scores=[ScoreRow("trained model", *[0.5] * 9, of_classes=0.833)],
        curve=[row | {"verdict": 1.0} for row in _curve(5)],
        examples=[_example(truth=None, label="synthetic", verdict="synthetic", f1=None)])
    texts = Page(demo_page.render(report)).texts
    for words in ("class", "0.833", "called synthetic", "0.778", "truth: synthetic"):
        assert words in texts, words
    assert "without a verdict" not in texts
    text = " ".join(texts)
    assert "marks 1.3 % of the picture" in text and "class of the photo, cross-entropy" in text


def test_css_names_its_encoder_or_says_how_to_get_one():
    text = " ".join(Page(demo_page.render(_report(encoder="all-MiniLM-L6-v2"))).texts)
    assert "embeddings of the two by all-MiniLM-L6-v2." in text and "pip install" not in text
    text = " ".join(Page(demo_page.render(_report())).texts)
    assert "was not computed: pip install -e '.[css]' , and run" in text and "MiniLM" not in text


def test_missing_failure_is_admitted():
    texts = Page(demo_page.render(_report(failure=None))).texts
    assert "No failure was picked for this report. That does not mean there is none." in texts


def test_texts_are_escaped():
    evil = "<script>alert('&')</script>"
    report = _report(
        title=evil, facts=[(evil, evil)], aims=[Aim(evil, 1, 2)],
        scores=[ScoreRow(evil, *[None] * 9)], compared=[ScoreRow(evil, *[None] * 9)],
        examples=[_example(name=evil + '" onload="x', explanation=evil, reference=evil,
                           verdict=evil)])
    text = demo_page.render(report)
    assert "<script" not in text
    page = Page(text)
    assert page.texts.count(evil) == 9
    assert not any("onload" in attributes for _, attributes in page.tags)


def test_a_failed_write_leaves_the_old_report(tmp_path):
    path = tmp_path / "demo.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="format code"):
        demo_page.write_report(path, _report(scores=[ScoreRow("bad", *["text"] * 9)]))
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("wanted", "reached", "outcome", "met"),
    [
        (0.5, 0.75, "met, 0.250 above", True),
        (0.5, 0.5, "met exactly", True),
        (0.5, 0.25, "missed by 0.250", False),
        (0.5, 0.4999, "missed by 0.0001", False),
        (0.5, None, "not measured", False),
        (0.5, math.nan, "missed by nan", False),
    ],
)
def test_aims(wanted, reached, outcome, met):
    aim = Aim("x", wanted, reached)
    assert (aim.outcome, aim.met) == (outcome, met)


def test_truth_is_outlined():
    example = _example()
    picture = example.truth_picture
    np.testing.assert_array_equal(picture[5, 5:25], [overlay.UNION] * 20)
    np.testing.assert_array_equal(picture[20:], example.image[20:])
    with pytest.raises(ValueError, match=r"dog: truth needs bool\(30, 40\), got uint8\(30, 40\)"):
        _example(truth=example.truth.astype(np.uint8))


def test_charts_keep_spikes_and_are_logarithmic_where_values_fall_far():
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=5000)) * np.exp(-np.arange(5000) / 1000)
    values[3210] = 1000
    rows = [{"step": k, "loss": v, "ce": v / 40 - 5, "bce": 0.0} for k, v in enumerate(values)]
    rows[7] |= {"ce": math.nan, "dice": None}
    charts = loss_curves.charts_of(rows)
    assert [(chart.name, chart.y.log) for chart in charts] == [("ce", False)]
    charts = loss_curves.charts_of([row | {"bce": row["loss"]} for row in rows], three_way=True)
    assert [(chart.name, chart.y.log) for chart in charts] == [
        ("loss", True), ("ce", False), ("bce", True)]
    for chart in charts:
        for line in chart.lines:
            points = np.array(line.points)
            assert 2 < len(points) <= 2 * loss_curves.BUCKETS + 2
            assert (np.diff(points[:, 0]) >= 0).all()
            assert (points.min(0) >= [chart.x.low, chart.y.low]).all()
            assert (points.max(0) <= [chart.x.high, chart.y.high]).all()
        assert 2 <= len(chart.x.ticks) <= 7 and 2 <= len(chart.y.ticks) <= 7
    raw, means = charts[0].lines
    assert (3210.0, 1000.0) in raw.points and raw.width < means.width
    assert charts[0].note.startswith("sum of the next two, weights included, from ")
    assert charts[0].note.endswith(", log scale")


def test_smoothing_keeps_lines_and_does_not_lag():
    line = np.arange(200.0)
    np.testing.assert_allclose(loss_curves.smoothed(line)[4:-4], line[4:-4])
    np.testing.assert_allclose(loss_curves.smoothed(np.full(99, 0.1)), 0.1)
    noise = np.random.default_rng(0).normal(size=1000)
    assert loss_curves.smoothed(noise).std() < 0.3
