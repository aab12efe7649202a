"""Statistics against plain numpy, charts that lose nothing, items of broken records."""

import base64
import collections
import dataclasses
import io
import json

import numpy as np
import pytest
from fake_folders import picture, write_tree
from PIL import Image
from sheet_pages import make_source

from input_pipeline.datasets import open_dataset
from input_pipeline.photos.regions import rle_to_mask
from input_pipeline.records import builder, manifest
from input_pipeline.records.prepared import open_split
from input_pipeline.records.record import RecordError
from input_pipeline.text.tokenizer import train_tokenizer
from legion_jax.display import gallery
from tools.inspect_data import contact_sheet, survey, survey_charts

WORDS = "The left ear of the dog merges with the wall, which is a clear artifact. "


@pytest.fixture(scope="module")
def truth():
    """[(JSON line, share that is marked or NaN)] of photos with random boxes and captions."""
    rng, made = np.random.default_rng(0), []
    for k in range(40):
        width, height = int(rng.integers(20, 60)), int(rng.integers(20, 60))
        union, boxes = np.zeros((height, width), bool), []
        for _ in range(rng.integers(0, 4)):
            x, y = int(rng.integers(0, width - 9)), int(rng.integers(0, height - 9))
            w, h = rng.integers(1, 9, 2).tolist()
            union[y:y + h, x:x + w] = True
            boxes.append({"box": [x, y, x + w, y + h]})
        line = {"image": f"{k}.png", "label": int(rng.integers(0, 3)), "width": width,
                "height": height, "caption": (WORDS * 9)[:rng.integers(0, 300)]}
        looked_for = bool(boxes) or k % 2
        made.append((line | ({"regions": boxes} if looked_for else {}),
                     union.mean() if looked_for else np.nan))
    return made


@pytest.fixture(scope="module")
def source(truth, tmp_path_factory):
    root = tmp_path_factory.mktemp("random")
    lines = "".join(json.dumps(line) + "\n" for line, _ in truth)
    write_tree(root, {"manifest.jsonl": lines.encode()} | {
        line["image"]: picture(k, size=(line["width"], line["height"]))
        for k, (line, _) in enumerate(truth)})
    made = builder.prepare(open_dataset("jsonl", str(root)), root / "data")
    return open_split(made.data_path, "train")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer([WORDS], 300, tmp_path_factory.mktemp("tokenizer") / "tiny")


class Counting(collections.UserList):
    """A source that counts how often each record is read."""

    def __init__(self, records):
        super().__init__(records)
        self.reads = collections.Counter()

    def __getitem__(self, index):
        self.reads[index] += 1
        return self.data[index]


def test_statistics_equal_those_of_numpy(truth, source, tokenizer):
    counting = Counting(source)
    measured = survey.survey(counting, title="", tokenizer=tokenizer)
    assert counting.reads == dict.fromkeys(range(40), 1) and measured.problems == {}
    by_id = {int(r.id.removeprefix("train_")) - 1: i for i, r in enumerate(source)}
    rows = measured.rows[[by_id[k] for k in range(40)]]
    for name in ("label", "width", "height"):
        assert rows[name].tolist() == [line[name] for line, _ in truth]
    np.testing.assert_allclose(rows["area"], [share for _, share in truth])
    assert rows["regions"].tolist() == [len(line.get("regions", ())) for line, _ in truth]
    captions = [line["caption"] for line, _ in truth]
    assert rows["characters"].tolist() == list(map(len, captions))
    assert rows["tokens"].tolist() == [len(tokenizer.encode(c, bos=False)) for c in captions]

    area, regions, characters, tokens, sizes = survey_charts.charts_of(measured, tokens=True)
    marked = np.array([share for _, share in truth if share > 0])
    assert [bar.value for bar in area.bars] == np.histogram(
        marked, survey_charts.SHARES)[0].tolist()
    clean, unknown = sum(s == 0 for _, s in truth), sum(np.isnan(s) for _, s in truth)
    assert area.note == f"{clean} nothing marked, {unknown} not looked for"
    assert [bar.value for bar in regions.bars] == np.bincount(rows["regions"]).tolist()
    for chart, name in ((characters, "characters"), (tokens, "tokens")):
        values = rows[name][rows["characters"] > 0]
        edges = [bar.left for bar in chart.bars] + [chart.bars[-1].right]
        assert [bar.value for bar in chart.bars] == np.histogram(values, edges)[0].tolist()
    pairs = collections.Counter((line["width"], line["height"]) for line, _ in truth)
    assert {(dot.x, dot.y): dot.label for dot in sizes.dots} == {
        (w, h): f"{w} × {h}: {n}" for (w, h), n in pairs.items()}
    assert len(survey_charts.charts_of(measured, tokens=False)) == 4


def test_a_sample_is_read_once_and_only_it(source):
    counting = Counting(source)
    measured = survey.survey(counting, title="", limit=7, seed=3)
    assert sorted(counting.reads) == measured.rows["index"].tolist()
    assert set(counting.reads.values()) == {1} and len(counting.reads) == measured.looked_at == 7
    assert set(survey.choose(measured, number=99)) == set(counting.reads)
    other = survey.survey(source, title="", limit=7, seed=4)
    assert other.rows["index"].tolist() != measured.rows["index"].tolist()
    assert len(survey.survey(source, title="", limit=41).rows) == 40


def test_choices_are_in_order(source):
    measured = survey.survey(source, title="")
    rows = measured.rows
    for pick, name, sign in (("largest_mask", "area", -1), ("smallest_mask", "area", 1),
                             ("longest_text", "characters", -1), ("most_regions", "regions", -1)):
        chosen = survey.choose(measured, number=9, pick=pick)
        fits = rows[name][rows[name] > 0] if name == "area" else rows[name]
        assert rows[name][chosen].tolist() == (sign * np.sort(sign * fits)[:9]).tolist()
    chosen = survey.choose(measured, number=99, label=2, seed=1)
    assert sorted(chosen) == np.flatnonzero(rows["label"] == 2).tolist() != chosen


def test_groups_are_counted_across_splits(tmp_path):
    made = builder.prepare(make_source("fakeclue", tmp_path / "source"), tmp_path / "data")
    account = survey.account(made.data_path)
    groups = {split: {e["group_id"] for e in manifest.read_manifest(made.data_path)
                      if e["split"] == split and e["status"] == "kept"}
              for split in ("train", "test")}
    assert account.groups == {split: len(ids) for split, ids in groups.items()}
    both = len(groups["train"] & groups["test"])
    assert account.shared == {("train", "test"): both, ("test", "train"): both} and both
    assert account.leaked == {"train": both, "test": both}
    named = account.named["test", "skipped", "malformed record"]
    assert len(named) == account.counts("test")["skipped"]["malformed record"]


@pytest.mark.parametrize("top", [0, 1, 22, 23, 24, 231, 5000])
def test_charts_of_numbers_lose_nothing(top):
    rng = np.random.default_rng(top)
    values = rng.integers(0, top + 1, 1000)
    for tail in ([], [10 ** 6]):
        chart = survey_charts.counts("a", "b", np.append(values, tail).astype(int))
        assert sum(bar.value for bar in chart.bars) == 1000 + len(tail)
        assert len(chart.bars) <= survey_charts.MAX_BARS and len(chart.x.ticks) <= 8
        assert ["more" in bar.label for bar in chart.bars] == (
            [False] * (len(chart.bars) - 1) + [bool(tail)])
        assert chart.bars[0].left == chart.x.low and chart.bars[-1].right == chart.x.high
        assert chart.y.high >= max(bar.value for bar in chart.bars)


def test_many_sizes_are_put_together():
    width, height = np.random.default_rng(0).integers(1, 4000, (2, 5000))
    chart = survey_charts.sizes("a", width, height)
    assert sum(int(dot.label.split(": ")[1].replace(",", "")) for dot in chart.dots) == 5000
    assert len(chart.dots) <= (survey_charts.GRID + 1) ** 2 and "grid" in chart.note
    same = survey_charts.sizes("a", np.full(3, 512), np.full(3, 512))
    assert [dot.label for dot in same.dots] == ["512 × 512: 3"]
    assert same.note == "all of one size"


def test_an_item_carries_photo_masks_and_phrases(source):
    measured = survey.survey(source, title="")
    [index] = survey.choose(measured, number=1, pick="most_regions")
    record = source[index]
    item, code = contact_sheet.record_item(source, index, 5)
    assert item["n"] == 5 and item["problems"] == item["marks"] == [] and item["answers"] == []
    assert "".join(words for words, _ in item["reference"]) == record.caption
    assert item["size"] == [record.height, record.width]
    with Image.open(io.BytesIO(base64.b64decode(code))) as photo:
        assert [photo.height, photo.width] == item["size"]
    assert len(item["truth"]) == 3
    for shown, region in zip(item["truth"], record.regions, strict=True):
        np.testing.assert_array_equal(rle_to_mask(shown["rle"]).astype(bool),
                                      region.pixels(tuple(item["size"])) > 0)
    assert item["keys"]["area"] == pytest.approx(
        measured.rows["area"][measured.rows["index"] == index][0])
    assert dict(item["facts"])["record"] == str(index)


class Unreadable(list):
    """A source that raises the errors among its records."""

    def __getitem__(self, index):
        record = super().__getitem__(index)
        if isinstance(record, Exception):
            raise record
        return record


def test_broken_records_are_cards_that_say_what_is_wrong(source):
    measured = survey.survey(source, title="")
    good = source[survey.choose(measured, number=1, pick="most_regions")[0]]
    first, *others = good.regions

    def changed(**values):
        return dataclasses.replace(good, **values)

    def first_region(**values):
        return changed(regions=[dataclasses.replace(first, **values), *others])

    bad = [
        (changed(image=b"no image"), "image: not an image that PIL can read"),
        (changed(image=picture(1, size=(9, 9))), "the image is 9 × 9, stored as"),
        (first_region(polygons=[[99, 99, 95, 99, 95, 95]]),
         "region 1: polygon lies wholly outside"),
        (first_region(start=3, end=4), "region 1: its phrase is not at 3 of the caption"),
        (changed(union_mask=b"text"), "mask: mask is not an image"),
        (changed(union_mask=picture(1, size=(9, 9))), "mask: 9 × 9 pixels on a photo of"),
        (changed(heatmap=b"text"), "heat map: not an image that PIL can read"),
        (RecordError("unreadable record", "7: torn"),
         "unusable record: unreadable record: 7: torn"),
        (None, "unusable record: ")]
    broken = Unreadable(record for record, _ in bad)
    for k, (_, words) in enumerate(bad):
        item, code = contact_sheet.record_item(broken, k, k)
        problems = item["problems"]
        assert any(problem.startswith(words) for problem in problems), problems
        assert bool(code) == (k in (1, 2, 3, 4, 5, 6)) and item["marks"] == ["problem"]
        assert " at 0x" not in str(problems)
        json.dumps(item, allow_nan=False)
    assert contact_sheet.record_item(broken, 99, 0)[0]["problems"]
    told, _ = contact_sheet.record_item(source, 0, 0, "the tokenizer stumbled")
    assert told["problems"] == ["the tokenizer stumbled"]
    measured = survey.survey(broken, title="")
    assert sorted(measured.problems) == [2, 4, 5, 7, 8]
    assert measured.problems[7] == "unreadable record: 7: torn"
    assert sorted(survey.choose(measured, number=99)) == [0, 1, 3, 6]


def test_long_groups_are_cut_and_wide_photos_keep_their_shape(source):
    wide = dataclasses.replace(source[0], caption="word " * 2000, group_id="a" * 64,
                               image=picture(1, size=(900, 5)))
    item, code = contact_sheet.record_item([wide], 0, 0)
    assert "".join(words for words, _ in item["reference"]) == "word " * 2000
    with Image.open(io.BytesIO(base64.b64decode(code))) as photo:
        assert photo.size == (gallery.SIDE, 4)
    assert dict(item["facts"])["group"] == "a" * 16 + "…"
