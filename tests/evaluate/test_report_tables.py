"""Tables, published results and items of a report, from metrics.json and rows alone."""

import json
import re

import pytest
from etils import epath

from legion_jax.evaluate.report import items, published_results, tables
from legion_jax.evaluate.report.folder import UNKNOWN, Evaluation
from legion_jax.evaluate.report.tables import Cell


def _run(**metrics) -> Evaluation:
    return Evaluation(epath.Path("runs/x"), metrics)


def _row(**values) -> dict:
    return UNKNOWN | {"id": "a"} | values


def test_numbers_have_their_interval_and_their_conventions():
    run = _run(localisation={"mean": {"f1": 0.5, "miou": None}, "num_images": 1234},
               intervals={"localisation.mean.f1": [0.25, 0.75]},
               conventions={"localisation": "all", "localisation.mean": "by photo"})
    assert tables.cell(run, "localisation", "mean", "f1") == Cell("0.500", "0.250 – 0.750", 0.5)
    assert tables.cell(run, "localisation", "mean", "miou") == tables.DASH
    assert tables.cell(run, "localisation", "num_images") == Cell("1,234")
    assert tables.convention(run, "localisation", "mean", "f1") == "all by photo"
    assert tables.convention(run, "localisation", "pooled", "f1") == "all"
    assert tables.convention(run, "text") == ""
    assert tables.term(run, "f1", "detection").name == "F1 of fake"


def test_blocks_show_every_number_once_and_none_without_one():
    run = _run(detection={"auc": 0.5, "accuracy": 0.25, "num": 7, "num_unanswered": 0,
                          "reliability": [], "by_split": {"a": {"accuracy": 1.0, "num": 2}}},
               matching={"hungarian": {"ap50": 0.125, "map": None}}, text={"css": None, "num": 0})
    table = tables.block(run, "Verdict", "detection", keys=tables.DETECTION)
    assert [(t.name, c.text) for t, [c] in table.rows] == [
        ("accuracy", "0.250"), ("AUC", "0.500"), ("num unanswered", "0")]
    assert table.note == "7 photos."
    table = tables.block(run, "Artifacts", "matching")
    assert [(t.name, c.text) for t, [c] in table.rows] == [
        ("AP50, hungarian", "0.125"), ("mAP, hungarian", "–")]
    assert tables.block(run, "Explanation", "text") is None


def test_parts_of_a_data_set_have_tables():
    run = _run(
        categories={"human": {"num_photos": 3, "localisation": {"mean": {"f1": 0.5}},
                              "detection": {"accuracy": 1.0}},
                    "scene": {"num_photos": 1200, "localisation": {"mean": {"f1": None}}}},
        detection={"by_split": {"only": {"accuracy": 1.0, "num": 3}}},
        groups={"GANs": {"accuracy": 0.75, "sets": ["progan"], "missing": ["biggan", "gaugan"]},
                "CRN": {"accuracy": 0.5, "sets": ["crn"], "missing": []}})
    parts = {table.title: table for table in tables.slices(run)}
    assert list(parts) == ["By category", "By group of test sets"]  # one split is no part
    names = [column.name for column in parts["By category"].columns]
    assert names == ["photos", "F1", "accuracy"]
    assert [[c.text for c in cells] for _, cells in parts["By category"].rows] == [
        ["3", "0.500", "1.000"], ["1,200", "–", "–"]]
    assert [c.name for c in parts["By group of test sets"].columns] == ["accuracy"]
    assert parts["By group of test sets"].note == "GANs is without biggan, gaugan."


def test_changes_of_damaged_photos_are_against_the_clean_ones():
    run = _run(localisation={"mean": {"miou": 0.5, "f1": None}}, detection={"accuracy": 0.8},
               robustness=[{"name": "jpeg", "level": 50.0, "localisation": {"mean": {"miou": 0.4}},
                            "detection": {}, "text": {"rouge_l": None}}])
    table = tables.robustness(run)
    assert [column.name for column in table.columns] == ["mIoU"]
    assert [(t.name, c.text, c.interval) for t, [c] in table.rows] == [
        ("photos as they are", "0.500", ""), ("jpeg 50", "0.400", "−20.0 %")]
    assert tables.robustness(_run()) is None


@pytest.mark.parametrize(("data", "split", "unlike", "titles", "reason"), [
    ("synthscars/published", "test", "", 3, ""),
    ("/data/SynthScars/published/2.0.0", "test[:100]", "", 3,
     "Not strictly comparable: test[:100] is a"),
    ("synthscars/photos", "test", "nothing was published of it", 0,
     "Not comparable: this is not the published test set (nothing was published of it)."),
    ("synthscars/published", "test", None, 0, "Not comparable: it was not noted whether"),
    ("synthscars/photos", "train", "", 0, "Not comparable: the published numbers are of test phot"),
    ("synthscars/photos", "all", "", 0, "Not comparable: the published numbers are of test photos"),
    ("ufd/capped", "all", "", 1, ""), ("ufd/capped", "crn+imle", "", 1, ""),
    ("loki/regions", "test", "", 4, ""), ("richhf", "test", "", 1, ""),
    ("fakeclue/published", "test", "", 1, ""), ("sid_set/parquet", "test", "", 1, ""),
    ("sid_set/folders", "validation", "", 0, "Not comparable: the published numbers are of test"),
    ("my_loki_copy", "test", "", 0, "Not comparable: no published table is of my_loki_copy"),
    ("", "", "", 0, "Not comparable: no published table is of unknown data"),
])
def test_published_tables_are_of_the_same_data(data, split, unlike, titles, reason):
    standing = published_results.standing(_run(data=data, split=split, unlike_published=unlike))
    assert len(standing.tables) == titles
    assert standing.reason.startswith(reason) and bool(standing.reason) == bool(reason)


def test_this_run_stands_in_the_unit_of_the_published_table():
    run = _run(data="synthscars/published", split="test", unlike_published="",
               text={"rouge_l": 0.395, "css": None},
               categories={"Human": {"localisation": {"mean": {"miou": 0.6082},
                                                      "pooled": {"miou": 0.5}}}},
               localisation={"mean": {"f1": 0.3211}})
    content, whole, texts = published_results.standing(run).tables
    columns = [column.name for column in content.columns]
    rows = {term.name: [c.text for c in cells] for term, cells in content.rows}
    place = columns.index("human mIoU")
    assert rows["this run, mean over photos"][place] == rows["LEGION"][place] == "60.82"
    assert rows["this run, pooled"][place] == "50.00"
    assert rows["this run, pooled"][columns.index("human F1")] == "–"
    assert {t.name: [c.text for c in cells] for t, cells in whole.rows} == {
        "this run": ["–", "0.321", "–", "–"], "legion_LE": ["0.223", "0.321", "0.242", "0.389"],
        "retrained": ["0.196", "0.287", "0.200", "0.334"]}
    assert texts.rows[0][1][0].text == "39.50" and "LEGION paper" in texts.note


def test_classes_are_found_by_the_labels_they_are_of():
    values = {name: {"recall": recall, "f1": recall / 2} for name, recall in (
        ("real", 0.5), ("Full_Synthetic", 0.75), ("tampered", 0.25))}
    classes = {"accuracy": 0.5, "macro_f1": 0.25, "by_class": values}
    run = _run(data="sid_set/folders", split="test", unlike_published="",
               detection={"classes": classes}, teacher_forced={"classes": classes | {
                   "accuracy": 0.625, "by_class": {"real": {"recall": 1.0}}}})
    [table] = published_results.standing(run).tables
    rows = {term.name: [c.text for c in cells] for term, cells in table.rows}
    assert [column.name for column in table.columns] == [
        "real accuracy", "real F1", "synthetic accuracy", "synthetic F1", "tampered accuracy",
        "tampered F1", "accuracy", "F1"]
    assert rows["this run"] == ["50.00", "25.00", "75.00", "37.50", "25.00", "12.50", "50.00",
                                "25.00"]
    assert rows["this run, given the true answer"][0] == "100.00"
    assert rows["this run, given the true answer"][2:7] == ["–"] * 4 + ["62.50"]
    assert rows["SIDA-7B"] == ["89.10", "91.00", "98.70", "98.60", "92.70", "91.00", "93.50",
                               "93.50"]
    assert rows["LNP"] == ["–"] * 6 + ["55.30", "61.50"]


def test_one_test_set_is_its_column():
    run = _run(data="ufd/all", split="crn", unlike_published="", detection={"accuracy": 0.75},
               groups={})
    [table] = published_results.standing(run).tables
    assert [c.text for c in table.rows[0][1]] == ["–", "–", "75.00", "–", "–", "–", "–"]
    run = _run(data="ufd/all", split="all", unlike_published="", groups={
        "GANs": {"accuracy": 0.5, "missing": []}, "SAN": {"accuracy": 0.5, "missing": ["san"]}})
    texts = [c.text for c in published_results.standing(run).tables[0].rows[0][1]]
    assert texts[0] == "50.00" and texts[5] == "–"


def test_published_tables_are_rectangles():
    for table in published_results.TABLES:
        assert table.ours in table.rows
        assert {len(values) for values in table.rows.values()} == {len(table.columns)}
        top = 100 if table.per_cent else 1
        assert all(0 <= value <= top for values in table.rows.values() for value in values
                   if value is not None)


@pytest.mark.parametrize(("values", "quality"), [
    ({"f1": 0.5}, 0.5), ({"f1": 0.5, "label": 0, "fake_probability": 0.75}, 0.375),
    ({"label": 2, "fake_probability": 0.75}, 0.75), ({"fake_probability": 0.75}, None),
    ({"rouge_l": 0.25}, 0.25), ({}, None)])
def test_quality(values, quality):
    assert items.quality(_row(**values)) == quality


@pytest.mark.parametrize(("values", "marks"), [
    ({"label": 0, "verdict": "synthetic"}, ["wrong"]), ({"label": 1, "verdict": "tampered"}, []),
    ({"label": -1, "verdict": "real"}, []), ({"words_agree": False}, ["disagree"]),
    ({"counts": [0, 0, 5, 9]}, ["missed"]), ({"counts": [0, 5, 0, 9]}, ["invented"]),
    ({"counts": [1, 5, 5, 9]}, []), ({"finished": False}, ["cut"]),
    ({"finished": False, "failed": "cut short"}, ["failed"])])
def test_marks(values, marks):
    assert items.marks(_row(**values)) == marks


def test_phrases_are_found_in_any_case_and_never_twice_in_one_place():
    spans = items.find_phrases("The ear and an ear", ["the EAR", "ear", "EAR", " ", "İ"])
    assert spans == [[0, 7], [15, 18], None, None, None]
    assert items.find_phrases("İ the ear", ["ear"]) == [[6, 9]]


def test_unions_are_drawn_only_where_regions_have_no_masks():
    rle, region = {"size": [1, 2], "counts": "11"}, {"phrase": "x", "rle": {"size": [1, 2]}}
    assert items.photo(_row(truth_rle=rle, counts=[1, 0, 0, 1]), 0)["union"] == rle
    assert items.photo(_row(truth_rle=rle, counts=[0, 1, 0, 1]), 0)["union"] is None
    assert items.photo(_row(truth_rle=rle, counts=[1, 0, 0, 1], truth=[region]), 0)["union"] is None


def test_items_fit_json():
    text = json.dumps(items.item(_row(), 3), allow_nan=False)
    assert not re.search("NaN", text) and json.loads(text)["n"] == 3
