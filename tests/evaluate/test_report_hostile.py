"""Reports of what is missing, broken or hostile: they say so, or nothing is written."""

import json
import re

import fake_evaluation
import pytest
from html_page import Page

from input_pipeline.errors import UserError
from legion_jax.evaluate.report import write_report

folder = fake_evaluation.folder


def test_sets_without_masks_or_verdicts_say_why(tmp_path):
    fake_evaluation.write_rows(tmp_path, [{"id": "a"}, {"id": "b", "label": 1, "verdict": None}])
    (tmp_path / "metrics.json").write_text(json.dumps({
        "localisation": None, "detection": None, "text": {"rouge_l": float("nan"), "num": 0},
        "intervals": {"text.rouge_l": [float("nan"), 1]}, "robustness": None}))
    write_report(tmp_path, {})
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    told = " ".join(page.texts)
    for words in ("Masks are not scored", "Verdicts are not scored", "Explanations are not scored",
                  "No damaged photos were tried", "Not comparable: no published table is of "
                  "unknown data", "states no conventions"):
        assert words in told, words
    assert "NaN" not in told and "None" not in told and not any(t == "svg" for t, _ in page.tags)
    assert [item["keys"]["worst"] for item in page.items] == [None, None]


@pytest.mark.parametrize(("rows", "reason"), [
    ([{"id": "a"}, {"id": "a"}], "line 2: id 'a' was on line 1 before"),
    ([{"id": 3}], "line 1: needs an id that is text, got 3"),
    ([[1]], "line 1: expected a JSON object, found list"),
    ([{"id": "a", "label": 7}], "row 'a' is not as evaluations write it: KeyError: 7"),
    ([{"id": "a", "counts": [1, 2]}], "row 'a' is not as evaluations write it: ValueError"),
])
def test_bad_rows_are_named_and_nothing_is_written(tmp_path, rows, reason):
    (tmp_path / "metrics.json").write_text("{}")
    fake_evaluation.write_rows(tmp_path, rows)
    with pytest.raises(UserError, match=re.escape(reason)):
        write_report(tmp_path, {})
    assert not list(tmp_path.glob("*report*"))


def test_missing_files_and_cut_lines_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no metrics\.json here"):
        write_report(tmp_path, {})
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match=r"no rows\.jsonl here"):
        write_report(tmp_path, {})
    (tmp_path / "rows.jsonl").write_text('{"id": "a"}\n{"id": ')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2: not valid JSON"):
        write_report(tmp_path, {})
    with pytest.raises(UserError, match="max_photos: at least 0, got -1"):
        write_report(tmp_path, {}, max_photos=-1)


def test_a_photo_of_another_size_stops_the_report_and_leaves_the_old_one(folder, tmp_path):
    encoded = dict(fake_evaluation.copy(folder, tmp_path))
    (tmp_path / "report.html").write_text("old")
    first, second = list(encoded)[:2]
    encoded[second] = encoded[first]
    with pytest.raises(UserError, match="are these photos of another data set"):
        write_report(tmp_path, encoded)
    assert (tmp_path / "report.html").read_text() == "old" and len(list(tmp_path.iterdir())) == 3


def test_missing_and_broken_photos_leave_a_place(folder, tmp_path):
    encoded = dict(fake_evaluation.copy(folder, tmp_path))
    names = list(encoded)
    del encoded[names[0]]
    encoded[names[1]] = b"not a photo"
    write_report(tmp_path, encoded)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "jpeg-0" not in page.scripts and "jpeg-1" not in page.scripts  # elements without text
    assert {"jpeg-0", "jpeg-1"} < set(page.ids)
    assert any("2 photos could not be shown" in text for text in page.texts)


def test_texts_are_escaped(folder, tmp_path):
    evil = "</script><script>alert('&')</script>\" onload=\"x"
    encoded = fake_evaluation.copy(folder, tmp_path, data=evil, checkpoint=evil, split=evil,
                    settings={evil: evil}, conventions={"detection": evil},
                    groups={evil: {"accuracy": 0.5}, "b": {"accuracy": 1.0, "missing": [evil]}})
    rows = fake_evaluation.rows_of(tmp_path)
    rows[0] |= {"explanation": evil, "reference": evil, "category": evil, "generator": evil,
                "answer": evil, "regions": [], "truth": []}
    fake_evaluation.write_rows(tmp_path, rows)
    write_report(tmp_path, encoded)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not any("onload" in attrs for _, attrs in page.tags)
    assert sum(tag == "script" for tag, _ in page.tags) == 4 + len(rows)
    assert page.items[0]["answers"][0]["answer"] == evil
    assert page.texts.count(evil) >= 5
