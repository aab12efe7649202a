"""The same made photos in the layouts of three published data sets, as their readers see them."""

import pathlib

import numpy as np
import pytest

from input_pipeline.datasets import open_dataset
from input_pipeline.photos import images
from input_pipeline.records.dataset import Notes
from input_pipeline.records.record import REAL, SYNTHETIC, TAMPERED
from input_pipeline.scarred_photos import layouts, repaint
from input_pipeline.scarred_photos.dataset_folder import make_dataset
from input_pipeline.scarred_photos.samples import ScarredPhotosError, make_sample
from input_pipeline.text.dialogue import REAL_OR_FAKE
from input_pipeline.text.verdict_words import verdict_of_words

pytest.importorskip("skimage")

NUM, SIZE = 10, 96


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{layout: folder}, each with the same samples."""
    root = tmp_path_factory.mktemp("layouts")
    return {name: pathlib.Path(make_dataset(root / name, num_train=NUM, num_test=5, size=SIZE,
                                            layout=name)) for name in layouts.LAYOUTS}


def records_of(name, folder):
    """{number of the sample: Record} of the train split, by the published data set's reader."""
    dataset, notes = open_dataset(name, str(folder)), Notes()
    read = [dataset.read(item, notes) for item in dataset.splits()["train"]]
    assert not notes.entries
    numbered = {int(pathlib.PurePath(record.file_name).stem.rpartition("_")[2]): record
                for record in read}
    assert sorted(numbered) == list(range(NUM))
    return dict(sorted(numbered.items()))


@pytest.fixture(scope="module")
def synthscars(folders):
    return records_of("synthscars/photos", folders["synthscars"])


def pixels(record):
    return images.read_image(record.image, name=record.file_name)


def test_fakeclue_shows_the_same_photos_and_says_in_words_what_is_wrong(folders, synthscars):
    for number, record in records_of("fakeclue/published", folders["fakeclue"]).items():
        scarred = synthscars[number]
        assert record.image == scarred.image
        assert record.label == (SYNTHETIC if scarred.regions else REAL)
        assert record.question == REAL_OR_FAKE and record.category in record.file_name
        said = "fake" if scarred.regions else "real"
        assert record.caption.startswith(f"This is a {said} image. ")
        assert verdict_of_words(record.caption) == said
        for region in scarred.regions:
            assert f"{region.phrase}. {region.explanation}" in record.caption
        assert record.caption.count("There is ") == len(scarred.regions)


def test_sid_set_shows_the_same_photos_but_those_repainted(folders, synthscars):
    labels = []
    for number, record in records_of("sid_set/folders", folders["sid_set"]).items():
        scarred = synthscars[number]
        labels.append(record.label)
        if record.label == SYNTHETIC:
            assert scarred.label == TAMPERED and not record.has_masks
            assert record.caption == repaint.EXPLANATION
            np.testing.assert_array_equal(pixels(record), make_sample(
                "train", number, size=SIZE, repaints=True).image)
            continue
        assert record.image == scarred.image and record.label == scarred.label
        assert bool(record.caption) == (record.label == TAMPERED) and record.has_masks
        size = pixels(record).shape[:2]
        np.testing.assert_array_equal(record.marked(size), scarred.marked(size))
        for region in scarred.regions:
            kind = " ".join(region.phrase.split()[:2])
            place = region.phrase.removeprefix(f"{kind} ")
            assert f"<{place}> {kind}" in record.caption
            assert f"<{kind}> {region.explanation}" in record.caption
    assert labels == [REAL, TAMPERED, TAMPERED, REAL, SYNTHETIC] * (NUM // 5)


def test_a_repainted_photo_keeps_its_scene_and_none_of_its_detail():
    sample = make_sample("test", 4, repaints=True)
    scarred = make_sample("test", 4)
    assert sample.repainted and not sample.scars and not sample.real and scarred.scars
    assert sample.photo == scarred.photo and sample.image.shape == scarred.image.shape
    photo = scarred.image  # but for its scars
    untouched = np.ones(photo.shape[:2], bool)
    for scar in scarred.scars:
        x, y = np.array(scar.polygon).reshape(-1, 2).T
        untouched[int(y.min()):int(y.max()) + 1, int(x.min()):int(x.max()) + 1] = False
    change = np.abs(sample.image.astype(int) - photo)[untouched]
    assert (change.max(axis=-1) > 2).mean() > 0.9 and 4 < change.mean() < 40
    again = repaint.repaint(photo, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(again, repaint.repaint(photo, rng=np.random.default_rng(1)))
    assert (again != repaint.repaint(photo, rng=np.random.default_rng(2))).mean() > 0.5


def test_layouts_are_told_apart(folders):
    with pytest.raises(ScarredPhotosError, match="'layout': 'sid_set'.*asked for"):
        make_dataset(folders["sid_set"], num_train=NUM, num_test=5, size=SIZE)
    with pytest.raises(ScarredPhotosError, match="synthscars, fakeclue, sid_set, not 'loki'"):
        make_dataset(folders["sid_set"], num_train=NUM, num_test=5, size=SIZE, layout="loki")
