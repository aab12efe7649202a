"""Polygons, run lengths and bit-packed masks."""

import json
import math

import numpy as np
import pytest
from scipy import ndimage

from input_pipeline.photos.regions import (
    RASTERISERS,
    RegionError,
    mask_to_bits,
    mask_to_png,
    mask_to_rle,
    place_bits,
    png_to_mask,
    polygons_to_mask,
    rle_to_mask,
    unpack_masks,
)

SQUARE = [2, 1, 6, 1, 6, 4, 2, 4]  # x 2..6, y 1..4


def test_square_covers_its_pixels():
    mask = polygons_to_mask([SQUARE], 8, 10)
    expected = np.zeros((8, 10), np.uint8)
    expected[1:4, 2:6] = 1
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, expected)


def test_overlapping_polygons_join_and_stay_binary():
    other = [4, 2, 9, 2, 9, 7, 4, 7]
    joined = polygons_to_mask([SQUARE, other], 8, 10)
    parts = [polygons_to_mask([polygon], 8, 10) for polygon in (SQUARE, other)]
    np.testing.assert_array_equal(joined, parts[0] | parts[1])
    assert joined.max() == 1


def test_rounding_beyond_the_border_is_clipped():
    inside = polygons_to_mask([[0, 0, 10, 0, 10, 8, 0, 8]], 8, 10)
    beyond = polygons_to_mask([[-1e-12, -0.5, 10.5, -0.5, 10.9, 8.2, 0, 8.7]], 8, 10)
    np.testing.assert_array_equal(inside, beyond)
    assert inside.all()


def test_far_points_are_cut_at_the_border():
    mask = polygons_to_mask([[5, 2, 40, 2, 40, 6, 5, 6]], 8, 10)
    expected = np.zeros((8, 10), np.uint8)
    expected[2:6, 5:] = 1
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("polygons", "message"),
    [
        ([], "no polygon"),
        ([[1, 1, 5, 5]], "fewer than 3 points: 2"),
        ([[]], "fewer than 3 points: 0"),
        ([[1, 1, 5, 1, 5]], "odd number of values: 5"),
        ([[1, 1, 5, 1, math.nan, 5]], "not finite"),
        ([[1, 1, 5, 1, math.inf, 5]], "not finite"),
        ([[20, 1, 25, 1, 25, 5]], "wholly outside the 10x8 image"),
        ([[1, -9, 5, -9, 5, -3]], "wholly outside"),
        ([[3, 3, 3, 3, 3, 3]], "covers no pixel"),
        ([["a", 1, 5, 1, 5, 5]], "not a flat list of numbers"),
        ([[[1, 1], [5, 1], [5, 5]]], "not a flat list of numbers"),
        ([None], "not a flat list of numbers"),
        ([SQUARE, [1, 1]], "fewer than 3 points: 1"),
    ],
)
def test_unusable_polygons_are_named(polygons, message):
    with pytest.raises(RegionError, match=message):
        polygons_to_mask(polygons, 8, 10)


@pytest.mark.parametrize("rasteriser", ["coco", "fillpoly"])
def test_edges_that_would_take_the_memory_are_refused(rasteriser):
    corners = [[-9900, -9900], [9900, 9900], [-9900, 9900], [9900, -9900]] * 60
    zigzag = [500.0, 500.0, *np.ravel(corners).tolist()]
    with pytest.raises(RegionError, match="edges of more than 4194304 pixels"):
        polygons_to_mask([zigzag], 1000, 1000, rasteriser=rasteriser)
    with pytest.raises(RegionError, match="edges of more than 4194304 pixels"):
        polygons_to_mask([zigzag[:202]] * 3, 1000, 1000, rasteriser=rasteriser)
    assert polygons_to_mask([zigzag[:202]], 1000, 1000, rasteriser=rasteriser).any()


def test_packing_round_trip_pads_right_and_bottom():
    masks = np.random.default_rng(0).integers(0, 2, (3, 11, 13), np.uint8)
    packed, valid = place_bits(mask_to_bits(masks), 5, 16)
    assert packed.shape == (5, 16, 2) and packed.dtype == np.uint8
    np.testing.assert_array_equal(valid, [True, True, True, False, False])
    full = unpack_masks(packed)
    np.testing.assert_array_equal(full[:3, :11, :13], masks)
    assert full.sum() == masks.sum()


def test_leftmost_pixel_is_the_highest_bit():
    mask = np.zeros((1, 8, 16), np.uint8)
    mask[0, 0, 0] = mask[0, 1, 9] = 1
    packed, _ = place_bits(mask_to_bits(mask), 1, 16)
    assert packed[0, 0].tolist() == [0b10000000, 0] and packed[0, 1].tolist() == [0, 0b01000000]


def test_no_masks_give_empty_slots():
    packed, valid = place_bits([], 2, 8)
    assert not packed.any() and not valid.any()


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 4, 9), (1, 9, 4)])
def test_packing_refuses_what_does_not_fit(shape):
    with pytest.raises((IndexError, ValueError)):
        place_bits(mask_to_bits(np.ones(shape, np.uint8)), 2, 8)


def test_run_lengths_round_trip_through_json():
    mask = polygons_to_mask([SQUARE], 8, 10)
    rle = json.loads(json.dumps(mask_to_rle(mask)))
    assert rle["size"] == [8, 10]
    np.testing.assert_array_equal(rle_to_mask(rle), mask)
    np.testing.assert_array_equal(rle_to_mask(mask_to_rle(mask.astype(bool) * True)), mask)


@pytest.mark.parametrize("rle", [{}, {"size": [2, 2]}, {"size": [2], "counts": "04"}, None])
def test_broken_run_lengths_are_named(rle):
    with pytest.raises(RegionError, match="size"):
        rle_to_mask(rle)


@pytest.mark.parametrize("size, counts", [
    ([2 ** 31, 2 ** 31], "04"), ([-1, 4], "04"), ([0, 0], "0"), ([10, 10], "04"),
    ([2, 2], "PPYo0"), ([2, 2], "0oooooooooooooooooo4"), ([2, 2], ""), ([2, 2], "\n")])
def test_run_lengths_that_are_not_those_of_their_pixels(size, counts):
    """pycocotools would write outside its memory."""
    with pytest.raises(RegionError, match="run-length code"):
        rle_to_mask({"size": size, "counts": counts})


def test_the_size_of_a_mask_is_looked_at_before_it_is_decoded(monkeypatch):
    content = mask_to_png(np.ones((50, 60), np.uint8))
    monkeypatch.setattr("input_pipeline.photos.images.MAX_PIXELS", 2999)
    with pytest.raises(RegionError, match="60 x 50 pixels, limit 2999"):
        png_to_mask(content)


def test_the_two_rasterisers_of_the_papers():
    square = [[5, 5, 15, 5, 15, 15, 5, 15]]
    coco, fill = (polygons_to_mask(square, 30, 40, rasteriser=name) for name in RASTERISERS)
    assert coco.sum() == 100 and fill.sum() == 121
    np.testing.assert_array_equal(np.argwhere(fill)[[0, -1]], [[5, 5], [15, 15]])
    np.testing.assert_array_equal(np.argwhere(coco)[[0, -1]], [[5, 5], [14, 14]])
    with pytest.raises(RegionError, match="rasteriser: coco or fillpoly, not 'cv2'"):
        polygons_to_mask(square, 30, 40, rasteriser="cv2")


@pytest.mark.parametrize("seed", range(10))
def test_rasterisers_differ_by_a_ring_of_one_pixel(seed):
    rng = np.random.default_rng(seed)
    turns = np.sort(rng.random(7)) * 2 * np.pi
    points = 40 + np.stack([np.cos(turns), np.sin(turns)], 1) * rng.uniform(15, 35, (7, 1))
    coco, fill = (polygons_to_mask([points.ravel()], 80, 80, rasteriser=name).astype(bool)
                  for name in RASTERISERS)
    wide = ndimage.binary_dilation(coco, np.ones((3, 3)))
    narrow = ndimage.binary_erosion(coco, np.ones((3, 3)), border_value=1)
    # Truncated points move by up to a pixel, so two rings: one for them, one for the border.
    assert not (fill & ~ndimage.binary_dilation(wide, np.ones((3, 3)))).any()
    assert not (ndimage.binary_erosion(narrow, np.ones((3, 3)), border_value=1) & ~fill).any()
    assert fill.sum() > coco.sum()


def test_points_are_truncated_and_lines_are_not_empty():
    mask = polygons_to_mask([[2.9, 3.9, 5.9, 3.9, 5.9, 3.2]], 8, 10, rasteriser="fillpoly")
    assert np.argwhere(mask).tolist() == [[3, 2], [3, 3], [3, 4], [3, 5]]
    mask = polygons_to_mask([[9.5, 0, 10, 0, 10, 8, 9.5, 8]], 8, 10, rasteriser="fillpoly")
    assert mask.sum() == 8  # cut off at the border
