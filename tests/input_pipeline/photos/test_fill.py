"""input_pipeline/photos/fill.py against OpenCV, which nothing but this test uses."""

import numpy as np
import pytest

from input_pipeline.photos import regions
from input_pipeline.photos.fill import fill_polygon

cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless")


def filled(points, height, width):
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.asarray(points, np.int32)], 1)
    return mask


def polygon(rng, kind):
    """(points, height, width): 0 and 1 inside, 2 to 4 beyond the borders, 1 round, 5 thin."""
    height, width = (int(side) for side in rng.integers(1, 90, 2))
    number = int(rng.integers(1, 41 if kind == 1 else 14))
    far = (1, 1, 1.05, 3, 20, 1)[kind]
    points = (rng.random((number, 2)) - 0.5) * [width * far, height * far] + [width / 2, height / 2]
    if kind == 1:
        angle = np.sort(rng.random(number)) * 2 * np.pi
        points = np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(1, 40)
        points += rng.random(2) * [width, height]
    if kind == 5:
        points[:, int(rng.integers(2))] %= 3
    return np.trunc(points).astype(np.int64), height, width


@pytest.mark.parametrize("seed", [0, *(
    pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_pixels_are_those_of_opencv(seed):
    rng = np.random.default_rng(seed)
    for number in range(600 if seed == 0 else 5000):
        points, height, width = polygon(rng, number % 6)
        np.testing.assert_array_equal(fill_polygon(points, height, width),
                                      filled(points, height, width), err_msg=str(points.tolist()))


def test_a_region_is_filled_polygon_by_polygon_from_truncated_points():
    rings = [[2.9, 3.9, 50.2, -0.7, 30.5, 60.99, -5.5, 20.1], [10, 10, 20, 10.9, 20.9, 20.9]]
    wanted = np.zeros((48, 64), np.uint8)
    for ring in rings:
        wanted |= filled(np.trunc(ring).reshape(-1, 2), 48, 64)
    np.testing.assert_array_equal(
        regions.polygons_to_mask(rings, 48, 64, rasteriser="fillpoly"), wanted)


def test_a_large_photo():
    rng = np.random.default_rng(0)
    points = rng.integers(-2000, 8000, (60, 2))
    np.testing.assert_array_equal(fill_polygon(points, 4000, 6000), filled(points, 4000, 6000))
