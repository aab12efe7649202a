"""Scores of verdicts of three classes: by hand, against scikit-learn, and through an evaluation."""

import dataclasses
import json

import numpy as np
import pytest
from etils import epath
from html_page import Page
from made_rows import prediction, record
from sklearn import metrics as reference

from legion_jax.evaluate import class_scores, run, summary, terminal, verdict_scores, weighted
from legion_jax.evaluate.photo_rows import Source
from legion_jax.evaluate.report import comparison, items, tables
from legion_jax.evaluate.report.folder import UNKNOWN, open_evaluation
from legion_jax.evaluate.settings import DEFAULT

CLASSES = ("real", "full synthetic", "tampered")
PHOTO = np.full((16, 20, 3), 200, np.uint8)
# Label, class said; None where the answer has no [CLS].
SAID = [(0, "real"), (0, "tampered"), (1, "full synthetic"), (1, "tampered"), (2, "tampered"),
        (2, None), (2, "real"), (-1, "real")]
FACTS = {"data": "made/up", "split": "test", "step": 3,
         "question": {"instruction": "Which?", "dialogue": "sida"}}
SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]


class Head:
    """Gives the classes of SAID in their order, and a mask of all of the photo to tampered ones."""

    def stream(self, photos, *, explain):
        for key, _ in photos:
            yield key, answer(SAID[key][1])


def answer(verdict, *, classes=CLASSES):
    fake = None if verdict is None else 0.1 if verdict == "real" else 0.9
    masks = [np.ones((16, 20), bool)] if verdict == "tampered" else []
    return dataclasses.replace(prediction((16, 20), masks, fake=fake), verdict=verdict,
                               classes=classes)


def source():
    """As SID-Set marks its photos: tampered ones, and real ones as clean."""
    return Source([("test", [
        record(f"r{n}", PHOTO, label=label, polygons=[SQUARE] if label == 2 else [],
               has_masks=label in (0, 2)) for n, (label, _) in enumerate(SAID)]
        + [record("r8", None, label=2, polygons=[SQUARE])])])


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    task = run.Task(source(), FACTS, Head)
    result = run.run(task, epath.Path(folder), run.Scoring(DEFAULT, resamples=20),
                     folder="weights")
    return folder, result, [
        json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def scored(truth, given, classes=CLASSES):
    return weighted.values(class_scores.scores(np.array(truth), np.array(given), classes),
                           len(truth))


@pytest.mark.parametrize("seed", range(6))
def test_scores_agree_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3 if seed else 2, 40)
    given = np.where(rng.random(40) < 0.5, truth, rng.integers(-1, 3 if seed else 2, 40))
    result = scored(truth, given)
    seen = sorted({*truth, *given} - {class_scores.MISSING})
    assert result["accuracy"] == pytest.approx(reference.accuracy_score(truth, given))
    assert result["macro_f1"] == pytest.approx(reference.f1_score(
        truth, given, labels=seen, average="macro"))
    columns = reference.precision_recall_fscore_support(truth, given, labels=seen)
    for k, *values in zip(seen, *columns, strict=True):
        of_class = result["by_class"][CLASSES[k]]
        assert [of_class[name] for name in ("precision", "recall", "f1", "support")] == (
            pytest.approx(values))
    table = reference.confusion_matrix(truth, given, labels=[0, 1, 2, -1])
    labels = ["real", "synthetic", "tampered"]
    counts = class_scores.confusion([labels[k] for k in truth], given, CLASSES)
    assert [list(counts[label].values()) for label in counts] == [
        table[k].tolist() for k in sorted(set(truth))]


def test_a_class_nobody_has_or_was_given_is_no_part_of_the_mean():
    result = scored([0, 0, 1], [0, 1, 1])
    assert result["by_class"]["tampered"] == {"recall": None, "precision": None, "f1": None,
                                              "support": 0}
    assert result["macro_f1"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert scored([0], [-1])["macro_f1"] == 0


def test_draws_count_photos_as_often_as_they_are_drawn():
    truth, given = np.array([0, 1, 2, 2]), np.array([0, 2, 2, -1])
    tree = dict(weighted.scores(class_scores.scores(truth, given, CLASSES)))
    draws = np.array([[2, 0, 1, 3], [0, 0, 0, 4], [1, 1, 1, 1]])
    for row in range(3):
        again = scored(np.repeat(truth, draws[row]), np.repeat(given, draws[row]))
        for name in ("accuracy", "macro_f1"):
            assert tree[name](draws)[row] == pytest.approx(again[name])


def test_numbers_by_hand(evaluated):
    detected = evaluated[1]["detection"]
    classes = detected["classes"]
    assert classes["accuracy"] == pytest.approx(3 / 8) and classes["num"] == 8
    assert classes["by_class"]["tampered"] == {
        "recall": 1 / 4, "precision": pytest.approx(1 / 3), "f1": pytest.approx(2 / 7),
        "support": 4}
    assert classes["macro_f1"] == pytest.approx((1 / 2 + 2 / 3 + 2 / 7) / 3)
    assert classes["confusion"] == {
        "real": {"real": 1, "full synthetic": 0, "tampered": 1, "none": 0},
        "synthetic": {"real": 0, "full synthetic": 1, "tampered": 1, "none": 0},
        "tampered": {"real": 1, "full synthetic": 0, "tampered": 1, "none": 2}}
    # Real or not: one real photo is called fake; of six fakes one is called real, one nothing, and
    # one cannot be read.
    assert detected["accuracy"] == pytest.approx(4 / 8)
    assert detected["accuracy_fake"] == pytest.approx(3 / 6)
    assert (detected["num"], detected["num_no_verdict"], detected["num_unanswered"]) == (8, 1, 1)
    intervals = evaluated[1]["intervals"]
    assert {"detection.classes.accuracy", "detection.classes.macro_f1"} <= intervals.keys()
    assert "detection.classes" in evaluated[1]["conventions"]


def test_masks_of_tampered_photos_have_their_means(evaluated):
    """Of SID-Set `mean_with_artifacts` is over the tampered photos, missed ones as 0."""
    located = evaluated[1]["localisation"]
    iou = 100 / 320  # of one tampered photo; one is called real, one nothing, one is not read
    assert located["num_with_artifacts"] == 4
    assert located["mean_with_artifacts"]["fg_iou"] == pytest.approx(iou / 4)
    assert located["mean_with_artifacts"]["f1"] == pytest.approx(2 * iou / (1 + iou) / 4)
    assert located["false_area_on_real"] == pytest.approx(1 / 2)
    assert located["num_images"] == 6  # synthetic photos are not marked


def test_a_photo_without_a_verdict_is_wrong_also_where_there_are_two_classes(evaluated):
    rows = [dict(row) for row in evaluated[2]]
    for row in rows:
        row["classes"] = ["real", "fake"] if row["classes"] else []
    scores = weighted.values(verdict_scores.block(rows), len(rows))
    assert "classes" not in scores and scores["num_no_verdict"] == 1
    assert scores["accuracy"] == pytest.approx(4 / 8)
    unjudged = [row | {"verdict_by": None, "classes": []} for row in rows if not row["verdict"]]
    assert verdict_scores.block(unjudged) == {}


def test_rows_of_older_evaluations_are_scored_as_they_were(evaluated):
    older = [{name: value for name, value in row.items() if name != "classes"}
             for row in evaluated[2] if row["verdict"]]
    scores = weighted.values(verdict_scores.block(older), len(older))
    assert "classes" not in scores and "num_no_verdict" not in scores
    assert scores["accuracy"] == pytest.approx(4 / 6)


def test_labels_without_a_class_are_counted_apart():
    row = UNKNOWN | {"classes": ["real", "edited", "drawn"], "split": "", "fake_probability": 0.9,
                     "verdict_by": "head"}
    rows = [row | {"label": 1, "verdict": "drawn"}, row | {"label": 2, "verdict": "edited"}]
    classes = weighted.values(verdict_scores.block(rows), 2)["classes"]
    assert (classes["num"], classes["num_without_class"], classes["accuracy"]) == (1, 1, 1)


def test_terminal_and_report_show_them(evaluated, capsys):
    folder, result, rows = evaluated
    terminal.show(result)
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 answers have no verdict and count as wrong" in printed
    assert "classes: accuracy 0.375, macro F1 0.484, 8 photos" in printed
    assert "┃ are / called ┃ real ┃ full synthetic ┃ tampered ┃ nothing ┃" in printed
    opened = open_evaluation(folder)
    scores, counts = tables.classes(opened, "Classes", "detection", "classes")
    cells = {name.name: [c.text for c in row] for name, row in scores.rows}
    assert cells["tampered"] == ["0.250", "0.333", "0.286", "4"]
    assert cells["all"] == ["0.375", "–", "0.484", "8"]
    assert [c.name for c in counts.columns] == [
        "called real", "called full synthetic", "called tampered", "no verdict"]
    assert {name.name: [c.text for c in row] for name, row in counts.rows}["tampered"] == [
        "1", "0", "1", "2"]
    page = Page((folder / "report.html").read_text())
    assert "Classes: what photos were called" in page.texts
    assert "answers without a verdict" in page.texts
    marks = {item["id"]: item["marks"] for item in page.items}
    assert "class" in marks["r3"] and not {"class", "wrong"} & set(marks["r2"])
    assert {"wrong", "unparsed"} <= set(marks["r5"]) and "unparsed" not in marks["r8"]
    assert items.quality(rows[5]) == 0
    assert summary.summary(rows)["detection"] == result["detection"]


def test_comparing_two_systems_of_three_classes_and_one_of_two(evaluated, tmp_path):
    folder, result, _ = evaluated

    class Binary(Head):
        def stream(self, photos, *, explain):
            for key, _ in photos:
                yield key, answer("real", classes=("real", "fake"))

    run.run(run.Task(source(), FACTS, Binary), epath.Path(tmp_path),
            run.Scoring(DEFAULT, resamples=20), folder="weights")
    a, b = open_evaluation(folder), open_evaluation(tmp_path)
    alike = comparison.compare(a, a, resamples=20).result()["differences"]
    assert alike["detection.classes.accuracy"]["b"] == result["detection"]["classes"]["accuracy"]
    names = [row.term.name for row in comparison.forest(alike, a)]
    assert "accuracy over classes" in names and "recall, tampered" in names
    mixed = comparison.compare(a, b, resamples=20).result()["differences"]
    assert "detection.accuracy" in mixed and "detection.classes.accuracy" not in mixed
