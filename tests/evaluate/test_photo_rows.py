"""Rows of an evaluation, the chunks they are gathered in, and the settings they are made with."""

import dataclasses
import json
import threading

import numpy as np
import pytest
from made_rows import prediction, random_rows, record

from input_pipeline.errors import UserError
from input_pipeline.photos import perturbations, regions
from input_pipeline.records.record import DataError, RecordError
from legion_jax.evaluate import chunks, photo_rows as rows_lib, settings as settings_lib, summary
from legion_jax.evaluate.settings import DEFAULT, Settings

SQUARE, OTHER = [2, 2, 12, 2, 12, 12, 2, 12], [5, 5, 18, 5, 18, 15, 5, 15]
PHOTO = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)


class Finder:
    """Finds a fixed mask in every photo; answers come in groups of three, the last one first."""

    def __init__(self, mask):
        self.mask, self.photos = mask, []

    def stream(self, items, *, explain):
        assert explain == "always"
        group = []
        for key, photo in items:
            self.photos.append(photo)
            group.append((key, prediction(photo.shape[:2], [self.mask], fake=0.9, text="a hand")))
            if len(group) == 3:
                yield from group[::-1]
                group = []
        yield from group[::-1]


def evaluated(records, *, mask=None, settings=DEFAULT):
    finder = Finder(np.zeros((16, 20), bool) if mask is None else mask)
    source = rows_lib.Source([("test", records)])
    found = list(rows_lib.predicted(finder, source, range(len(records)), settings=settings))
    assert sorted(number for number, _ in found) == list(range(len(records)))
    return [row for _, row in sorted(found, key=lambda item: item[0])], finder


def test_a_row_says_what_is_true_and_what_was_found():
    mask = np.zeros((16, 20), bool)
    mask[2:12, 2:12] = True
    (row,), _ = evaluated([record("a", PHOTO, polygons=[SQUARE, OTHER], caption="A hand!",
                                  category="human", generator="ldm_200")], mask=mask)
    truth = record("a", PHOTO, polygons=[SQUARE, OTHER]).marked((16, 20))
    np.testing.assert_array_equal(regions.rle_to_mask(row["truth_rle"]), truth)
    assert row["counts"] == [100, 0, int(truth.sum()) - 100, 320 - int(truth.sum())]
    assert row["mask_area"] == 100 / 320 and row["rouge_l"] == 1 and row["css"] is None
    assert row["ious"] == [[1.0, pytest.approx(49 / (100 + 130 - 49))]]
    assert [t["phrase"] for t in row["truth"]] == ["region 0", "region 1"]
    assert (row["id"], row["split"], row["category"], row["generator"], row["size"]) == (
        "a", "test", "human", "ldm_200", [16, 20])
    assert row["failed"] is None and row["num_regions"] == 2 and row["num_masks"] == 1
    assert json.loads(chunks.line(row)) == row


def test_the_rasteriser_is_a_switch():
    for rasteriser, pixels in (("coco", 100), ("fillpoly", 121)):
        (row,), _ = evaluated([record("a", PHOTO, polygons=[SQUARE])],
                              settings=Settings(rasteriser=rasteriser))
        assert row["counts"][2] == pixels
        assert int(regions.rle_to_mask(row["truth"][0]["rle"]).sum()) == pixels


def test_every_record_has_a_row_whatever_is_wrong_with_it():
    class Records(list):
        def __getitem__(self, index):
            if index == 2:
                raise RecordError("unreadable record", "2: Corrupted")
            return super().__getitem__(index)

    records = Records([record("good", PHOTO, polygons=[SQUARE], caption="hand"),
                       record("broken", None, polygons=[SQUARE], caption="hand"), None,
                       record("clean", None, label=0),
                       record("unmarked", PHOTO, label=0, has_masks=False), record("last", PHOTO)])
    rows, finder = evaluated(records)
    assert len(finder.photos) == 3
    assert [bool(row["failed"]) for row in rows] == [False, True, True, True, False, False]
    assert "broken: not an image" in rows[1]["failed"] and "Corrupted" in rows[2]["failed"]
    assert rows[1]["counts"] == [0, 0, 100, 220] and rows[1]["f1"] == rows[1]["rouge_l"] == 0
    assert rows[3]["f1"] == rows[3]["miou"] == 0  # an unreadable photo earns nothing
    assert rows[2]["id"] == "test[2]" and rows[2]["counts"] is None
    assert rows[4]["counts"] is rows[4]["f1"] is rows[4]["rouge_l"] is None
    result = summary.summary(rows)
    assert result["num_photos"] == 6 and result["num_failed"] == 3
    assert [f["id"] for f in result["failures"]] == ["broken", "test[2]", "clean"]
    assert result["localisation"]["num_images"] == 4 and result["text"]["num"] == 2
    assert result["detection"]["num"] == 5 and result["detection"]["num_unanswered"] == 2
    assert result["num_no_mask"] == 1  # broken; the finder draws an empty mask in the others


def test_only_what_is_marked_together():
    whole, other = (dataclasses.replace(
        record("a", PHOTO), union_mask=regions.mask_to_png(np.eye(*size) > 0))
        for size in ((16, 20), (8, 8)))
    (row,), _ = evaluated([whole])
    assert row["truth"] == [] and row["counts"][2] == 16
    with pytest.raises(DataError, match=r"record a: a mask of \(8, 8\) for a photo of \(16, 20\)"):
        evaluated([other])
    with pytest.raises(DataError, match="record b: polygon lies wholly outside the 20x16"):
        evaluated([record("b", PHOTO, polygons=[[30, 30, 40, 30, 40, 40]])])


def test_damage_is_done_to_the_photo_alone():
    settings = Settings(perturbation="jpeg", level=35)
    (row,), finder = evaluated([record("a", PHOTO, polygons=[SQUARE])], settings=settings)
    np.testing.assert_array_equal(finder.photos[0],
                                  perturbations.perturb(PHOTO, "jpeg", 35, record_id="a"))
    assert row["counts"][2] == 100


def test_records_of_several_splits():
    source = rows_lib.Source([("a", ["a0", "a1"]), ("b", ["b0"]), ("c", ["c0", "c1"])])
    assert len(source) == 5
    seen = [source.at(number) for number in range(5)]
    assert [(name, records[place]) for name, place, records in seen] == [
        ("a", "a0"), ("a", "a1"), ("b", "b0"), ("c", "c0"), ("c", "c1")]


def test_chunks_come_back_in_order_and_once(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "SIZE", 4)
    monkeypatch.setattr(chunks, "POLL_SECONDS", 0.01)
    rows = [row | {"explanation": "a\u2028b\x85c\nd"} for row in random_rows(0, 11)]
    stores = [chunks.Chunks(tmp_path, 11, host=host, hosts=2) for host in range(2)]
    for store in stores:
        store.begin({"step": 3})
    shares = [store.missing() for store in stores]
    assert shares == [[0, 1, 2, 3, 8, 9, 10], [4, 5, 6, 7]]
    for number in shares[0][::-1]:
        stores[0].add(number, rows[number])
    waiting = threading.Thread(target=stores[0].wait)
    waiting.start()
    for number in (5, 4, 7):
        stores[1].add(number, rows[number])
    waiting.join(0.1)
    assert waiting.is_alive()  # the other host lacks a row
    # It stops there, and three hosts go on; what was finished is not done again.
    again = [chunks.Chunks(tmp_path, 11, host=host, hosts=3) for host in range(3)]
    for store in again:
        store.begin({"step": 3})
    assert [store.missing() for store in again] == [[], [4, 5, 6, 7], []]
    for number in range(4, 8):
        again[1].add(number, rows[number])
    waiting.join(10)
    assert not waiting.is_alive() and list(again[2].rows()) == rows


def test_rows_of_other_settings_are_not_mixed(tmp_path):
    store = chunks.Chunks(tmp_path, 3)
    store.begin({"split": "test", "level": 0.0})
    chunks.Chunks(tmp_path, 3).begin({"split": "test", "level": 0})
    with pytest.raises(UserError, match=r"made with split 'test' \(now 'train'\)"):
        store.begin({"split": "train", "level": 0})
    (tmp_path / "settings.json").unlink()
    (tmp_path / "rows.jsonl").write_text("{\n")
    with pytest.raises(UserError, match="no settings.json to tell"):
        store.begin({"split": "test", "level": 0})
    with pytest.raises(UserError, match="rows.jsonl: line 1 is not valid JSON"):
        list(chunks.read(tmp_path))


def test_the_published_conventions():
    ours, theirs = settings_lib.compatible(""), settings_lib.compatible("legion")
    assert ours == DEFAULT and (theirs.rasteriser, theirs.pixel_rule) == ("fillpoly", "legion")
    told = settings_lib.explain("legion")
    for part in ("rasteriser fillpoly", "pixel_rule legion", "noise 25.5", "blur 5", "jpeg 50"):
        assert part in told
    with pytest.raises(UserError, match="--compat: one of legion, not 'lisa'"):
        settings_lib.compatible("lisa")
    with pytest.raises(UserError, match="rasteriser: one of coco, fillpoly, not 'opencv'"):
        Settings(rasteriser="opencv")
    sentences = settings_lib.conventions(theirs, css_model="mini", resamples=9)
    assert "border included" in sentences["localisation"] and "mini" in sentences["text"]
    assert "1e-6" in sentences["localisation"] and "9 bootstrap" in sentences["intervals"]


def test_which_damage_is_done():
    parse = settings_lib.parse_robustness
    assert parse("") == []
    assert parse("jpeg,blur=5") == [("jpeg", 90), ("jpeg", 70), ("jpeg", 50), ("jpeg", 35),
                                    ("blur", 5)]
    everything = parse("all")
    assert len(everything) == sum(map(len, perturbations.GRID.values()))
    assert parse("all", compat="legion") == [("noise", 25.5), ("blur", 5), ("jpeg", 50)]
    assert parse("jpeg=50,jpeg=50") == [("jpeg", 50)]
    for text, message in (("fog", "no perturbation 'fog'; known: all, noise"),
                          ("jpeg=high", "'high' is no level of jpeg"),
                          ("blur,jpeg=0", "jpeg: a whole quality 1 to 95, got 0")):
        with pytest.raises(UserError, match=message):
            parse(text)
    with pytest.raises(UserError, match="web has no published level; known with --compat: noise"):
        parse("web", compat="legion")


def test_results_fit_json():
    rows = random_rows(4, 30)
    result = summary.summary(rows)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result["categories"]) == {"human", "scene"}
    assert summary.summary([])["localisation"]["num_images"] == 0


def test_an_encoder_adds_css():
    rows = random_rows(4, 30)
    summary.add_css(rows, lambda group: np.array([[len(text), 1.0] for text in group]))
    assert all((row["css"] is None) == (row["rouge_l"] is None) for row in rows)
    scored = [row["css"] for row in rows if row["css"] is not None]
    assert summary.summary(rows)["text"]["css"] == pytest.approx(np.mean(scored)) and scored
