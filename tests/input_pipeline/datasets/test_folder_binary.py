"""Folders of real and fake images: labels, classes, test sets, shared real folders, caps."""

import hashlib
import time

import pytest
from fake_folders import BROKEN, FORMS, make_fake, pair, picture, write_tree, zip_tree
from prepared_sources import prepare, printed_by_the_tool, write_times

from input_pipeline.datasets import open_dataset
from input_pipeline.datasets.folder_binary import UniversalFakeDetect
from input_pipeline.records import manifest
from input_pipeline.records.dataset import Notes
from input_pipeline.records.prepared import open_split
from input_pipeline.records.record import DataError, RecordError


def splits_of(name, source):
    return {split: [(item.file, *item.data) for item in items]
            for split, items in open_dataset(name, str(source)).splits().items()}


@pytest.fixture(scope="module")
def progan(tmp_path_factory):
    root = tmp_path_factory.mktemp("progan")
    files = make_fake(root / "source", "progan")
    return root, files, prepare("progan", root / "source", root / "data")


def test_every_image_comes_back_with_label_class_and_bytes(progan):
    _, files, built = progan
    train = {r.file_name: r for r in open_split(built.data_path, "train")}
    home = "progan_train/airplane"
    expected = {f"{home}/0_real/{name}": (0, "airplane", "") for name, _ in FORMS}
    expected[f"{home}/1_fake/again.png"] = (1, "airplane", "progan")
    expected |= {f"progan_train/train/0_real/0000{i}.png": (0, "train", "") for i in (0, 1)}
    expected |= {f"progan_train/train/1_fake/0002{i}.png": (1, "train", "progan")
                 for i in (2, 3)}
    assert {name: (r.label, r.category, r.generator)
            for name, r in train.items()} == expected
    for name, record in train.items():
        assert record.image == files[name]
        assert record.group_id == hashlib.sha256(files[name]).hexdigest()
        assert record.id == f"train_{name}" and record.dataset == "progan"
        assert not record.has_masks and not record.regions
    turned = train[f"{home}/0_real/turned.jpg"]
    assert (turned.height, turned.width) == (24, 16)


def test_defects_are_counted_beside_the_published_number(progan):
    _, _, built = progan
    splits = manifest.read_summary(built.data_path)["splits"]
    train, val = splits["train"], splits["val"]
    assert train["published"] == 720_119 and val["published"] is None
    assert train["items"] == len(FORMS) + len(BROKEN) + 1 + 4
    assert train["records"] == len(FORMS) + 1 + 4 and val["records"] == val["items"] == 4
    assert train["skipped"] == {"not an image file": 2, "unreadable image": 3}
    assert train["label"] == {"0": len(FORMS) + 2, "1": 3}


def test_second_run_changes_nothing(progan):
    root, _, built = progan
    before = write_times(built.data_path)
    again = prepare("progan", root / "source", root / "data")
    assert write_times(again.data_path) == before


@pytest.mark.parametrize("name", ["progan", "forensynths", "ufd/all", "ufd/capped"])
def test_an_archive_reads_like_the_folder(tmp_path, name):
    files = make_fake(tmp_path / "folder", name.partition("/")[0])
    hostile = [("../out/progan/0_real/x.png", picture(1), False),
               ("test/deepfake/1_fake/link.png", b"/etc/passwd", True)]
    packed = zip_tree(tmp_path / "all.zip", files, hostile=hostile)
    first, second = (open_dataset(name, str(p)) for p in (tmp_path / "folder", packed))
    assert first.splits() == second.splits()
    for items in second.splits().values():
        for item in items:
            if not item.file.endswith((".db", "_Store")):
                assert first.read(item, Notes()) == second.read(item, Notes())


@pytest.mark.parametrize(("layout", "splits"), [
    (["progan_train/cat", "progan_val/cat"], {"train", "val"}),
    (["train/progan/cat", "val/progan/cat", "test/progan/cat"], {"train", "val"}),
    (["progan/cat", "progan_val/cat"], {"train", "val"}),
    (["train/train", "val/train"], {"train", "val"}),
    (["cat", "train"], {"train"})])
def test_layouts_of_the_training_set(tmp_path, layout, splits):
    for home in layout:
        write_tree(tmp_path, pair(home))
    rows_of = splits_of("progan", tmp_path)
    assert rows_of.keys() == splits
    assert {row[2] for rows in rows_of.values() for row in rows} == {
        home.split("/")[-1] for home in layout}


def test_a_folder_of_validation_classes_is_not_training(tmp_path):
    write_tree(tmp_path / "progan_val", pair("cat"))
    assert splits_of("progan", tmp_path / "progan_val").keys() == {"val"}


def test_two_places_for_one_split_are_an_error(tmp_path):
    write_tree(tmp_path, pair("a/progan_train/cat") | pair("progan_train/cat"))
    with pytest.raises(DataError, match="train is in several folders: a/progan_train, progan_tr"):
        splits_of("progan", tmp_path)
    write_tree(tmp_path, pair("a/biggan") | pair("b/biggan"))
    with pytest.raises(DataError, match="biggan is in several folders: a/biggan, b/biggan"):
        splits_of("forensynths", tmp_path)


@pytest.mark.parametrize("name", ["progan", "forensynths", "ufd"])
def test_nothing_there_is_named(tmp_path, name):
    write_tree(tmp_path, {"somewhere/a.png": picture(1)})
    with pytest.raises(DataError, match="found no .*0_real"):
        splits_of(name, tmp_path)


def test_every_test_set_is_a_split(tmp_path):
    make_fake(tmp_path, "forensynths")
    splits = splits_of("forensynths", tmp_path)
    assert list(splits) == ["progan", "seeingdark", "deepfake"]
    assert splits["progan"][0] == ("test/progan/car/0_real/00000.png", 0, "car", "")
    assert splits["progan"][-1] == ("test/progan/train/1_fake/00013.png", 1, "train", "progan")
    assert splits["deepfake"][-1] == ("test/deepfake/1_fake/00034.png", 1, "", "deepfake")
    assert {split: len(rows) for split, rows in splits.items()} == {
        "progan": 8, "seeingdark": 4, "deepfake": 5}


def test_diffusion_models_share_their_real_images(tmp_path):
    make_fake(tmp_path, "ufd")
    splits = splits_of("ufd/all", tmp_path)
    assert list(splits) == ["progan", "deepfake", "sitd", "guided", "ldm_200", "dalle"]
    homes = {split: {row[0].split("/")[1] for row in rows if row[1] == 0}
             for split, rows in splits.items()}
    assert homes["guided"] == {"imagenet"} and homes["ldm_200"] == homes["dalle"] == {"laion"}
    assert {row[3] for row in splits["ldm_200"] if row[1] == 1} == {"ldm_200"}
    assert {row[3] for row in splits["sitd"] if row[1] == 1} == {"sitd"}
    built = prepare("ufd/all", tmp_path, tmp_path / "data")
    summary = manifest.read_summary(built.data_path)["splits"]
    assert summary["guided"]["published"] == 2000 and summary["guided"]["label"] == {
        "0": 3, "1": 3}
    assert [r.label for r in open_split(built.data_path, "dalle")].count(0) == 3


def test_missing_real_images_are_named(tmp_path):
    write_tree(tmp_path, pair("diffusion_datasets/guided", real=0))
    with pytest.raises(DataError, match="imagenet: found no 0_real"):
        splits_of("ufd", tmp_path)
    write_tree(tmp_path, pair("test/biggan", fake=0))
    with pytest.raises(DataError, match="biggan: found no 1_fake"):
        splits_of("forensynths", tmp_path)


@pytest.mark.parametrize(("real", "fake", "taken"), [
    (1200, 1000, (1000, 1000)), (1200, 999, (100, 100)), (180, 180, (100, 100)),
    (40, 99, (40, 99))])
def test_capped_takes_a_thousand_or_a_hundred(tmp_path, real, fake, taken):
    files = {f"biggan/0_real/{i}.png": b"" for i in range(real)}
    files |= {f"biggan/1_fake/{i}.png": b"" for i in range(fake)} | {"biggan/0_real/.x": b""}
    write_tree(tmp_path, files)
    (rows,) = splits_of("ufd/capped", tmp_path).values()
    assert [sum(row[1] == label for row in rows) for label in (0, 1)] == list(taken)
    assert rows == splits_of("ufd/capped", tmp_path)["biggan"]  # always the same ones
    everything = splits_of("ufd/all", tmp_path)["biggan"]
    assert set(rows) <= set(everything) and len(everything) == real + fake + 1
    if real > taken[0]:
        assert rows[:taken[0]] != everything[:taken[0]]  # not just the first ones


def test_a_name_that_cannot_be_stored_is_skipped(tmp_path):
    home = tmp_path / "biggan" / "1_fake"
    write_tree(tmp_path, pair("biggan"))
    with open(bytes(home) + b"/bad\xff.png", "wb") as file:
        file.write(picture(1))
    dataset = open_dataset("ufd/all", str(tmp_path))
    bad = dataset.splits()["biggan"][-1]
    with pytest.raises(RecordError, match="cannot be encoded"):
        dataset.read(bad, Notes())


def test_a_large_listing_is_quick(monkeypatch):
    names = [f"progan_train/c{c}/{label}/{i:05d}.png" for c in range(20)
             for label in ("0_real", "1_fake") for i in range(2500)]
    dataset = open_dataset("progan", ".")
    monkeypatch.setattr(dataset.tree, "names", lambda: names)
    start = time.monotonic()
    (items,) = dataset.splits().values()
    assert len(items) == 100_000 and time.monotonic() - start < 5
    assert items[0].id is items[0].file and items[0].data is items[1].data  # light


def test_sets_are_the_published_ones():
    assert len(UniversalFakeDetect.sets) == 19
    assert len(open_dataset("forensynths", ".").sets) == 13


@pytest.mark.parametrize("name", ["progan", "forensynths", "ufd/capped"])
def test_tool(tmp_path, name):
    make_fake(tmp_path / "source", name.partition("/")[0])
    assert "manifest.jsonl" in printed_by_the_tool(name, tmp_path / "source", tmp_path / "data")
