"""A user's own manifest.jsonl: every field, its mistakes by line and field, unusable files."""

import hashlib
import json
import re

import numpy as np
import pytest
from fake_folders import FORMS, picture, write_tree, zip_tree
from fake_sid_set import encode_mask, mask_array
from prepared_sources import by_id, prepare, printed_by_the_tool, write_times

from input_pipeline.datasets import open_dataset
from input_pipeline.datasets.jsonl import FIELDS, REGION_FIELDS
from input_pipeline.photos.regions import png_to_mask
from input_pipeline.records import manifest, record as record_module
from input_pipeline.records.dataset import Notes
from input_pipeline.records.record import DataError

SQUARE = [[2, 2, 12, 2, 12, 9, 2, 9]]
FILES = {
    "images/a.png": picture(1), "images/b.png": picture(2), "images/torn.png": picture(3)[:60],
    "masks/half.png": encode_mask(mask_array()), "masks/palette.png": encode_mask(
        mask_array(), mode="P"), "masks/small.png": encode_mask(mask_array(size=(12, 8))),
    "masks/blank.png": encode_mask(mask_array() * 0), "heat.png": picture(4, mode="L"),
    "heat_rgb.png": picture(5), "secret.txt": b"no image",
    **{f"forms/{name}": content for name, content in FORMS},
}
FULL = {
    "id": "first", "dataset": "mine", "split": "train", "image": "images/a.png",
    "file_name": "original name.png", "group_id": "photo 7", "label": "tampered",
    "category": "human", "generator": "brush", "question": "What is wrong?",
    "caption": "The left hand and the hand.", "height": 16, "width": 24, "has_masks": True,
    "regions": [
        {"phrase": "hand", "start": 22, "end": 26, "box": [1, 2, 3, 4], "mask": "masks/half.png"},
        {"phrase": "left hand", "start": 4, "end": 13, "explanation": "six fingers",
         "artifact_type": "structure", "polygons": SQUARE}],
    "union_mask": "masks/palette.png", "heatmap": "heat.png",
    "scores": {"overall": 0.5, "artifact": 1},
}
RECORDS = [
    FULL,
    {"image": "images/b.png"},
    {"image": "images/a.png", "label": "real", "regions": [], "split": "test"},
    {"image": "images/b.png", "label": 1, "split": "test", "union_mask": "masks/small.png"},
    {"image": "images/a.png", "label": 2, "caption": "A door, a cat.", "regions": [
        {"phrase": "cat", "box": [2, 3, 12, 9]}, {"phrase": "door", "mask": "masks/palette.png"},
        {"phrase": "dog", "polygons": SQUARE}]},
    *({"image": f"forms/{name}", "label": 0, "split": "forms"} for name, _ in FORMS),
]
REGION = {"phrase": "door"}
DEFECTS = [
    ({"image": "images/gone.png"}, "file missing"),
    ({"image": "../out.png"}, "name outside the source"),
    ({"image": "/etc/passwd"}, "name outside the source"),
    ({"image": "images/torn.png"}, "unreadable image"),
    ({"image": "secret.txt"}, "unreadable image"),
    ({"image": "images/a.png", "id": "first"}, "duplicate id"),
    ({"image": "images/a.png", "union_mask": "masks/none.png"}, "file missing"),
    ({"image": "images/a.png", "union_mask": "masks/blank.png"}, "unusable mask"),
    ({"image": "images/a.png", "heatmap": "heat_rgb.png"}, "unusable heatmap"),
    ({"image": "images/a.png", "heatmap": "masks/small.png"}, "unusable heatmap"),
    ({"image": "images/a.png", "regions": [REGION]}, "no usable region"),
    ({"image": "images/a.png", "caption": "A door.",
      "regions": [REGION | {"start": 0, "end": 4, "polygons": SQUARE}]}, "misplaced phrase"),
    ({"image": "images/a.png", "width": 3, "regions": [
        {"mask": "masks/small.png"}, {"mask": "../x.png"}, {"polygons": [[1, 1]]},
        {"polygons": SQUARE}]}, None),
]


def write_manifest(root, records, *, text=None):
    lines = "".join(json.dumps(record) + "\n" for record in records) if text is None else text
    return write_tree(root, FILES | {"manifest.jsonl": lines.encode()})


def splits_of(source):
    return open_dataset("jsonl", str(source)).splits()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("jsonl")
    write_manifest(root / "source", RECORDS + [record for record, _ in DEFECTS])
    return root, prepare("jsonl/records", root / "source", root / "data")


def test_every_field_comes_back(prepared):
    record = by_id(prepared[1], "train")["train_first"]
    for name in ("dataset", "file_name", "group_id", "category", "generator", "question",
                 "caption"):
        assert getattr(record, name) == FULL[name]
    assert record.image == FILES["images/a.png"] and record.heatmap == FILES["heat.png"]
    assert record.label == 2 and record.has_masks
    assert (record.height, record.width) == (16, 24)
    np.testing.assert_array_equal(png_to_mask(record.union_mask), mask_array())
    assert record.scores["overall"] == 0.5 and record.scores["artifact"] == 1
    assert np.isnan([record.scores["aesthetic"], record.scores["misalignment"]]).all()
    first, second = record.regions  # in the caption's order
    assert (first.phrase, first.start, first.end) == ("left hand", 4, 13)
    assert (second.phrase, second.start, second.end) == ("hand", 22, 26)
    assert (first.explanation, second.explanation) == ("six fingers", "")
    assert (first.artifact_type, second.artifact_type) == ("structure", "")
    assert np.isnan(first.box).all() and second.box == (1, 2, 3, 4)
    assert first.polygons == SQUARE and second.polygons == [] and first.mask == b""
    np.testing.assert_array_equal(png_to_mask(second.mask), mask_array())


def test_fields_left_out_have_defaults(prepared):
    record = by_id(prepared[1], "train")["train_2"]
    assert record.label == -1 and not record.has_masks and record.dataset == "jsonl"
    assert record.file_name == "images/b.png"
    assert record.group_id == hashlib.sha256(FILES["images/b.png"]).hexdigest()
    test = by_id(prepared[1], "test")
    clean, union = test["test_3"], test["test_4"]
    assert clean.label == 0 and clean.has_masks and clean.union_mask == b""
    assert union.label == 1 and union.has_masks
    np.testing.assert_array_equal(png_to_mask(union.union_mask), mask_array())


def test_phrases_are_found_and_boxes_are_filled(prepared):
    regions = by_id(prepared[1], "train")["train_5"].regions
    assert [(region.phrase, region.start) for region in regions] == [
        ("door", 2), ("cat", 10), ("dog", -1)]
    assert regions[1].polygons == [[2, 3, 12, 3, 12, 9, 2, 9]]


def test_every_form_of_image_is_read(prepared):
    records = by_id(prepared[1], "forms").values()
    assert {r.file_name: r.image for r in records} == {
        f"forms/{name}": content for name, content in FORMS}


def test_every_defect_is_counted(prepared):
    summary = manifest.read_summary(prepared[1].data_path)["splits"]
    reasons = [reason for _, reason in DEFECTS if reason]
    train = summary["train"]
    assert train["skipped"] == {reason: reasons.count(reason) for reason in set(reasons)}
    assert train["items"] == 3 + len(DEFECTS) and train["published"] is None
    assert train["records"] == 4
    assert train["dropped"] == {"unusable region": 4}
    assert train["repaired"] == {"phrase without a place in the caption": 1,
                                 "size contradicts the image": 1}
    assert summary["test"]["repaired"] == {"mask resized": 1}


def test_second_run_changes_nothing(prepared):
    root, built = prepared
    before = write_times(built.data_path)
    again = prepare("jsonl", root / "source", root / "data")
    assert write_times(again.data_path) == before


def test_an_archive_reads_like_the_folder(tmp_path):
    write_manifest(tmp_path / "source", RECORDS)
    lines = (tmp_path / "source" / "manifest.jsonl").read_bytes()
    packed = zip_tree(tmp_path / "a.zip", FILES | {"manifest.jsonl": lines})
    first, second = (open_dataset("jsonl", str(p)) for p in (tmp_path / "source", packed))
    assert first.splits() == second.splits()
    for items in first.splits().values():
        for item in items:
            assert str(first.read(item, Notes())) == str(second.read(item, Notes()))


@pytest.mark.parametrize(("change", "message"), [
    ({"lable": 1}, "unknown field 'lable'; known: .*label"),
    ({"label": "fake"}, "field 'label': expected one of -1.*tampered, found \"fake\""),
    ({"label": True}, "field 'label'"), ({"label": 3}, "field 'label'"),
    ({"caption": 5}, "field 'caption': expected text, found 5"),
    ({"caption": "half \ud800"}, "field 'caption': expected text"),
    ({"image": None}, "field 'image'"), ({"image": ""}, "field 'image' is missing"),
    ({"split": "a/b"}, "field 'split'"), ({"split": "all"}, "field 'split'"),
    ({"height": "16"}, "field 'height'"), ({"scores": {"beauty": 1}}, "field 'scores'"),
    ({"scores": {"overall": 5}}, "field 'scores'"), ({"regions": {}}, "field 'regions'"),
    ({"regions": ["x"]}, "region 0: expected an object, found str"),
    ({"regions": [{}, {"mask_path": "x"}]}, "region 1: unknown field 'mask_path'"),
    ({"regions": [{"polygons": [1, 2]}]}, "region 0: field 'polygons'"),
    ({"regions": [{"polygons": [["1"]]}]}, "region 0: field 'polygons'"),
    ({"regions": [{"box": [1, 2, 3]}]}, "region 0: field 'box'"),
    ({"regions": [{"box": [3, 2, 1, 4]}]}, "region 0: field 'box': expected .* with x1 <= x2"),
    ({"regions": [{"start": 3}]}, "region 0: field 'start' without 'end'"),
    ({"has_masks": False, "union_mask": "m.png"}, "field 'has_masks' is false beside masks")])
def test_a_mistake_is_named_by_line_and_field(tmp_path, change, message):
    write_manifest(tmp_path, [{"image": "images/a.png"}, {"image": "images/a.png"} | change])
    with pytest.raises(DataError, match=f"{re.escape(str(tmp_path))}/manifest.jsonl line 2: "
                                        f"{message}"):
        splits_of(tmp_path)


@pytest.mark.parametrize(("text", "message"), [
    ('\n{"image": "a.png"', "line 2: not valid JSON"), ("[]", "line 1: expected an object"),
    ("\n \n", "holds no records"), ('{"image": NaN}', "line 1: NaN is no number")])
def test_a_broken_manifest_is_one_clear_error(tmp_path, text, message):
    write_manifest(tmp_path, [], text=text)
    with pytest.raises(DataError, match=message):
        splits_of(tmp_path)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(DataError, match="found no manifest.jsonl"):
        splits_of(tmp_path)


def test_windows_spellings_of_the_manifest_are_read(tmp_path):
    write_manifest(tmp_path, [], text='\ufeff{"image": "images\\\\a.png"}\r\n\r\n')
    dataset = open_dataset("jsonl", str(tmp_path))
    ((item,),) = dataset.splits().values()
    assert dataset.read(item, Notes()).image == FILES["images/a.png"]


def test_the_fields_are_those_of_the_record():
    stored = set(record_module.features())
    assert set(FIELDS) == stored | {"split"}
    assert set(REGION_FIELDS) == set(record_module.Region.__dataclass_fields__)


def test_tool(tmp_path):
    write_manifest(tmp_path / "source", RECORDS)
    assert "records: tampered" in printed_by_the_tool(
        "jsonl", tmp_path / "source", tmp_path / "data")
