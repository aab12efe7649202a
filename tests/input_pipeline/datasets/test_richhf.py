"""RichHF-18K: TFRecord files without TensorFlow, heat maps, scores, images beside."""

import io
import pickle
import re
import zipfile

import numpy as np
import pytest
from fake_richhf import (
    IMAGES,
    MAP,
    SKIPPED,
    TRAIN,
    encode_map,
    example,
    heat,
    make_fake,
    serialize_tensor,
    write_records,
)
from PIL import Image
from prepared_sources import by_id, prepare, printed_by_the_tool, write_times
from tensorboardX.crc32c import crc32c

from input_pipeline.datasets import open_dataset, tfrecord
from input_pipeline.photos.regions import png_to_mask
from input_pipeline.records import manifest
from input_pipeline.records.dataset import image_hash, read_item
from input_pipeline.records.record import DataError, RecordError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_fake(tmp_path_factory.mktemp("source") / "richhf")


@pytest.fixture(scope="module")
def published(source, tmp_path_factory):
    return prepare("richhf", source, tmp_path_factory.mktemp("data"))


def _heat(record):
    with Image.open(io.BytesIO(record.heatmap)) as image:
        assert image.mode == "L" and image.format == "PNG"
        return np.asarray(image)


def test_images_are_found_by_name_or_by_stem(published):
    records = by_id(published)
    names = ["0a1b.png", "turned.jpg", "grey.png", "palette.png", "deep.png", "été 照片.jpg",
             "0a1b.png"]
    assert sorted(records) == [f"train_{number}" for number in range(len(names))]
    for number, name in enumerate(names):
        record = records[f"train_{number}"]
        assert record.image == IMAGES[name] and record.label == 1 and record.has_masks
        assert record.group_id == image_hash(IMAGES[name])
        assert not record.caption and not record.regions
    assert records["train_0"].file_name == "train/0a1b.png"
    assert records["train_5"].file_name == "train/été 照片.png"
    assert records["train_0"].group_id == records["train_6"].group_id
    assert (records["train_1"].height, records["train_1"].width) == (24, 16)


def test_maps_stay_as_they_are_in_all_three_encodings(published):
    records = by_id(published)
    for key in ("train_0", "train_1", "train_2"):
        assert np.array_equal(_heat(records[key]), MAP)
    assert not _heat(records["train_3"]).any()
    assert abs(_heat(records["train_4"]).astype(int) - MAP).max() < 30  # a JPEG


def test_union_mask_has_the_size_of_the_image(published):
    records = by_id(published)
    mask = png_to_mask(records["train_0"].union_mask)
    expected = np.zeros((32, 48), np.uint8)
    expected[:8, :24] = expected[16:, 12:24] = 1
    assert np.array_equal(mask, expected)
    assert png_to_mask(records["train_1"].union_mask).shape == (24, 16)
    assert not records["train_3"].marked((16, 24)).any()


def test_scores_are_read_and_bad_ones_left_out(published):
    records = by_id(published)
    assert records["train_0"].scores == {"aesthetic": .25, "artifact": .5, "misalignment": .75,
                                         "overall": 1.0}
    scores = records["train_4"].scores
    assert scores["aesthetic"] == .25 and np.isnan([scores["artifact"], scores["overall"]]).all()


def test_every_defect_is_counted(published):
    summary = manifest.read_summary(published.data_path)
    counts = summary["splits"]
    assert {name: (c["published"], c["items"], c["records"]) for name, c in counts.items()} == {
        "train": (15_810, len(TRAIN), 7), "dev": (995, 1, 1), "test": (955, 1, 1)}
    assert counts["train"]["skipped"] == SKIPPED
    assert counts["train"]["repaired"] == {"unusable score left out": 2}
    assert summary["groups_in_several_splits"] == 2
    details = {entry["id"]: entry["detail"] for entry in manifest.read_manifest(published.data_path)
               if entry["split"] == "train" and entry["status"] == "skipped"}
    assert details["7"] == "train/gone.png" and details["9"] == "256x256"
    assert "wrong checksum" in details["17"] and "from byte" in details["18"]


def test_flavours_differ_in_what_counts_as_marked(source, tmp_path):
    half = prepare("richhf/half", source, tmp_path)
    mask = png_to_mask(by_id(half)["train_0"].union_mask)
    expected = np.zeros((32, 48), np.uint8)
    expected[16:, 12:24] = 1
    assert np.array_equal(mask, expected)
    dataset = open_dataset("richhf/marked", str(source))
    items = dataset.splits()["train"]
    statuses = [read_item(dataset, "train", item)[0]["status"] for item in items[:5]]
    assert statuses == ["kept", "kept", "kept", "skipped", "kept"]
    assert read_item(dataset, "train", items[3])[0]["reason"] == "nothing marked"


@pytest.mark.parametrize("place", [".", "images/train", "zip", "all in one zip"])
def test_images_may_lie_elsewhere(source, published, tmp_path, place):
    other = make_fake(tmp_path / "richhf", images="images" if "zip" in place else place)
    if "zip" in place:
        inside = other / "images" if place == "zip" else other
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for path in inside.rglob("*.*"):
                archive.write(path, path.relative_to(inside))
        if place == "zip":
            for path in (other / "images").iterdir():
                path.unlink()
            (tmp_path / "images.zip").rename(other / "images.zip")
        else:
            other = tmp_path / "images.zip"
    dataset = pickle.loads(pickle.dumps(open_dataset("richhf", str(other))))
    items = dataset.splits()["train"]
    features = [read_item(dataset, "train", item)[1] for item in items[:7]]
    assert [stored["image"] for stored in features] == [
        by_id(published)[f"train_{n}"].image for n in range(7)]


def test_a_data_set_travels_without_the_file_it_read(source):
    dataset = open_dataset("richhf", str(source))
    dataset.splits()
    assert len(pickle.dumps(dataset)) < 1000


def test_second_run_changes_nothing_and_new_labels_are_noticed(source, published, tmp_path):
    before = write_times(published.data_path)
    again = prepare("richhf", source, published.data_dir_root)
    assert write_times(again.data_path) == before
    other = make_fake(tmp_path / "other")  # the same places, another score
    changed = example("train/0a1b.png", encode_map(MAP), overall_score=.5)
    assert len(changed) == len(TRAIN[0])
    write_records(other / "test.tfrecord", [changed])
    with pytest.raises(DataError, match="from another source"):
        prepare("richhf", other, published.data_dir_root)


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(DataError, match="found no train.tfrecord"):
        open_dataset("richhf", str(tmp_path)).splits()
    (tmp_path / "dev.tfrecord").write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
    with pytest.raises(DataError, match="git lfs pull"):
        open_dataset("richhf", str(tmp_path)).splits()
    (tmp_path / "dev.tfrecord").write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match="no usable record; 1 damaged file"):
        prepare("richhf", tmp_path, tmp_path / "data")


def test_the_tool_prepares_it_without_tensorflow(source, tmp_path):
    assert re.search(r"published\W+15,810\W+995\W+955\W",
                     printed_by_the_tool("richhf", source, tmp_path))


@pytest.mark.parametrize("data", [b"", b"a", b"123456789", bytes(range(256)) * 3])
def test_checksums_are_those_of_tensorboard(data):
    crc = crc32c(data)
    assert tfrecord.masked_crc32c(data) == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def test_the_checksum_is_crc32c():
    assert tfrecord.masked_crc32c(b"123456789") == (
        ((0xE3069283 >> 15) | (0xE3069283 << 17)) + 0xA282EAD8) % 2**32


@pytest.mark.parametrize("cut", [1, 8, 11, 12, 13, 20])
def test_a_cut_anywhere_is_a_truncated_file(tmp_path, cut):
    content = write_records(tmp_path / "a.tfrecord", [b"first", b"second"])
    first = 12 + len(b"first") + 4
    whole, broken = tfrecord.frames(content[:first + cut])
    assert tfrecord.read_frame(content, whole) == b"first"
    with pytest.raises(RecordError, match="truncated file"):
        tfrecord.read_frame(content, broken)


def test_a_broken_length_ends_a_file(tmp_path):
    content = bytearray(write_records(tmp_path / "a.tfrecord", [b"first", b"second", b"third"]))
    content[12 + len(b"first") + 4] ^= 1
    assert [frame.problem for frame in tfrecord.frames(bytes(content))] == ["", "damaged file"]


def test_tensors_of_other_shapes_are_none():
    assert np.array_equal(tfrecord.parse_tensor(serialize_tensor(MAP))[..., 0], MAP)
    with pytest.raises(RecordError, match="malformed record"):
        tfrecord.parse_tensor(serialize_tensor(heat(side=256)))
