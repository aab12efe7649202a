"""The whole evaluation: its command, what a stop costs, damaged photos, and several hosts."""

import dataclasses
import json
import types

import numpy as np
import pytest
import relatives
import several_hosts
import small_checkpoint
import small_data
from commands import run_tool
from etils import epath
from made_rows import prediction, record

from input_pipeline.errors import UserError
from input_pipeline.photos import regions
from input_pipeline.records import prepared
from input_pipeline.records.verdict_classes import ClassError
from legion_jax.config import VerdictConfig
from legion_jax.evaluate import (
    __main__ as evaluate_command,
    chunks,
    run as run,
    summary,
    terminal,
)
from legion_jax.evaluate.photo_rows import Source
from legion_jax.evaluate.settings import DEFAULT, compatible
from legion_jax.predict.predictor import Predictor
from legion_jax.weights import checkpoint, legion_json
from legion_jax.weights.checkpoint import Checkpoint

data = small_data.data
folder, tokenizer, photos = (
    small_checkpoint.folder, small_checkpoint.tokenizer, small_checkpoint.photos)
FACTS = {"data": "made/up", "split": "test", "step": 3}


class Finder:
    """Finds what is darker than half in every photo; stops for good at photo `stop`."""

    def __init__(self, stop=None):
        self.stop, self.seen = stop, 0

    def stream(self, items, *, explain):
        assert explain == "always"
        for key, photo in items:
            if self.seen == self.stop:
                raise KeyboardInterrupt
            self.seen += 1
            dark = photo.mean(-1) < 127
            yield key, prediction(photo.shape[:2], [dark] if dark.any() else [],
                                  fake=0.9 if dark.any() else 0.1,
                                  text="grain here" if dark.any() else "nothing")


def made_up(number: int) -> Source:
    """Photos of 16 x 20 pixels; every second one has a dark square, its artifact."""
    records = []
    for n in range(number):
        photo = np.full((16, 20, 3), 200, np.uint8)
        if n % 2:
            photo[2:12, 2:12] = 20
        records.append(record(
            f"r{n}", photo, label=2 * (n % 2), caption="grain here" if n % 2 else "nothing",
            polygons=[[2, 2, 12, 2, 12, 12, 2, 12]] if n % 2 else []))
    return Source([("test", records)])


def evaluate_into(source, output, finder, *, facts=None, settings=DEFAULT, damage=()):
    task = run.Task(source, facts or FACTS, lambda: finder)
    return run.run(task, epath.Path(output), run.Scoring(settings, resamples=20),
                   folder="weights", damage=damage)


def lines(output):
    return [json.loads(text) for text in (output / "rows.jsonl").read_text().split("\n")[:-1]]


def test_every_record_counts_once_at_its_own_size():
    source = made_up(5)
    result, rows = run.evaluate(Finder(), source.parts[0][1])
    assert [r["id"] for r in rows] == [f"r{i}" for i in range(5)]
    assert all(sum(r["counts"]) == 320 for r in rows)
    assert result["localisation"]["mean"]["f1"] == result["matching"]["coco"]["map"] == 1
    assert result["detection"]["accuracy"] == result["detection"]["auc"] == 1
    assert result["text"]["rouge_l"] == pytest.approx(1) and result["num_photos"] == 5


def test_both_files_say_the_same(tmp_path, capsys):
    result = evaluate_into(made_up(7), tmp_path / "out", Finder())
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == result
    rows = lines(tmp_path / "out")
    assert summary.summary(rows)["localisation"] == result["localisation"]
    assert (result["checkpoint"], result["data"], result["split"]) == ("weights", "made/up", "test")
    assert set(result["conventions"]) >= {"localisation", "matching", "text", "detection", "groups",
                                          "words", "intervals", "robustness", "categories"}
    assert result["intervals"]["localisation.mean.f1"] == [1, 1]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "metrics.json", "report.html", "rows.jsonl", "settings.json"]
    terminal.show(result)
    assert "1.00-1.00" in capsys.readouterr().out


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "SIZE", 3)


def test_a_stopped_evaluation_goes_on(tmp_path, small_chunks):
    whole = evaluate_into(made_up(10), tmp_path / "whole", Finder())
    with pytest.raises(KeyboardInterrupt):
        evaluate_into(made_up(10), tmp_path / "out", Finder(stop=7))
    assert not (tmp_path / "out/rows.jsonl").exists()
    second = Finder()
    assert evaluate_into(made_up(10), tmp_path / "out", second) == whole
    assert second.seen == 4  # two chunks of three were done
    assert lines(tmp_path / "out") == lines(tmp_path / "whole")
    third = Finder()
    assert evaluate_into(made_up(10), tmp_path / "out", third) == whole and third.seen == 0


@pytest.mark.parametrize("facts, settings, message", [
    (FACTS | {"step": 4}, DEFAULT, r"made with step 3 \(now 4\)"),
    (FACTS, compatible("legion"),
     r"made with pixel_rule 'exact' \(now 'legion'\), rasteriser 'coco' \(now 'fillpoly'\)")])
def test_other_settings_are_refused(tmp_path, small_chunks, facts, settings, message):
    with pytest.raises(KeyboardInterrupt):
        evaluate_into(made_up(10), tmp_path, Finder(stop=7))
    with pytest.raises(UserError, match=message):
        evaluate_into(made_up(10), tmp_path, Finder(), facts=facts, settings=settings)


def test_damaged_photos_are_evaluated_level_by_level(tmp_path, small_chunks):
    damage = [("noise", 0.02), ("noise", 1.0)]
    with pytest.raises(KeyboardInterrupt):
        evaluate_into(made_up(4), tmp_path, Finder(stop=10), damage=damage)
    finder = Finder()
    result = evaluate_into(made_up(4), tmp_path, finder, damage=damage)
    assert finder.seen == 4  # the whole photos, one level, and one of two chunks were done...
    mild, strong = result["robustness"]
    assert (mild["name"], mild["level"], strong["level"]) == ("noise", 0.02, 1.0)
    assert mild["localisation"]["mean"]["f1"] == 1 > strong["localisation"]["mean"]["f1"]
    assert {"localisation", "detection", "text"} <= set(mild)
    strongest = tmp_path / "robustness" / "noise_1"
    assert len(lines(strongest)) == 4
    own = json.loads((strongest / "metrics.json").read_text())
    assert own["settings"]["perturbation"] == "noise" and own["settings"]["level"] == 1
    assert evaluate_into(made_up(4), tmp_path, Finder(stop=0), damage=damage) == result
    terminal.show(result)


def test_the_published_rule_changes_the_truth(tmp_path):
    settings = compatible("legion")
    result = evaluate_into(made_up(4), tmp_path, Finder(), settings=settings)
    mean = result["localisation"]["mean"]
    assert mean["f1"] == pytest.approx((1 + 1 + 2 * (2 * 100 / 221)) / 4)
    assert mean["miou"] == pytest.approx(
        (0.5 + 0.5 + 2 * (100 / 121 + 199 / 220) / 2) / 4, abs=1e-6)


def test_the_command(folder, data, tmp_path):
    arguments = ("legion_jax.evaluate", "--checkpoint", folder, "--data_dir", data / "data",
                 "--output", tmp_path / "out", "--resamples=50", "--batch_size=4")
    done = run_tool(*arguments, "--split=train[:6]+test", "--compat=legion",
                    "--robustness=jpeg")
    assert done.returncode == 0, done.stderr
    assert "--compat=legion sets rasteriser fillpoly, pixel_rule legion" in done.stdout
    result = json.loads((tmp_path / "out/metrics.json").read_text())
    rows = lines(tmp_path / "out")
    splits = [prepared.open_split(data / "data", name) for name in ("train[:6]", "test")]
    assert [r["id"] for r in rows] == [split[i].id for split in splits
                                       for i in range(len(split))]
    assert [r["split"] for r in rows] == ["train"] * 6 + ["test"] * 5
    assert set(result["detection"]["by_split"]) == {"train", "test"}
    assert [(p["name"], p["level"]) for p in result["robustness"]] == [("jpeg", 50)]
    assert result["settings"]["data"] == "synthscars/photos" and result["num_failed"] == 0
    for row in rows:
        union = np.zeros(row["size"], bool)
        for region in row["regions"]:
            assert row["explanation"][slice(*region["span"])] == region["phrase"]
            if region["rle"]:
                union |= regions.rle_to_mask(region["rle"]).astype(bool)
        assert union.mean() == row["mask_area"]
        assert row["counts"][0] + row["counts"][1] == union.sum()
    again = run_tool(*arguments, "--split=test")
    assert again.returncode == 1 and "split 'train[:6]+test' (now 'test')" in again.stderr
    assert "Traceback" not in again.stderr


def test_the_command_reads_the_checkpoints_legion_json_once(folder, data, tmp_path, monkeypatch):
    parsed, loaded = [], []
    parse_meta = checkpoint.parse_meta

    def counted(path, content):
        parsed.append(str(path))
        return parse_meta(path, content)

    monkeypatch.setattr(checkpoint, "parse_meta", counted)
    monkeypatch.setattr(evaluate_command, "run",
                        lambda task, *_, **__: loaded.extend([task.predictor, task.predictor]))
    evaluate_command.evaluate(types.SimpleNamespace(
        checkpoint=str(folder), step="newest", data_dir=str(data / "data"), split="test",
        output=str(tmp_path),
        compat="", robustness="", css_model="", batch_size=2, dialogue="", int8=False, resamples=0,
        bootstrap_seed=0))
    assert parsed == [str(folder / "legion.json")]
    assert loaded[0] is loaded[1] and loaded[0].batch_size == 2


def test_a_typing_error_costs_no_minutes(folder, data, tmp_path):
    for flag, message in (("--css_model=mini", "pip install -e '.[css]'"),
                          ("--split=holdout", "no split 'holdout'"),
                          ("--split=test+test", "split 'test+test' holds test more than once")):
        done = run_tool("legion_jax.evaluate", "--checkpoint", folder, "--data_dir", data / "data",
                        "--output", tmp_path / "out", flag)
        assert done.returncode == 1 and message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_head_without_a_class_of_real_photos_is_refused_at_once(config, data, tmp_path):
    legion_json.write_meta(tmp_path, dataclasses.replace(
        config, verdict=VerdictConfig(classes=("synthetic", "tampered"))), base=None)
    with pytest.raises(ClassError, match=f"{tmp_path}, for photos labelled real, tampered in "
                                         f"synthscars/photos, split all: no class .* means real: "
                                         f"synthetic, tampered; to choose"):
        evaluate_command.evaluate(types.SimpleNamespace(
            checkpoint=str(tmp_path), step="newest", data_dir=str(data / "data"), split="all",
            compat="",
            output=str(tmp_path / "out"), robustness="", css_model="",
            dialogue="", int8=False))
    assert not (tmp_path / "out").exists()


def test_words_are_not_read_where_a_head_judges(config, data, tmp_path):
    asked = types.SimpleNamespace(
        checkpoint=str(tmp_path), step="newest", data_dir=str(data / "data"), split="all",
        compat="fakevlm", output=str(tmp_path / "out"), robustness="", css_model="", dialogue="",
        int8=False)
    for verdict, why in ((config.verdict, r"judges photos by a head .*source is 'vision'\)"),
                         (None, "does not judge photos")):
        legion_json.write_meta(tmp_path, dataclasses.replace(config, verdict=verdict), base=None)
        with pytest.raises(UserError, match=f"--compat=fakevlm: .*but {tmp_path} {why}"):
            evaluate_command.evaluate(asked)
    assert not (tmp_path / "out").exists()
    legion_json.write_meta(tmp_path, relatives.fakevlm(config), base=None)
    run.check_rule(Checkpoint.open(str(tmp_path)), compatible("fakevlm"))


def on_this_host(folder: str, data_dir: str, output: str) -> int:
    """Evaluate a split into `output` as the command does; how many photos this host predicted."""
    chunks.SIZE, chunks.POLL_SECONDS = 2, 0.05
    data, seen = run.open_data(data_dir, "test"), []
    opened = Checkpoint.open(folder)

    class Counted:
        def __init__(self):
            self.predictor = Predictor.from_checkpoint(opened, batch_size=2)

        def stream(self, items, *, explain):
            for key, answer in self.predictor.stream(items, explain=explain):
                seen.append(key)
                yield key, answer

    task = run.Task(data.source, run.facts_of(opened, data), Counted)
    run.run(task, epath.Path(output), run.Scoring(DEFAULT, resamples=20), folder=folder,
            damage=[("jpeg", 50.0)])
    return len(seen)


@pytest.mark.slow
def test_two_hosts_share_the_photos_and_agree_with_one(folder, data, tmp_path, monkeypatch):
    for name in ("SIZE", "POLL_SECONDS"):
        monkeypatch.setattr(chunks, name, getattr(chunks, name))
    seen = several_hosts.run(on_this_host, str(folder), str(data / "data"),
                             str(tmp_path / "two"), hosts=2)
    assert seen == [6, 4]  # chunks of 2, 2 and 1, twice
    assert on_this_host(str(folder), str(data / "data"), str(tmp_path / "one")) == 10
    for output in ("", "robustness/jpeg_50"):
        ours, theirs = (lines(tmp_path / name / output) for name in ("two", "one"))
        for one, other in zip(ours, theirs, strict=True):
            for name in ("probability", "fake_probability"):
                assert one.pop(name) == pytest.approx(other.pop(name), abs=1e-5)
            for a, b in zip(one.pop("regions"), other.pop("regions"), strict=True):
                assert a.pop("score") == pytest.approx(b.pop("score"), abs=1e-4)
                assert a == b
            assert one == other
    two, one = (json.loads((tmp_path / name / "metrics.json").read_text())
                for name in ("two", "one"))
    assert two["localisation"] == one["localisation"] and two["text"] == one["text"]
