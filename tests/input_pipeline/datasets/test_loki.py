"""LOKI: boxes, true or false, pairs; what is read back, which defects are counted."""

import json
import re
import shutil
import zipfile

import pytest
from fake_loki import (
    HOME,
    IMAGES,
    MC_SKIPPED,
    MULTI_CHOICE,
    OPEN_DROPPED,
    OPEN_ENDED,
    OPEN_REPAIRED,
    OPEN_SKIPPED,
    TF_SKIPPED,
    make_fake,
    open_ended,
)
from prepared_sources import by_id, prepare, printed_by_the_tool, write_times

from input_pipeline.datasets import open_dataset
from input_pipeline.datasets.loki import CATEGORIES
from input_pipeline.records import dataset, manifest
from input_pipeline.records.dataset import image_hash
from input_pipeline.records.record import DataError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_fake(tmp_path_factory.mktemp("source") / "loki")


@pytest.fixture(scope="module")
def regions(source, tmp_path_factory):
    return prepare("loki/regions", source, tmp_path_factory.mktemp("data"))


def _counts(made):
    summary = manifest.read_summary(made.data_path)
    assert list(summary["splits"]) == ["test"]
    return summary["splits"]["test"]


def test_boxes_are_regions_with_their_own_explanation(regions):
    record = by_id(regions, "test")["test_a.png"]
    assert record.image == IMAGES["a.png"] and record.label == 1 and record.has_masks
    assert record.group_id == image_hash(IMAGES["a.png"])
    assert record.caption == "It looks synthetic. Six legs. Melted tail."
    assert record.question == "What is wrong with this image?"
    assert record.category == "animal" and record.dataset == "loki"
    assert [(region.phrase, region.start) for region in record.regions] == [("", -1)] * 2
    assert [region.explanation for region in record.regions] == ["Six legs.", "Melted tail."]
    assert [region.box for region in record.regions] == [(2, 3, 12.5, 9), (0, 0, 3, 3)]
    assert record.regions[0].polygons == [[2, 3, 12.5, 3, 12.5, 9, 2, 9]]
    union = record.marked((16, 24))
    assert union[5, 5] and union[1, 1] and not union[12, 12]


def test_boxes_are_clipped_to_the_image_as_a_viewer_shows_it(regions):
    record = by_id(regions, "test")["test_turned.jpg"]
    assert (record.height, record.width) == (24, 16)
    assert [region.box for region in record.regions] == [(1, 20, 16, 24)]
    assert record.caption == "Too tall."
    odd = by_id(regions, "test")["test_été 照片.png"]
    assert odd.file_name == f"{HOME}/été 照片.png"
    assert [region.explanation for region in odd.regions] == ["Über ✗.", "Wide."]
    assert [region.box for region in odd.regions] == [(1, 1, 5, 5), (20, 0, 24, 6)]


def test_an_image_without_boxes_has_no_masks(regions):
    record = by_id(regions, "test")["test_grey.jpg"]
    assert not record.has_masks and record.category == ""
    assert record.caption == "It looks synthetic."


def test_every_defect_of_open_ended_questions_is_counted(regions):
    counts = _counts(regions)
    assert (counts["items"], counts["published"], counts["records"]) == (len(OPEN_ENDED), 229, 4)
    assert counts["skipped"] == OPEN_SKIPPED and counts["dropped"] == OPEN_DROPPED
    assert counts["repaired"] == OPEN_REPAIRED and counts["regions"] == 5
    assert counts["label"] == {"1": 4}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-8", "utf-8-sig"])
@pytest.mark.parametrize(("annotations", "home"), [("data_json/image", "image"), (".", ".")])
def test_other_encodings_and_places_give_the_same(source, tmp_path, encoding, annotations, home):
    other = make_fake(tmp_path, encoding=encoding, annotations=annotations, home=home)
    first, second = (open_dataset("loki", str(root)) for root in (source, other))
    assert first.digest(first.splits()) == second.digest(second.splits())
    item = second.splits()["test"][0]
    assert dataset.read_item(second, "test", item)[1]["image"] == IMAGES["a.png"]


def test_a_zip_with_a_folder_around_it_is_read(source, tmp_path):
    with zipfile.ZipFile(tmp_path / "LOKI.zip", "w") as archive:
        for path in source.rglob("*.*"):
            archive.write(path, f"LOKI/{path.relative_to(source)}")
    made = prepare("loki/tf", tmp_path / "LOKI.zip", tmp_path / "data")
    assert sorted(by_id(made, "test")) == ["test_a.png", "test_deep.png", "test_turned.jpg"]


def test_both_askings_make_one_record(source, tmp_path):
    made = prepare("loki/tf", source, tmp_path)
    records, counts = by_id(made, "test"), _counts(made)
    truths = {key: (r.label, r.category) for key, r in records.items()}
    assert truths == {"test_a.png": (0, "document"), "test_turned.jpg": (1, "scene"),
                      "test_deep.png": (1, "human")}
    assert all(r.image == IMAGES[key.removeprefix("test_")] for key, r in records.items())
    assert not any(r.has_masks or r.caption or r.question for r in records.values())
    assert counts["items"] == 8 and counts["published"] == 2_217
    assert counts["skipped"] == TF_SKIPPED and counts["label"] == {"0": 1, "1": 2}


def test_pairs_make_two_records(source, tmp_path):
    made = prepare("loki/mc", source, tmp_path)
    records, counts = by_id(made, "test"), _counts(made)
    truths = {key.removeprefix("test_image_"): (r.file_name.rpartition("/")[2],
                                                r.label) for key, r in records.items()}
    assert truths == {
        "real_from_fake_doc_mc_0_A": ("a.png", 0), "real_from_fake_doc_mc_0_B": ("cmyk.jpg", 1),
        "fake_from_real_doc_mc_0_A": ("a.png", 0), "fake_from_real_doc_mc_0_B": ("cmyk.jpg", 1),
        "real_from_fake_sence_mc_1_A": ("deep.png", 1), "real_from_fake_sence_mc_1_B": ("a.png", 0),
        "fake_from_real_doc_mc_3_B": ("a.png", 0)}
    assert counts["category"] == {"document": 5, "scene": 2}
    assert counts["items"] == 2 * len(MULTI_CHOICE) - 2 and counts["published"] == 5_268
    assert counts["skipped"] == MC_SKIPPED


def test_categories_are_the_records_words():
    published = {"animals", "satellite", "medicine", "object", "doc", "sence", "person"}
    assert published <= set(CATEGORIES) and CATEGORIES["sence"] == CATEGORIES["scene"]


def test_second_run_changes_nothing_and_new_boxes_are_noticed(regions, source, tmp_path):
    before = write_times(regions.data_path)
    again = prepare("loki/regions", source, regions.data_dir_root)
    assert write_times(again.data_path) == before
    other = shutil.copytree(source, tmp_path / "other")
    (other / "image" / "open_ended_vqa.json").write_text(json.dumps([open_ended("a.png")]))
    with pytest.raises(DataError, match="from another source"):
        prepare("loki/regions", other, regions.data_dir_root)


def test_missing_and_broken_annotations_are_named(source, tmp_path):
    with pytest.raises(DataError, match="found no image/multi_choice.json"):
        open_dataset("loki/mc", str(tmp_path)).splits()
    other = shutil.copytree(source, tmp_path / "other")
    path = other / "image" / "open_ended_vqa.json"
    path.write_bytes(path.read_bytes()[:101])  # half a letter of UTF-16 at the end
    with pytest.raises(DataError, match=f"{path}: not valid JSON"):
        open_dataset("loki", str(other)).splits()


def test_the_tool_prepares_it(source, tmp_path):
    printed = printed_by_the_tool("loki/tf", source, tmp_path)
    assert re.search(r"contradictory truth\W+1\W", printed)
    assert re.search(r"published\W+2,217\W", printed)
