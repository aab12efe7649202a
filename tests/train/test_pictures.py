"""train/pictures.py: which photos are drawn, and the same ones on any mesh and any hosts."""

import pathlib

import jax
import numpy as np
import pytest
import several_hosts
import small_data

from input_pipeline.text import conversation
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax import sharding
from legion_jax.models.reading import Reading
from legion_jax.train import data as train_data, pictures
from legion_jax.train.knobs import RunSettings
from legion_jax.train.setup import Task

data = small_data.data
SPEC = small_data.SPEC


def make(root, mesh):
    """Pictures of a small run, whatever its knobs about features and buckets."""
    settings = RunSettings.from_config(
        small_data.make_config(pathlib.Path(root), text_buckets=(200,)))
    tokenizer = Tokenizer.from_folder(pathlib.Path(root) / "tokenizer")
    rows = train_data.open_rows(settings, tokenizer, SPEC, small_data.MODEL)
    index = conversation.image_index(conversation.encode_prompt(tokenizer, SPEC.instruction))
    task = Task(small_data.MODEL, tokenizer, SPEC,
                Reading(index, {"[SEG]": tokenizer.seg_id}))
    return pictures.of_run(settings, None, rows, task, mesh)


def draw_truth(root: str, shape: list[int]) -> list:
    """What is drawn by a model that is always right, every eighth pixel of it."""
    pictures._masks = lambda graph, params, frozen, batch, **_: batch["masks"]
    mesh = sharding.make_mesh(shape)
    with jax.set_mesh(mesh):
        drawn = make(root, mesh)({}, {})
    return [picture[::8, ::8].tolist() for picture in drawn]


@pytest.fixture
def right(monkeypatch):
    """Keeps `draw_truth` from changing what other tests see."""
    monkeypatch.setattr(pictures, "_masks", pictures._masks)


def test_true_and_drawn_masks_lie_on_the_same_photo(data, monkeypatch):
    shown = []
    monkeypatch.setattr(pictures, "_masks",
                        lambda graph, params, frozen, batch, **_: batch["masks"])
    monkeypatch.setattr(pictures.overlay, "draw_comparison",
                        lambda *parts, titles: shown.append(parts) or np.zeros((1, 1, 3), np.uint8))
    mesh = sharding.make_mesh((1, 4, 2))
    with jax.set_mesh(mesh):
        draw = make(data, mesh)
        draw({}, {})
        assert len(draw({}, {})) == pictures.PHOTOS
        assert draw._draw._cache_size() == 1  # drawing again compiles nothing
    photos = [photo.tobytes() for photo, *_ in shown]
    assert photos[:4] == photos[4:8] and len(set(photos)) > 1
    for photo, (truth, drawn), phrases in shown:
        assert truth and len(truth) == len(drawn) == len(phrases)
        for a, b, phrase in zip(truth, drawn, phrases, strict=True):
            assert a.any() and a.shape == photo.shape[:2]
            np.testing.assert_array_equal(a, b)
            assert phrase.endswith(" (IoU 1.00)") and len(phrase) > len(" (IoU 1.00)")


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 1, 8)])
def test_photos_are_the_same_on_any_mesh(data, right, shape):
    assert draw_truth(str(data), shape) == draw_truth(str(data), (1, 8, 1))


def test_two_hosts_draw_together_and_the_first_one_shows(data, right):
    first, second = several_hosts.run(draw_truth, str(data), [2, 4, 1])
    assert second == []
    assert first == draw_truth(str(data), (2, 4, 1))


def test_of_grey_masks_the_brighter_half_is_shown():
    bits = np.random.default_rng(0).integers(0, 2, (2, 16, 16), np.uint8)
    packed = np.packbits(bits, axis=-1)
    for masks in (packed, 255 * bits, 127 + bits):
        np.testing.assert_array_equal(pictures._unpack(masks, np.array([9, 5])), bits[:, :9, :5])


def test_photos_of_runs_that_draw_no_masks(data):
    config = small_data.make_config(data)
    config.log_images_every = 0
    arguments = None, None, None, None
    assert pictures.of_run(RunSettings.from_config(config), *arguments) is None
    config = small_data.make_config(data)
    config.loss.bce = config.loss.dice = 0.0
    assert pictures.of_run(RunSettings.from_config(config), *arguments) is None
