"""Comparing two evaluations: what is shared, what is refused, which side is called better."""

import functools
import json
import re

import fake_evaluation
import pytest
from commands import run_tool
from html_page import Page

from legion_jax.evaluate.report import comparison, photos, write_report
from legion_jax.evaluate.report.folder import open_evaluation
from tools import compare as tool


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two evaluations of 12 and of 10 photos, the first with its report, and the photos."""
    root = tmp_path_factory.mktemp("runs")
    encoded = fake_evaluation.write(root / "a", 12, side=200)
    fake_evaluation.write(root / "b", 10, side=200, seed=1, skill=1.0)
    write_report(root / "a", encoded)
    return (root / "a", root / "b"), encoded


@pytest.fixture(scope="module")
def folders(written):
    return written[0]


def _compared(folders, **options) -> comparison.Comparison:
    return comparison.compare(*map(open_evaluation, folders), **{"resamples": 50} | options)


def _changed(folder, to, **changes):
    """The folder again with other keys in metrics.json."""
    to.mkdir()
    metrics = json.loads((folder / "metrics.json").read_text()) | changes
    (to / "metrics.json").write_text(json.dumps(metrics))
    (to / "rows.jsonl").write_bytes((folder / "rows.jsonl").read_bytes())
    return to


def test_only_photos_both_scored_count(folders):
    result = _compared(folders).result()
    assert [result[k] for k in ("num_shared", "num_only_a", "num_only_b")] == [10, 2, 0]
    rows = [json.loads(line) for line in (folders[1] / "rows.jsonl").read_text().splitlines()]
    f1 = result["differences"]["localisation.mean.f1"]
    assert f1["b"] == pytest.approx(sum(row["f1"] for row in rows) / 10)
    assert sum(part["num_photos"] for part in result["categories"].values()) == 10
    assert [photo["id"] for photo in result["photos"]] == [row["id"] for row in rows]
    swapped = _compared(folders[::-1]).result()
    assert swapped["differences"]["localisation.mean.f1"]["difference"] == -f1["difference"]
    assert [swapped[k] for k in ("num_only_a", "num_only_b")] == [0, 2]


@pytest.mark.parametrize(("changes", "words"), [
    ({"data": "loki/regions"}, "data is 'synthscars/photos' in {a}, 'loki/regions' in {b}"),
    ({"conventions": {"text": "stemmed"}}, "is '"),
    ({"conventions": fake_evaluation.CONVENTIONS | {"text": "stemmed"}},
     "conventions.text is 'Explanations decoded greedily from the photo alone; words lower-cased, "
     "no stemming.' in {a}, 'stemmed' in {b}"),
    ({"settings": {"rasteriser": "fillpoly"}},
     "settings.rasteriser is None in {a}, 'fillpoly' in {b}"),
    ({"text": {"css_model": "other"}},
     "text.css_model is 'paraphrase-MiniLM-L6-v2' in {a}, 'other' in {b}"),
])
def test_other_data_and_other_conventions_are_refused(folders, tmp_path, changes, words):
    other = _changed(folders[0], tmp_path / "other", **changes)
    with pytest.raises(comparison.UserError, match="not comparable: ") as caught:
        _compared((folders[0], other))
    assert words.format(a=folders[0], b=other) in str(caught.value)


def test_intervals_and_splits_may_differ(folders, tmp_path):
    conventions = fake_evaluation.CONVENTIONS | {"intervals": "of 10 resamples"}
    other = _changed(folders[0], tmp_path / "other", conventions=conventions, split="test[:12]")
    assert len(_compared((folders[0], other)).rows_a) == 12


def test_nothing_in_common_is_refused(folders, tmp_path):
    other = _changed(folders[0], tmp_path / "other", split="val")
    fake_evaluation.write_rows(other, [{"id": "elsewhere"}])
    with pytest.raises(comparison.UserError, match=r"no photo in common: 12 and 1 photos of split "
                                                   "test and val"):
        _compared((folders[0], other))


def test_the_page_shows_what_differs_most_with_its_photos(written, tmp_path):
    folders, encoded = written
    compared = _compared(folders)
    pictures = functools.partial(photos.picture_of, encoded)
    result = comparison.write_comparison(tmp_path, compared, picture=pictures, max_photos=4)
    assert json.loads((tmp_path / "compare.json").read_text()) == result
    text = (tmp_path / "compare.html").read_text(encoding="utf-8")
    page = Page(text)
    largest = sorted(result["photos"], key=lambda p: -abs(p["difference"]))[:4]
    assert [item["id"] for item in page.items] == [photo["id"] for photo in largest]
    assert [[a["title"] for a in item["answers"]] for item in page.items] == [["A", "B"]] * 4
    report = Page((folders[0] / "report.html").read_text(encoding="utf-8"))
    places = {item["id"]: item["n"] for item in report.items}
    for item in page.items:
        assert page.scripts[f"jpeg-{item['n']}"] == report.scripts[f"jpeg-{places[item['id']]}"]
    assert any(text.startswith("4 of 10 photos") for text in page.texts)
    assert any("2 that only A has" in text for text in page.texts)
    assert not re.search(r"https?:", text)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["compare.html", "compare.json"]


def test_without_pictures_the_page_says_so(folders, tmp_path):
    comparison.write_comparison(tmp_path, _compared(folders), picture=None)
    page = Page((tmp_path / "compare.html").read_text(encoding="utf-8"))
    assert any("--data_dir shows them" in text for text in page.texts)
    assert tool.pictures(None, *map(open_evaluation, folders)) is None


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["a", "b"], 0, "compare.html"), (["a"], 1, "error: RUN_B is missing"),
    (["a", "b", "c"], 1, "error: unexpected argument 'c'; RUN_A RUN_B --flags")])
def test_command_line(folders, tmp_path, arguments, code, words):
    paths = [str(folders[0].parent / name) if name != "c" else name for name in arguments]
    done = run_tool("tools.compare", *paths, "--output", tmp_path / "out", "--resamples=10",
                    timeout=120)
    assert done.returncode == code and words in done.stdout + done.stderr
    assert (tmp_path / "out" / "compare.json").exists() == (code == 0)


@pytest.mark.parametrize(("path", "low", "high", "side"), [
    ("localisation.mean.f1", 0.01, 0.2, "B"), ("localisation.mean.f1", -0.2, -0.01, "A"),
    ("localisation.mean.f1", -0.1, 0.2, ""), ("localisation.mean.f1", 0.0, 0.2, ""),
    ("detection.ece", 0.01, 0.2, "A"), ("detection.ece", -0.2, -0.01, "B"),
    ("localisation.false_area_on_clean", 0.01, 0.2, "A"),
])
def test_better_needs_an_interval_without_zero(path, low, high, side):
    assert comparison.better(path, {"low": low, "high": high}) == side


def test_places_lie_on_the_line_whatever_the_unit(folders):
    def value(low, high):
        return {"a": 0.0, "b": 0.0, "difference": (low + high) / 2, "low": low, "high": high}

    rows = {row.term.name: row for row in comparison.forest(
        {"detection.auc": value(-0.1, 0.2), "detection.nll": value(-3, 3),
         "text.css": value(0.0, 0.0)}, open_evaluation(folders[0]))}
    assert (rows["AUC"].low, rows["AUC"].zero, rows["AUC"].high) == (26, 50, 98)
    assert (rows["NLL"].low, rows["NLL"].place, rows["NLL"].high) == (2, 50, 98)
    assert rows["CSS"].equal and not rows["AUC"].equal


def test_the_terminal_names_every_number(folders, capsys):
    result = _compared(folders).result()
    tool.show(result, open_evaluation(folders[0]))
    out = capsys.readouterr().out
    flat = re.sub(r"[\s│]+", "", out)
    assert "10photosbothscored;leftout:2thatonlyAhas,0thatonlyBhas" in flat
    assert all(row.term.name.split()[0] in out for row in comparison.forest(
        result["differences"], open_evaluation(folders[0])))
    assert f"{result['differences']['localisation.mean.f1']['a']:.3f}" in out
