"""The made data set: layout, labels that are true, photos kept apart, same bytes every time."""

import hashlib
import json
import pathlib

import numpy as np
import pytest
from commands import run_tool
from PIL import Image

from input_pipeline.photos.regions import polygons_to_mask
from input_pipeline.scarred_photos import dataset_folder, samples
from input_pipeline.scarred_photos.dataset_folder import make_dataset
from input_pipeline.scarred_photos.layouts import NO_ARTIFACT, describe
from input_pipeline.scarred_photos.samples import PHOTOS, ScarredPhotosError, make_sample
from input_pipeline.scarred_photos.scar_kinds import (
    CATEGORIES,
    DISTORTION,
    PHYSICS,
    STRUCTURE,
    Kind,
    Window,
)
from input_pipeline.scarred_photos.scars import MAX_AREA, MAX_TOTAL, MIN_AREA, scar_photo

pytest.importorskip("skimage")

NUM_TRAIN, NUM_TEST = 40, 20


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    output = tmp_path_factory.mktemp("made") / "photos"
    return pathlib.Path(make_dataset(
        output, num_train=NUM_TRAIN, num_test=NUM_TEST, size=128, seed=3))


def _records(root, split):
    items = json.loads((root / split / "annotations" / f"{split}.json").read_text())
    return [(key, record) for item in items for key, record in item.items()]


def _digests(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_layout_is_the_published_one(dataset):
    assert sorted(path.name for path in dataset.iterdir()) == ["generator.json", "test", "train"]
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        records = _records(dataset, split)
        assert [key for key, _ in records] == [str(index) for index in range(count)]
        on_disk = {path.name for path in (dataset / split / "images").iterdir()}
        assert on_disk == {record["img_file_name"] for _, record in records}
        for _, record in records:
            assert set(record) == {"img_file_name", "caption", "refs"}
            for ref in record["refs"]:
                assert set(ref) == {"sentence", "explanation", "bbox", "segmentation"}
                assert ref["bbox"] is None and ref["explanation"].endswith(".")


def test_captions_hold_every_phrase_once_and_in_order(dataset):
    for _, record in _records(dataset, "train") + _records(dataset, "test"):
        refs, caption = record["refs"], record["caption"]
        if not refs:
            assert caption == NO_ARTIFACT
            continue
        assert caption.startswith(f"I have found {len(refs)} artifact")
        assert [caption.count(ref["sentence"]) for ref in refs] == [1] * len(refs)
        places = [caption.index(f"{ref['sentence']}:{ref['explanation']}") for ref in refs]
        assert places == sorted(places)


def test_regions_are_large_apart_and_inside(dataset):
    for _, record in _records(dataset, "train"):
        with Image.open(dataset / "train" / "images" / record["img_file_name"]) as image:
            width, height = image.size
        assert 115 <= width <= 141 and 115 <= height <= 141
        total = np.zeros((height, width), np.int64)
        for ref in record["refs"]:
            x, y = np.array(ref["segmentation"][0]).reshape(-1, 2).T
            assert 10 <= len(x) <= 16
            assert x.min() >= 0 and y.min() >= 0 and x.max() <= width and y.max() <= height
            mask = polygons_to_mask(ref["segmentation"], height, width)
            assert MIN_AREA <= mask.mean() <= MAX_AREA
            total += mask
        assert total.max() <= 1 and total.mean() < MAX_TOTAL


def test_two_in_five_are_real(dataset):
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        refs = [len(record["refs"]) for _, record in _records(dataset, split)]
        assert refs.count(0) == count * 2 // 5 and max(refs) <= 3


def test_no_photo_is_in_both_splits(dataset):
    seen = {
        split: {r["img_file_name"].rpartition("_")[0] for _, r in _records(dataset, split)}
        for split in ("train", "test")
    }
    assert seen["train"] and seen["test"] and not seen["train"] & seen["test"]
    assert not {name.rpartition(".")[0] for name in PHOTOS["train"]} & seen["test"]


def test_same_parameters_give_the_same_bytes_and_samples_are_independent(dataset, tmp_path):
    again = pathlib.Path(make_dataset(
        tmp_path / "b", num_train=NUM_TRAIN, num_test=NUM_TEST, size=128, seed=3))
    assert _digests(again) == _digests(dataset)
    sample = make_sample("train", 7, size=128, seed=3)
    record = _records(dataset, "train")[7][1]
    assert (record["caption"], record["refs"]) == describe(sample.scars)
    with Image.open(dataset / "train" / "images" / f"{sample.photo}_00007.png") as stored:
        np.testing.assert_array_equal(np.asarray(stored), sample.image)


def test_samples_stay_what_published_numbers_were_measured_on():
    """Figures of the demo are of these; raise dataset_folder.VERSION when they must change."""
    made = {index: make_sample("train", index) for index in (1, 4)}
    assert [(sample.photo, sample.image.shape, [scar.phrase for scar in sample.scars])
            for sample in made.values()] == [
        ("grass", (156, 144, 3), ["colour shift at the upper left", "blue shadow in the centre",
                                  "warm light on the right"]),
        ("rocket", (163, 172, 3), ["repeated piece on the right"])]


def test_another_seed_gives_other_images():
    first, other = (make_sample("train", 1, seed=seed).image for seed in (0, 1))
    assert first.tobytes() != other.tobytes()


def test_second_run_changes_nothing_and_other_parameters_are_refused(dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    make_dataset(dataset, num_train=NUM_TRAIN, num_test=NUM_TEST, size=128, seed=3)
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before
    with pytest.raises(ScarredPhotosError, match="'seed': 3.*'seed': 4"):
        make_dataset(dataset, num_train=NUM_TRAIN, num_test=NUM_TEST, size=128, seed=4)


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ScarredPhotosError, match="not made by this generator"):
        make_dataset(tmp_path, num_train=1, num_test=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset_folder, "tqdm", fail)
    with pytest.raises(KeyboardInterrupt):
        make_dataset(tmp_path / "out", num_train=2, num_test=1)
    assert list(tmp_path.iterdir()) == []


def test_missing_photos_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(samples.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ScarredPhotosError, match="pip install scikit-image"):
        make_dataset(tmp_path / "out", num_train=1, num_test=1)


def _busy_photo(rng):
    coarse = Image.fromarray(rng.integers(30, 226, (9, 10, 3), np.uint8))
    fine = rng.integers(-20, 21, (120, 140, 1))
    photo = np.asarray(coarse.resize((140, 120), Image.Resampling.NEAREST)) + fine
    return np.clip(photo, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", DISTORTION + STRUCTURE + PHYSICS, ids=lambda kind: kind.name)
def test_exactly_the_polygon_changes_and_visibly(kind):
    rng = np.random.default_rng(5)
    for _ in range(5):
        photo = _busy_photo(rng)
        scarred, scars = scar_photo(photo, 1, rng=rng, categories=((kind,),))
        assert [scar.kind for scar in scars] == [kind]
        mask = polygons_to_mask([scars[0].polygon], 120, 140).astype(bool)
        change = np.abs(scarred.astype(int) - photo).max(axis=-1)
        assert not change[~mask].any()
        assert change[mask].mean() >= 10 and (change[mask] >= 8).mean() >= 0.5


def test_changes_that_cannot_be_seen_are_refused():
    rng = np.random.default_rng(0)
    flat = np.full((120, 140, 3), 128, np.uint8)
    blur = next(kind for kind in DISTORTION if kind.name == "blurred patch")
    for categories in ((STRUCTURE,), ((blur,),)):
        scarred, scars = scar_photo(flat, 3, rng=rng, categories=categories)
        assert scars == [] and (scarred == flat).all()
    black = np.zeros((120, 140, 3), np.uint8)
    shadow = next(kind for kind in PHYSICS if kind.name == "blue shadow")
    assert scar_photo(black, 1, rng=rng, categories=((shadow,),))[1] == []


def test_scars_of_one_photo_have_different_phrases_in_reading_order():
    rng = np.random.default_rng(1)
    for _ in range(20):
        _, scars = scar_photo(_busy_photo(rng), 3, rng=rng, categories=CATEGORIES)
        phrases = [scar.phrase for scar in scars]
        assert len(set(phrases)) == len(phrases)
        assert [scar.order for scar in scars] == sorted(scar.order for scar in scars)


def test_place_words_follow_the_centre():
    def paint(image, window: Window, rng):
        return 255 - image[window.slices]

    kind = Kind("patch", "Wrong.", paint, 0)
    rng = np.random.default_rng(2)
    for _ in range(30):
        _, (scar,) = scar_photo(_busy_photo(rng), 1, rng=rng, categories=((kind,),))
        x, y = np.array(scar.polygon).reshape(-1, 2).mean(axis=0) / (140, 120)
        words = scar.phrase.split()
        if x < 0.28:
            assert "left" in words
        if y > 0.72:
            assert "lower" in words or "bottom" in words
        if 0.38 < x < 0.62 and 0.38 < y < 0.62:
            assert scar.phrase == "patch in the centre"


@pytest.mark.parametrize(("flags", "code", "message"), [
    (("--num_train=2", "--num_test=1", "--size=64"), 0, "out: 2 train and 1 test images\n"),
    (("there",), 1, "error: unexpected argument 'there'; every argument is a --flag\n")])
def test_the_command(tmp_path, flags, code, message):
    done = run_tool("input_pipeline.scarred_photos", f"--output={tmp_path}/out", *flags,
                    timeout=300)
    assert done.returncode == code
    assert (done.stderr if code else done.stdout).endswith(message)
    assert (tmp_path / "out").exists() != bool(code) and len(list(tmp_path.iterdir())) == 1 - code
