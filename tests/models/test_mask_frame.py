"""models/mask_frame.py: the frame of the photo against PyTorch's two resizes, and bits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from legion_jax.models import mask_frame
from legion_jax.models.mask_frame import inside, to_frame, unpack

CELLS, SAM, CANVAS = 32, 64, 104
LOGITS = np.random.default_rng(0).normal(size=(1, 2, CELLS, CELLS)).astype(np.float32)
# (rows and columns of SAM's canvas, rows and columns of the photo)
SIZES = {
    "as large as the canvas of SAM": ((64, 64), (64, 64)),
    "upscaled": ((64, 48), (100, 75)),
    "as large as the output": ((64, 64), (104, 104)),
    "downscaled": ((48, 64), (33, 44)),
    "far downscaled": ((64, 64), (7, 7)),
    "narrow": ((64, 21), (96, 31)),
    "one row": ((1, 64), (1, 96)),
    "one pixel": ((64, 64), (1, 1)),
    "crop one short of the canvas": ((63, 64), (95, 96)),
    "small crop": ((5, 3), (99, 60)),
}
run = jax.jit(functools.partial(to_frame, sam_size=SAM, canvas=CANVAS))


def torch_frame(logits, sam_size: int, resized, original) -> np.ndarray:
    """The published post-processing: upsample, crop, resize; no antialiasing anywhere."""
    resize = functools.partial(torch.nn.functional.interpolate, mode="bilinear",
                               align_corners=False, antialias=False)
    whole = resize(torch.from_numpy(logits), (sam_size, sam_size))
    return resize(whole[..., :resized[0], :resized[1]], original).numpy()


@pytest.mark.parametrize("resized, original", SIZES.values(), ids=SIZES.keys())
def test_frame_is_that_of_torch(resized, original):
    ours = run(LOGITS, np.array([resized]), np.array([original]))
    assert ours.shape == (1, 2, CANVAS, CANVAS) and ours.dtype == jnp.float32
    expected = torch_frame(LOGITS, SAM, resized, original)
    np.testing.assert_allclose(ours[..., :original[0], :original[1]], expected, atol=1e-5)


def test_frame_at_published_sizes():
    logits = np.random.default_rng(1).normal(size=(1, 1, 256, 256)).astype(np.float32)
    resized, original = (683, 1024), (1000, 1499)
    ours = to_frame(logits, np.array([resized]), np.array([original]), sam_size=1024, canvas=1504)
    np.testing.assert_allclose(ours[..., :1000, :1499],
                               torch_frame(logits, 1024, resized, original), atol=1e-4)


def test_rows_of_a_batch_have_sizes_of_their_own():
    resized = np.array([r for r, _ in SIZES.values()])
    original = np.array([o for _, o in SIZES.values()])
    logits = np.random.default_rng(2).normal(size=(len(SIZES), 3, CELLS, CELLS)).astype(np.float32)
    together = to_frame(logits, resized, original, sam_size=SAM, canvas=CANVAS)
    for i, (rows, columns) in enumerate(original):
        np.testing.assert_allclose(
            together[i, :, :rows, :columns],
            torch_frame(logits[i:i + 1], SAM, resized[i], (rows, columns))[0], atol=1e-5)


def test_one_executable_serves_every_size():
    run.clear_cache()
    for resized, original in SIZES.values():
        run(LOGITS, np.array([resized]), np.array([original]))
    assert run._cache_size() == 1


def test_bfloat16_logits_are_resized_in_float32():
    size = np.array([[64, 64]])
    ours = run(jnp.asarray(LOGITS, jnp.bfloat16), size, size)
    rounded = LOGITS.astype(jnp.bfloat16).astype(np.float32)
    np.testing.assert_allclose(ours[..., :64, :64],
                               torch_frame(rounded, SAM, (64, 64), (64, 64)), atol=1e-5)


def test_inside():
    expected = np.zeros((2, 4, 4), bool)
    expected[0, :3, :1] = expected[1, :4, :2] = True
    np.testing.assert_array_equal(inside(np.array([[3, 1], [4, 2]]), 4), expected)


def test_unpack_undoes_packbits():
    bits = np.random.default_rng(0).integers(0, 2, (3, 2, 16, 16), dtype=np.uint8)
    ours = jax.jit(unpack)(np.packbits(bits, axis=-1))
    assert ours.dtype == jnp.float32
    np.testing.assert_array_equal(ours, bits)


@pytest.mark.parametrize("tile", [mask_frame.TILE, 8])
def test_placed_bits_are_those_of_torch(monkeypatch, tile):
    """Bits of wanted masks, and the mean probability inside; in one tile and in many."""
    monkeypatch.setattr(mask_frame, "TILE", tile)
    resized, original = (np.array(list(x)) for x in zip(*SIZES.values(), strict=True))
    rows, wanted = len(SIZES), np.arange(len(SIZES)) % 4
    logits = np.random.default_rng(3).normal(size=(rows, 3, CELLS, CELLS)).astype(np.float32)
    packed, scores = jax.jit(functools.partial(mask_frame.place, sam_size=SAM, canvas=CANVAS))(
        logits, resized, original, wanted)
    assert packed.shape == (rows, 3, CANVAS, CANVAS // 8) and packed.dtype == np.uint8
    for i, (height, width) in enumerate(original):
        framed = torch_frame(logits[i:i + 1], SAM, resized[i], (int(height), int(width)))[0]
        bits = np.unpackbits(np.asarray(packed[i]), axis=-1).astype(bool)
        assert not bits[wanted[i]:].any() and not scores[i, wanted[i]:].any()
        for mask in range(min(wanted[i], 3)):
            positive = framed[mask] > 0
            # Only where a logit is zero up to rounding may the sign differ.
            differ = bits[mask, :height, :width] != positive
            assert (np.abs(framed[mask][differ]) < 1e-5).all()
            assert bits[mask].sum() == bits[mask, :height, :width].sum()  # nothing outside
            inside = framed[mask][positive].astype(np.float64)
            score = (1 / (1 + np.exp(-inside))).mean() if inside.size else 0
            np.testing.assert_allclose(scores[i, mask], score, rtol=1e-4)


def test_empty_masks_score_zero():
    packed, scores = mask_frame.place(np.zeros((1, 2, 8, 8), np.float32), np.array([[16, 16]]),
                                      np.array([[9, 9]]), np.array([2]), sam_size=16, canvas=16)
    assert not packed.any()
    np.testing.assert_array_equal(scores, [[0, 0]])
