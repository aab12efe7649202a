"""input_pipeline/photos/fill.py against what OpenCV filled, and OpenCV where it is installed.

It is not among what the tests install: TFDS, too, would use it where it is. `python
tests/input_pipeline/photos/test_fill.py` writes FILLS anew with the one that is installed.
"""

import pathlib

import numpy as np
import pytest

from input_pipeline.photos import regions
from input_pipeline.photos.fill import fill_polygon

FILLS = pathlib.Path(__file__).parent / "opencv_fills.npz"


@pytest.fixture(scope="module")
def cv2():
    return pytest.importorskip("cv2", reason="needs opencv-python-headless")


def filled(cv2, points, height, width):
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


def test_pixels_are_those_that_opencv_filled():
    """480 polygons of all kinds, by OpenCV 4.14; 5.0 fills the same."""
    stored, points, bits = np.load(FILLS), 0, 0
    for height, width, number in stored["sizes"]:
        ring = stored["points"][points:points + number]
        size = -(-height * width // 8)
        wanted = np.unpackbits(stored["masks"][bits:bits + size])[:height * width]
        np.testing.assert_array_equal(fill_polygon(ring, height, width).ravel(), wanted,
                                      err_msg=str(ring.tolist()))
        points, bits = points + number, bits + size
    assert (points, bits) == (len(stored["points"]), len(stored["masks"]))
    assert len(stored["sizes"]) == 480


@pytest.mark.parametrize("seed", [0, *(
    pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_pixels_are_those_of_opencv(cv2, seed):
    rng = np.random.default_rng(seed)
    for number in range(600 if seed == 0 else 5000):
        points, height, width = polygon(rng, number % 6)
        np.testing.assert_array_equal(fill_polygon(points, height, width),
                                      filled(cv2, points, height, width),
                                      err_msg=str(points.tolist()))


def test_a_region_is_filled_polygon_by_polygon_from_truncated_points(cv2):
    rings = [[2.9, 3.9, 50.2, -0.7, 30.5, 60.99, -5.5, 20.1], [10, 10, 20, 10.9, 20.9, 20.9]]
    wanted = np.zeros((48, 64), np.uint8)
    for ring in rings:
        wanted |= filled(cv2, np.trunc(ring).reshape(-1, 2), 48, 64)
    np.testing.assert_array_equal(
        regions.polygons_to_mask(rings, 48, 64, rasteriser="fillpoly"), wanted)


def test_a_large_photo(cv2):
    rng = np.random.default_rng(0)
    points = rng.integers(-2000, 8000, (60, 2))
    np.testing.assert_array_equal(fill_polygon(points, 4000, 6000), filled(cv2, points, 4000, 6000))


def write() -> None:
    import cv2
    rng, sizes, rings, masks = np.random.default_rng(7), [], [], []
    for number in range(480):
        points, height, width = polygon(rng, number % 6)
        sizes.append((height, width, len(points)))
        rings.append(points)
        masks.append(np.packbits(filled(cv2, points, height, width).ravel()))
    np.savez_compressed(FILLS, sizes=np.array(sizes), points=np.concatenate(rings),
                        masks=np.concatenate(masks))


if __name__ == "__main__":
    write()
