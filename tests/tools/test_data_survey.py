"""Statistics against plain numpy, charts that lose nothing, cards of broken records."""

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
from input_pipeline.records import builder, manifest
from input_pipeline.records.prepared import open_split
from input_pipeline.records.record import RecordError
from input_pipeline.text.tokenizer import train_tokenizer
from legion_jax.display import overlay
from tools.inspect_data import bar_charts, contact_sheet, pages, survey, thumbnails

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
    found = survey.survey(counting, title="", tokenizer=tokenizer)
    assert counting.reads == dict.fromkeys(range(40), 1) and found.problems == {}
    by_id = {int(r.id.removeprefix("train_")) - 1: i for i, r in enumerate(source)}
    rows = found.rows[[by_id[k] for k in range(40)]]
    for name in ("label", "width", "height"):
        assert rows[name].tolist() == [line[name] for line, _ in truth]
    np.testing.assert_allclose(rows["area"], [share for _, share in truth])
    assert rows["regions"].tolist() == [len(line.get("regions", ())) for line, _ in truth]
    captions = [line["caption"] for line, _ in truth]
    assert rows["characters"].tolist() == list(map(len, captions))
    assert rows["tokens"].tolist() == [len(tokenizer.encode(c, bos=False)) for c in captions]

    area, regions, characters, tokens, sizes = pages.charts(found, True)
    marked = np.array([share for _, share in truth if share > 0])
    assert [bar.count for bar in area.bars] == np.histogram(marked, bar_charts.SHARES)[0].tolist()
    clean, unknown = sum(s == 0 for _, s in truth), sum(np.isnan(s) for _, s in truth)
    assert area.note == f"{clean} nothing marked, {unknown} not looked for"
    assert [bar.count for bar in regions.bars] == np.bincount(rows["regions"]).tolist()
    for chart, name in ((characters, "characters"), (tokens, "tokens")):
        values = rows[name][rows["characters"] > 0]
        edges = [bar.low for bar in chart.bars] + [chart.bars[-1].high]
        assert [bar.count for bar in chart.bars] == np.histogram(values, edges)[0].tolist()
    pairs = collections.Counter((line["width"], line["height"]) for line, _ in truth)
    assert {d.label: d.count for d in sizes.dots} == {
        f"{w} × {h}": n for (w, h), n in pairs.items()}


def test_a_sample_is_read_once_and_only_it(source):
    counting = Counting(source)
    found = survey.survey(counting, title="", limit=7, seed=3)
    assert sorted(counting.reads) == found.rows["index"].tolist()
    assert set(counting.reads.values()) == {1} and len(counting.reads) == found.looked_at == 7
    assert set(survey.choose(found, number=99)) == set(counting.reads)
    other = survey.survey(source, title="", limit=7, seed=4)
    assert other.rows["index"].tolist() != found.rows["index"].tolist()
    assert len(survey.survey(source, title="", limit=41).rows) == 40


def test_choices_are_in_order(source):
    found = survey.survey(source, title="")
    rows = found.rows
    for pick, name, sign in (("largest_mask", "area", -1), ("smallest_mask", "area", 1),
                             ("longest_text", "characters", -1), ("most_regions", "regions", -1)):
        chosen = survey.choose(found, number=9, pick=pick)
        fits = rows[name][rows[name] > 0] if name == "area" else rows[name]
        assert rows[name][chosen].tolist() == (sign * np.sort(sign * fits)[:9]).tolist()
    chosen = survey.choose(found, number=99, label=2, seed=1)
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
        chart = bar_charts.numbers("a", "b", np.append(values, tail).astype(int))
        assert sum(bar.count for bar in chart.bars) == 1000 + len(tail)
        assert len(chart.bars) <= bar_charts.MAX_BARS and len(chart.x_ticks) <= 8
        assert [bar.rest for bar in chart.bars] == [False] * (len(chart.bars) - 1) + [bool(tail)]
        for bar in chart.bars:
            assert bar_charts.LEFT <= bar.x <= bar_charts.WIDTH - bar_charts.RIGHT - bar.width
            assert bar_charts.TOP <= bar.y <= bar_charts.HEIGHT - bar_charts.BOTTOM
            assert (bar.height > 0) == (bar.count > 0)


def test_many_sizes_are_put_together():
    width, height = np.random.default_rng(0).integers(1, 4000, (2, 5000))
    chart = bar_charts.sizes("a", width, height)
    assert sum(dot.count for dot in chart.dots) == 5000
    assert len(chart.dots) <= (bar_charts.GRID + 1) ** 2 and "grid" in chart.note
    one = bar_charts.sizes("a", np.full(3, 512), np.full(3, 512))
    assert [(d.label, d.count) for d in one.dots] == [("512 × 512", 3)]
    assert one.note == "all of one size"


def test_the_layer_gives_what_painting_gives():
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (60, 80, 3), np.uint8)
    masks = [np.zeros((60, 80), bool) for _ in range(3)]
    masks[0][5:30, 5:40], masks[1][20:50, 20:60], masks[2][55:, 70:] = True, True, True
    colours = [overlay.colour(k) for k in range(3)]
    layer = thumbnails.marks_layer(masks, colours, (60, 80))
    laid = Image.alpha_composite(Image.fromarray(photo).convert("RGBA"), layer).convert("RGB")
    painted = np.asarray(overlay.paint_masks(photo, masks, colours=colours), int)
    assert np.abs(np.asarray(laid, int) - painted).max() <= 3


def test_a_card_carries_photo_layer_and_colours(source):
    found = survey.survey(source, title="")
    card = contact_sheet.make_card(source, survey.choose(
        found, number=1, pick="most_regions")[0])
    layer = np.asarray(Image.open(io.BytesIO(base64.b64decode(card.layer.split(",")[1]))))
    seen = {tuple(pixel[:3]) for pixel in layer[layer[..., 3] == 255]}
    assert {mark.colour for mark in card.marks} & seen and card.pixelated
    assert [mark.colour for mark in card.marks] == [overlay.colour(k) for k in range(3)]
    assert "".join(piece for piece, _ in card.caption) == source[card.index].caption


class Unreadable(list):
    """A source that raises the errors among its records."""

    def __getitem__(self, index):
        record = super().__getitem__(index)
        if isinstance(record, Exception):
            raise record
        return record


def test_broken_records_are_cards_that_say_what_is_wrong(source):
    found = survey.survey(source, title="")
    good = source[survey.choose(found, number=1, pick="most_regions")[0]]
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
        (changed(heatmap=b"text"), "heat map: cannot identify image file"),
        (RecordError("unreadable record", "7: torn"),
         "unusable record: unreadable record: 7: torn"),
        (None, "unusable record: ")]
    broken = Unreadable(record for record, _ in bad)
    for k, (_, words) in enumerate(bad):
        card = contact_sheet.make_card(broken, k)
        assert any(problem.startswith(words) for problem in card.problems), card.problems
        assert bool(card.photo) == (k in (1, 2, 3, 4, 5, 6))
        assert " at 0x" not in str(card.problems)
    assert contact_sheet.make_card(broken, 99).problems
    found = survey.survey(broken, title="")
    assert sorted(found.problems) == [2, 4, 5, 7, 8]
    assert found.problems[7] == "unreadable record: 7: torn"
    assert sorted(survey.choose(found, number=99)) == [0, 1, 3, 6]


def test_long_texts_are_cut_and_wide_photos_keep_their_shape(source):
    long = dataclasses.replace(source[0], caption="word " * 2000,
                               image=picture(1, size=(900, 5)))
    card = contact_sheet.make_card([long], 0)
    text = "".join(piece for piece, _ in card.caption)
    assert text.endswith(f" … ({10_000 - contact_sheet.MAX_TEXT:,} more characters)")
    assert card.ratio == 640 / 4 and len(text) < contact_sheet.MAX_TEXT + 40
    grouped = dataclasses.replace(source[0], group_id="a" * 64)
    assert len(contact_sheet.make_card([grouped], 0).facts[-1][1]) == 17


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (1e-5, "< 0.01 %"), (2e-4, "0.02 %"), (0.0149, "1.5 %"),
                        (0.37, "37 %"), (0.996, "100 %"), (1, "100 %")])
def test_shares(share, text):
    assert bar_charts.percent(share) == text
