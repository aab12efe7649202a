"""Damage for the robustness evaluation: what each does, that it repeats, and what is refused."""

import numpy as np
import pytest

from input_pipeline.errors import UserError
from input_pipeline.photos.perturbations import GRID, blur_sigma, perturb


@pytest.fixture(scope="module")
def photo():
    rows, columns = np.mgrid[0:60, 0:90]
    wave = 127 + 60 * np.sin(rows / 5) + 60 * np.cos(columns / 7)
    return np.stack([wave, wave[:, ::-1], wave[::-1]], -1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", GRID)
def test_levels_repeat_and_grow(photo, name):
    worst = 0.0
    for level in GRID[name]:
        before = photo.copy()
        first, second = (perturb(photo, name, level, record_id="a") for _ in range(2))
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(photo, before)
        assert first.shape == photo.shape and first.dtype == np.uint8
        error = np.abs(first.astype(float) - photo).mean()
        assert error > worst or name == "web" and error > 0
        worst = error


def test_noise_belongs_to_the_record_and_has_its_sigma():
    grey = np.full((200, 200, 3), 128, np.uint8)
    first, second = (perturb(grey, "noise", 0.05, record_id=i).astype(float) for i in "ab")
    assert abs((first - 128).std() / 255 - 0.05) < 0.001 and abs((first - 128).mean()) < 0.2
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.01


def test_blur_is_the_gaussian_of_its_kernel():
    dot = np.zeros((31, 31, 3), np.uint8)
    dot[15, 15] = 255
    out = perturb(dot, "blur", 7, record_id="")[..., 0].astype(float)
    assert blur_sigma(3) == 0.8 and blur_sigma(7) == pytest.approx(1.4)
    offsets = np.arange(-3, 4)
    weights = np.exp(-offsets ** 2 / (2 * 1.4 ** 2))
    weights /= weights.sum()
    np.testing.assert_allclose(out[12:19, 12:19], 255 * np.outer(weights, weights), atol=0.51)
    assert out.sum() == out[12:19, 12:19].sum()  # nothing beyond the kernel


def test_blur_keeps_a_flat_photo_flat_up_to_its_border():
    flat = np.full((5, 40, 3), 77, np.uint8)
    np.testing.assert_array_equal(perturb(flat, "blur", 15, record_id=""), flat)


@pytest.mark.parametrize("name, level", [
    ("fog", 1), ("noise", -0.1), ("noise", 101), ("blur", 4), ("blur", 2.5), ("jpeg", 0),
    ("jpeg", 100), ("resize", 1), ("resize", 0)])
def test_what_cannot_be_done_is_named(photo, name, level):
    with pytest.raises(UserError, match=f"{name}.*{level}|no perturbation 'fog'; known: noise"):
        perturb(photo, name, level, record_id="")


def test_the_published_noise_leaves_black_and_white():
    grey = np.full((50, 50, 3), 128, np.uint8)
    out = perturb(grey, "noise", 25.5, record_id="")
    assert np.isin(out, (0, 255)).mean() > 0.97
