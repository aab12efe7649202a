"""Systems that are judged by the words of their answers, by our rule and by FakeVLM's."""

import dataclasses
import json
import shutil

import family_golden
import numpy as np
import pytest
import relatives
from etils import epath
from html_page import Page
from made_rows import prediction, record

from input_pipeline.errors import UserError
from input_pipeline.text.conversation import parse_answer
from input_pipeline.text.tokenizer import train_tokenizer
from input_pipeline.text.verdict_words import draw_of, published_verdict, verdict_of_words
from legion_jax.config import tiny
from legion_jax.evaluate import (
    fakevlm_accuracy,
    run,
    settings,
    summary,
    terminal,
    verdict_scores,
    weighted,
)
from legion_jax.evaluate.photo_rows import Source
from legion_jax.evaluate.report import comparison, items, tables
from legion_jax.evaluate.report.folder import Evaluation, open_evaluation
from legion_jax.evaluate.settings import DEFAULT, compatible
from legion_jax.evaluate.word_verdicts import FAKEVLM, HEAD, WORDS, Judgement, judge
from legion_jax.predict.prediction import Question, probability_of
from legion_jax.predict.predictor import Predictor

PHOTO = np.full((16, 20, 3), 200, np.uint8)
QUESTION = "Does the image looks real/fake?"
FACTS = {"data": "made/up", "split": "test", "step": 3,
         "question": {"instruction": QUESTION, "dialogue": "raw"}}
# Label, category, probability of fake, answer: verdicts by our rule and by the published one.
PHOTOS = [
    (0, "human", 0.1, "This is a real image.", "real", "real"),
    (1, "human", 0.8, "It is not real. It is fake.", "fake", "real"),
    (1, "human", 0.7, "A dog. A cat. A fake.", "fake", None),
    (2, "deepfake", 0.4, "No word of it", None, None),
    (0, "deepfake", 0.3, "Real? No, it is fake.", "real", "fake"),
    (0, "", 0.6, "It is fake.", "fake", "fake"),
    (-1, "human", 0.9, "It is fake.", "fake", "fake")]


def said(answer, fake, *, size=(16, 20)):
    """The prediction of a system that judges by words."""
    word = verdict_of_words(answer)
    return dataclasses.replace(
        prediction(size, text=answer, words=word), by_words=True, verdict=word,
        probability=probability_of(word, fake), fake_probability=fake)


class Speaker:
    """Gives the answers of PHOTOS in their order, with or without probabilities."""

    def __init__(self, *, scores=True):
        self.scores = scores

    def stream(self, items, *, explain):
        for key, _ in items:
            _, _, fake, answer, _, _ = PHOTOS[key]
            yield key, said(answer, fake if self.scores else None)


class Head:
    """A system with a head, which calls every photo fake."""

    def stream(self, items, *, explain):
        for key, photo in items:
            yield key, prediction(photo.shape[:2], fake=0.75, words="real")


def source(*, broken=False):
    records = [record(f"r{n}", PHOTO, label=label, category=category, has_masks=False)
               for n, (label, category, *_) in enumerate(PHOTOS)]
    if broken:
        records[0] = dataclasses.replace(records[0], image=b"no image")
    return Source([("test", records)])


def evaluated(folder, speaker, rule=DEFAULT, **options):
    """(metrics.json, rows) of PHOTOS."""
    result = run.run(run.Task(source(**options), FACTS, lambda: speaker), epath.Path(folder),
                     run.Scoring(rule, resamples=20), folder="weights")
    return result, [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    return folder, *evaluated(folder, Speaker())


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs")
    return folder, *evaluated(folder, Speaker(), compatible("fakevlm"))


def test_who_judges():
    head, words = prediction((8, 8), fake=0.2, words="fake"), said("No word", 0.2)
    assert judge(head, None, photo="a", question="") == Judgement(
        "real", 0.8, HEAD, words_agree=False)
    assert judge(words, None, photo="a", question="") == Judgement(None, None, WORDS)
    nobody = dataclasses.replace(head, verdict=None, probability=None, fake_probability=None)
    assert judge(nobody, None, photo="a", question="").by is None
    drawn = judge(words, FAKEVLM, photo="a", question=QUESTION)
    word = published_verdict("No word", draw_of("a")).word
    assert drawn == Judgement(word, {"real": 0.8, "fake": 0.2}[word], FAKEVLM, drawn=True)
    with pytest.raises(UserError, match="photo a: its verdict cannot be read by the rule fakevlm"):
        judge(head, FAKEVLM, photo="a", question="")


def test_a_question_without_a_question_mark_is_judged_too():
    answer = said("It is fake.", 0.9)
    for question, word in ((QUESTION, "fake"), ("Tell real from fake: ", "real")):
        assert judge(answer, FAKEVLM, photo="a", question=question).verdict == word


def test_rows_by_our_rule(ours):
    _, _, rows = ours
    assert [row["verdict"] for row in rows] == [mine for *_, mine, _ in PHOTOS]
    assert {row["verdict_by"] for row in rows} == {WORDS}
    assert not any(row["drawn"] for row in rows)
    assert [row["words_agree"] for row in rows] == [None] * len(rows)
    assert rows[1]["probability"] == 0.8 and rows[4]["probability"] == 0.7
    assert rows[3]["probability"] is None and rows[3]["fake_probability"] == 0.4


def test_rows_by_the_published_rule(theirs):
    _, _, rows = theirs
    for row, (_, _, fake, answer, mine, published) in zip(rows, PHOTOS, strict=True):
        word = published or published_verdict("", draw_of(row["id"])).word
        assert (row["verdict"], row["drawn"]) == (word, published is None), answer
        assert row["words"] == mine and row["verdict_by"] == FAKEVLM
        assert row["words_agree"] == (None if mine is None else mine == word)
        assert row["probability"] == pytest.approx(fake if word == "fake" else 1 - fake)


def test_numbers_by_our_rule_by_hand(ours):
    detected = ours[1]["detection"]
    # Real: right, right, wrong. Fake: right, right, without a verdict, which is wrong.
    assert detected["accuracy"] == pytest.approx(4 / 6)
    assert detected["accuracy_real"] == detected["accuracy_fake"] == pytest.approx(2 / 3)
    assert detected["balanced_accuracy"] == pytest.approx(2 / 3)
    assert detected["macro_f1"] == pytest.approx(2 / 3)
    assert (detected["num"], detected["num_unparsed"], detected["num_drawn"],
            detected["num_unanswered"]) == (6, 1, 0, 0)
    # Fakes at .8, .7 and .4, real photos at .1, .3 and .6: one pair of nine is the wrong way.
    assert detected["auc"] == pytest.approx(8 / 9)
    assert sum(part["num"] for part in detected["reliability"]) == 5  # all with a verdict
    truth = np.array([0, 1, 1, 1, 0, 0])
    fake = np.array([0.1, 0.8, 0.7, 0.4, 0.3, 0.6])
    assert detected["brier"] == pytest.approx(((fake - truth) ** 2).mean())
    human, face = (ours[1]["categories"][name]["detection"] for name in ("human", "deepfake"))
    assert (human["accuracy_real"], human["accuracy_fake"], human["f1"]) == (1, 1, 1)
    assert (face["accuracy"], face["accuracy_fake"], face["num_unparsed"]) == (0.5, 0, 1)
    assert "published_accuracy" not in ours[1]


def test_without_probabilities_verdicts_are_scored_all_the_same(ours, tmp_path):
    result, rows = evaluated(tmp_path, Speaker(scores=False))
    detected = result["detection"]
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "num", "num_unparsed", "by_category"):
        assert detected[name] == ours[1]["detection"][name], name
    assert detected["auc"] is detected["ece"] is detected["brier"] is None
    assert "detection.accuracy" in result["intervals"]
    assert "detection.auc" not in result["intervals"]
    assert [items.quality(row) for row in rows] == [1, 1, 1, 0, 1, 0, None]


def test_an_unreadable_photo_is_no_answer_without_a_verdict(tmp_path):
    detected = evaluated(tmp_path, Speaker(), broken=True)[0]["detection"]
    assert (detected["num"], detected["num_unanswered"], detected["num_unparsed"]) == (6, 1, 1)
    assert detected["accuracy"] == pytest.approx(3 / 6)


def test_only_words_without_any_verdict_are_wrong_verdicts():
    row = {"label": 1, "fake_probability": None, "failed": None, "verdict": None, "split": "",
           "category": "", "generator": "", "verdict_by": WORDS, "drawn": False}
    scores = weighted.values(verdict_scores.block([row, row]), 2)
    assert scores["accuracy"] == 0 and scores["num_unparsed"] == 2
    assert verdict_scores.block([row | {"verdict_by": None}]) == {}
    assert verdict_scores.block([row | {"label": -1}]) == {}


def test_the_published_accuracies_are_those_of_the_published_code():
    example = family_golden.read(family_golden.folder("F"), "meta.json")["accuracy_example"]
    counts = {name: of_category["right"] | of_category["wrong"]
              for name, of_category in example["in"].items()}
    assert fakevlm_accuracy.published_accuracy(counts) == example["out"]


def test_the_published_accuracies_by_hand(theirs):
    result, rows = theirs[1:]
    lots = {row["id"]: row["verdict"] == "fake" for row in rows}
    published = result["published_accuracy"]
    human, face = (published["category_acc"][name] for name in ("human", "deepfake"))
    assert human["confusion_matrix"] == {
        "right_real": 1, "wrong_real": 0, "right_fake": int(lots["r2"]),
        "wrong_fake": 2 - lots["r2"]}
    assert human["total_accuracy"] == round((1 + lots["r2"]) / 3, 4)
    assert human["real_accuracy"] == 1 and face["real_accuracy"] == 0
    assert face["fake_accuracy"] == lots["r3"]
    # Of photos without a category none is fake: absent among our numbers, 0 here.
    assert published["category_acc"][""]["fake_accuracy"] == 0
    right = 1 + lots["r2"] + lots["r3"]
    assert published["global_stats"] == {"total_right": right, "total_wrong": 6 - right,
                                         "global_accuracy": right / 6}
    assert result["detection"]["accuracy"] == pytest.approx(right / 6)
    assert result["detection"]["num_drawn"] == 2 and result["detection"]["num_unparsed"] == 0
    assert fakevlm_accuracy.published_accuracy({})["global_stats"]["global_accuracy"] == 0


def test_counts_leave_out_photos_nobody_labelled():
    rows = [{"label": label, "verdict": verdict, "category": category}
            for label, verdict, category in (
                (0, "real", "b"), (1, "real", "b"), (2, "fake", "a"), (0, None, "a"),
                (-1, "fake", "c"))]
    assert fakevlm_accuracy.counts_of(rows) == {
        "a": {"right_real": 0, "wrong_real": 1, "right_fake": 1, "wrong_fake": 0},
        "b": {"right_real": 1, "wrong_real": 0, "right_fake": 0, "wrong_fake": 1}}


def test_the_rule_is_named_wherever_numbers_are(ours, theirs, capsys):
    assert "verdict_rule fakevlm" in settings.explain("fakevlm")
    assert "25.5" not in settings.explain("fakevlm")  # damage is no part of that evaluation
    assert settings.parse_robustness("blur=5", compat="fakevlm") == [("blur", 5)]
    assert theirs[1]["settings"]["verdict_rule"] == "fakevlm"
    assert ours[1]["settings"]["verdict_rule"] is None
    assert "detection.fakevlm" in theirs[1]["conventions"]
    assert "detection.words" in ours[1]["conventions"]
    terminal.show(theirs[1])
    printed = " ".join(capsys.readouterr().out.split())
    assert "by FakeVLM's published rule (--compat=fakevlm); 2 verdicts drawn by lot" in printed
    assert "words agree with the verdict in" in printed and "in the dialogue raw" in printed
    terminal.show(ours[1])
    printed = " ".join(capsys.readouterr().out.split())
    assert "judged by the words of the answer; 1 answers say neither real nor fake" in printed
    assert "words agree" not in printed
    assert "localisation" not in printed  # nobody marked these photos


def test_the_report_shows_how_verdicts_came_about(ours, theirs):
    for folder, judged, dialogue in ((ours[0], "the words of the answer", "raw"),
                                     (theirs[0], "FakeVLM's published rule", "raw")):
        facts = dict(tables.settings(open_evaluation(folder)))
        assert facts["verdict by"] == judged and facts["dialogue"] == dialogue
        assert facts["question"] == f"instruction {QUESTION}"
        page = Page((folder / "report.html").read_text())
        assert judged in page.texts and "dialogue" in page.texts
    page = Page((ours[0] / "report.html").read_text())
    assert "answers without a verdict" in page.texts
    marks = {item["id"]: item["marks"] for item in page.items}
    assert marks["r3"] == ["wrong", "unparsed"] and marks["r5"] == ["wrong"]
    page = Page((theirs[0] / "report.html").read_text())
    assert "As FakeVLM's evaluation prints it" in page.texts
    assert "drawn" in {item["id"]: item["marks"] for item in page.items}["r3"]


def test_categories_have_a_table_of_verdicts(ours, theirs):
    run_of_ours, run_of_theirs = open_evaluation(ours[0]), open_evaluation(theirs[0])
    table = tables.categories(run_of_ours)
    assert [column.name for column in table.columns] == [
        "photos", "accuracy", "accuracy on real", "accuracy on fake", "F1 of fake", "F1 of real",
        "macro F1", "AUC"]
    rows = {name.name: [cell.text for cell in cells] for name, cells in table.rows}
    assert rows["human"] == ["4", "1.000", "1.000", "1.000", "1.000", "1.000", "1.000", "1.000"]
    assert rows["deepfake"][1:4] == ["0.500", "1.000", "0.000"]
    assert tables.published_accuracy(run_of_ours) is None
    table = tables.published_accuracy(run_of_theirs)
    rows = {name.name: [cell.text for cell in cells] for name, cells in table.rows}
    assert rows["not told"] == ["1", "0.0", "0.0", "0.0"]
    assert rows["all"] == ["6", "–", "–", str(
        theirs[1]["published_accuracy"]["global_stats"]["global_accuracy"])]


def test_an_empty_class_is_absent_from_our_tables():
    detected = {"accuracy": 0.5, "accuracy_real": 0.5, "accuracy_fake": None}
    made = Evaluation(epath.Path("runs/x"), {"categories": {
        "scene": {"num_photos": 2, "detection": detected},
        "human": {"num_photos": 1, "detection": {"accuracy": 1.0, "accuracy_fake": 1.0}}}})
    rows = {name.name: [cell.text for cell in cells]
            for name, cells in tables.categories(made).rows}
    assert rows == {"scene": ["2", "0.500", "0.500", "–"], "human": ["1", "1.000", "–", "1.000"]}


def test_words_compare_with_a_head_but_not_with_lots(ours, theirs, tmp_path):
    evaluated(tmp_path, Head())
    a, b, head = (open_evaluation(folder) for folder in (ours[0], theirs[0], tmp_path))
    result = comparison.compare(head, a, resamples=20).result()
    assert result["differences"]["detection.accuracy"]["b"] == pytest.approx(4 / 6)
    with pytest.raises(UserError, match="not comparable: settings.verdict_rule is None in .*, "
                                        "'fakevlm' in"):
        comparison.compare(a, b)


def test_a_head_is_not_read_by_the_published_rule(tmp_path):
    with pytest.raises(UserError, match="photo r0: its verdict cannot be read by the rule fakevl"):
        evaluated(tmp_path, Head(), compatible("fakevlm"))


def test_the_published_rule_is_told_the_question(tmp_path):
    """Without a question mark in it "real" of the question stands in the text that is judged."""
    facts = FACTS | {"question": {"instruction": "Tell real from fake: "}}
    rows = run.Task(source(), facts, Speaker).rows(epath.Path(tmp_path), compatible("fakevlm"))
    assert [row["verdict"] for row in rows[2:5]] == ["real", "real", "fake"]


def test_a_folder_is_not_mixed_of_two_rules(ours):
    task = run.Task(source(), FACTS, Speaker)
    with pytest.raises(UserError, match="rows here were made with verdict_rule None"):
        task.rows(epath.Path(ours[0]), compatible("fakevlm"))


def test_evaluations_without_a_rule_in_their_settings_go_on(ours, tmp_path):
    """Those begun before there was one, of systems with a head, have none to tell."""
    folder = shutil.copytree(ours[0], tmp_path / "out")
    path = folder / "settings.json"
    noted = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in noted.items()
                                if name != "verdict_rule"}))
    assert len(run.Task(source(), FACTS, Speaker).rows(epath.Path(folder), DEFAULT)) == 7


def test_in_memory_evaluation_judges_by_words():
    result, rows = run.evaluate(Speaker(), source().parts[0][1])
    assert result["detection"]["accuracy"] == pytest.approx(4 / 6)
    assert summary.summary(rows) == result


@pytest.mark.slow
def test_a_whole_system_that_judges_by_words(tmp_path):
    texts = ["This is a real image.", "This is a fake image. The hand has six fingers."]
    tokenizer = train_tokenizer(texts, 300, tmp_path / "tokenizer")
    predictor = Predictor.untrained(
        relatives.fakevlm(tiny(vocab=tokenizer.vocab_size)), tokenizer, batch_size=2,
        question=Question("Real or fake?", max_new_tokens=8))
    for rule, by in (("", WORDS), ("fakevlm", FAKEVLM)):
        result, rows = evaluated(tmp_path / by, predictor, compatible(rule))
        assert {row["verdict_by"] for row in rows} == {by} == {result["detection"]["verdict_by"]}
        for row in rows:
            assert row["words"] == verdict_of_words(parse_answer(row["answer"]).explanation)
            assert by == FAKEVLM or row["verdict"] == row["words"]
            assert row["probability"] == pytest.approx(
                probability_of(row["verdict"], row["fake_probability"]))
            assert 0 < row["fake_probability"] < 1 and row["num_masks"] == 0
