"""The report of an evaluation: one file without a network, with every number and photo once."""

import base64
import dataclasses
import gc
import io
import json
import re
import tracemalloc

import fake_evaluation
import made_rows
import numpy as np
import pytest
from html_page import Page
from PIL import Image

from legion_jax.evaluate import intervals, run, settings, summary
from legion_jax.evaluate.report import items, write_report
from legion_jax.evaluate.report.page import worst
from legion_jax.evaluate.settings import DEFAULT

folder = fake_evaluation.folder


def test_one_file_without_a_network(folder):
    path, encoded = folder
    assert write_report(path, encoded) == path / "report.html"
    text = (path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"https?:|url\(|@import|//[\w-]+\.\w", re.sub(r"//.*", "", text))
    assert not [tag for tag, attrs in page.tags if tag in ("link", "iframe", "object")
                or "src" in attrs or str(attrs.get("href", "#"))[:1] != "#"]
    assert sorted(p.name for p in path.iterdir()) == ["metrics.json", "report.html", "rows.jsonl"]


def test_every_number_stands_with_its_interval_and_its_convention(folder):
    path, encoded = folder
    write_report(path, encoded)
    page = Page((path / "report.html").read_text(encoding="utf-8"))
    metrics = json.loads((path / "metrics.json").read_text())
    for keys in (("localisation", "mean", "f1"), ("localisation", "pooled", "miou"),
                 ("detection", "auc"), ("text", "rouge_l"), ("categories", "human", "localisation",
                                                             "mean", "f1")):
        value = metrics
        for key in keys:
            value = value[key]
        low, high = metrics["intervals"][".".join(keys)]
        assert f"{value:.3f}" in page.texts, keys
        assert f"{low:.3f} – {high:.3f}" in page.texts, keys
    buttons = {attrs["popovertarget"] for tag, attrs in page.tags if "popovertarget" in attrs}
    popovers = {attrs["id"] for tag, attrs in page.tags if "popover" in attrs}
    assert buttons == popovers and len(popovers) > 20
    for words in fake_evaluation.CONVENTIONS.values():
        assert sum(words in text for text in page.texts) >= 1


def test_photos_are_small_jpegs_in_the_order_of_the_items(folder):
    path, encoded = folder
    write_report(path, encoded)
    page = Page((path / "report.html").read_text(encoding="utf-8"))
    rows = fake_evaluation.rows_of(path)
    assert [item["id"] for item in page.items] == [row["id"] for row in rows]
    for item, row in zip(page.items, rows, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(page.scripts[f"jpeg-{item['n']}"]))) as picture:
            assert picture.format == "JPEG" and [picture.height, picture.width] == row["size"]
        explanation = item["answers"][0]["explanation"]
        assert "".join(words for words, _ in explanation) == row["explanation"]
        for words, number in explanation:
            assert number is None or words == row["regions"][number]["phrase"]


@pytest.mark.parametrize(("number", "words"), [
    (3, "Worst 3 of 14 photos shown."), (14, "All 14 photos."), (0, "Worst 0 of 14 photos shown.")])
def test_the_worst_are_shown_and_the_page_says_so(folder, tmp_path, number, words):
    encoded = fake_evaluation.copy(folder, tmp_path)
    asked = []

    def lookup(name):
        asked.append(name)
        return encoded[name]

    write_report(tmp_path, lookup, max_photos=number)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert any(words in text for text in page.texts)
    rows = sorted(fake_evaluation.rows_of(tmp_path),
                  key=lambda r: (items.quality(r), r["rouge_l"]))
    assert {item["id"] for item in page.items} == {row["id"] for row in rows[:number]}
    assert asked == [item["id"] for item in page.items]  # each once, and no other


@pytest.mark.slow
def test_photos_are_not_held(folder, tmp_path):
    """Ten times the photos take no ten times the memory; those of the page never lie together."""
    encoded = fake_evaluation.copy(folder, tmp_path)
    row, content = fake_evaluation.rows_of(tmp_path)[1], next(iter(encoded.values()))
    row["size"] = fake_evaluation.rows_of(tmp_path)[0]["size"]
    peaks = []
    for number in (5, 5, 40):  # the first loads what is loaded once
        fake_evaluation.write_rows(tmp_path, [row | {"id": str(k)} for k in range(number)])
        gc.collect()
        tracemalloc.start()
        write_report(tmp_path, lambda name: content)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    size = (tmp_path / "report.html").stat().st_size
    assert size > 0.3e6 and peaks[2] - peaks[1] < size / 5


def test_what_the_evaluation_writes_is_shown(tmp_path):
    """Photos that nobody marked, unreadable and silent ones, every block and every convention."""
    rows = made_rows.random_rows(0, 30)
    result = {"checkpoint": "x", "data": "ufd/all", "split": "all",
              "settings": dataclasses.asdict(DEFAULT) | {"question": {"mask_slots": 4}},
              "conventions": settings.conventions(DEFAULT, resamples=20), **summary.summary(rows),
              "intervals": intervals.bootstrap_intervals(rows, resamples=20), "robustness": []}
    run.finish(tmp_path, result, rows)
    write_report(tmp_path, {})
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    failed = [row["id"] for row in rows if row["failed"]]
    assert failed and [item["id"] for item in page.items if "failed" in item["marks"]] == failed
    assert any("could not be read" in text for text in page.texts)
    for name in ("localisation.pooled.f1", "detection.macro_f1", "matching.coco.ap50",
                 "words.agreement", "text.rouge_l"):
        low, high = result["intervals"][name]
        assert f"{low:.3f} – {high:.3f}" in page.texts, name
    for words in result["conventions"].values():
        assert words in page.texts
    assert {"By category", "By split", "By group of test sets"} < set(page.texts)


def test_choice_of_the_worst_puts_unknown_last():
    columns = {"id": np.array(["a", "b", "c", "d"], object), "label": np.zeros(4),
               "fake": np.zeros(4), "quality": np.array([np.nan, 0.2, 0.1, 0.2]),
               "rouge_l": np.array([0, 0.5, np.nan, 0.1])}
    assert [worst(columns, n) for n in range(5)] == [
        set(), {"c"}, {"c", "d"}, {"b", "c", "d"}, {"a", "b", "c", "d"}]
