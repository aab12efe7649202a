"""Masks as pictures: each written rule on every kind of file, and against shapes drawn apart."""


import numpy as np
import pytest
from hostile_images import encoded
from PIL import Image, ImageFilter

from input_pipeline.photos import mask_pictures
from input_pipeline.photos.regions import RegionError

TRUE = np.zeros((60, 80), bool)
TRUE[20:50, 30:70] = True
WHITE = TRUE.astype(np.uint8) * 255
PHOTO = np.random.default_rng(0).integers(1, 256, (60, 80, 3), np.uint8)


def layer(colour, opacity):
    pixels = np.zeros((60, 80, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = colour, opacity
    return Image.fromarray(pixels)


def palette(numbers, colours, **options):
    image = Image.fromarray(numbers.astype(np.uint8), "P")
    image.putpalette(colours)
    return encoded(image, **options)


NUMBERS = TRUE.astype(np.uint8)
SAME = {
    "grey": encoded(Image.fromarray(WHITE)), "bits": encoded(Image.fromarray(WHITE).convert("1")),
    "RGB": encoded(Image.fromarray(WHITE).convert("RGB")),
    "numbers": encoded(Image.fromarray(NUMBERS)), "last": encoded(Image.fromarray(NUMBERS * 31)),
    "several classes": encoded(Image.fromarray(NUMBERS * np.arange(1, 81, dtype=np.uint8) % 7
                                               + NUMBERS)),
    "16 bits": encoded(Image.fromarray(WHITE.astype(np.uint16) * 257)),
    "16 bits, numbers": encoded(Image.fromarray(NUMBERS.astype(np.uint16))),
    "one colour": encoded(Image.fromarray(WHITE[..., None] * np.array([1, 0, 0], np.uint8))),
    "opaque": encoded(layer(WHITE[..., None], 255)), "faint": encoded(layer(WHITE[..., None], 99)),
    "white strokes": encoded(layer(255, WHITE)), "black strokes": encoded(layer(0, WHITE)),
    "strokes of a painter": encoded(layer(WHITE[..., None], WHITE)),
    "LA": encoded(Image.fromarray(np.dstack([np.full_like(WHITE, 255), WHITE]), "LA")),
    "background of 1": encoded(Image.fromarray(np.where(TRUE, 255, 1).astype(np.uint8))),
    "palette": palette(TRUE, [0, 0, 0, 255, 0, 0]),
    "palette, white first": palette(~TRUE, [255, 255, 255, 0, 0, 0]),
    "palette, transparent": palette(TRUE, [9, 9, 9, 9, 9, 9], transparency=0),
    "TIFF": encoded(Image.fromarray(WHITE), "TIFF"), "WebP": encoded(
        Image.fromarray(WHITE), "WEBP", lossless=True)}


@pytest.mark.parametrize("kind", SAME)
def test_the_mask_is_what_everyone_sees(kind):
    read = mask_pictures.read(SAME[kind])
    np.testing.assert_array_equal(read.mask, TRUE)
    assert read.grey == 0


REFUSED = {
    "a photo": (encoded(Image.fromarray(PHOTO).convert("L")), "grey in"),
    "a photo with a hole": (encoded(Image.fromarray(np.dstack([PHOTO, 255 - WHITE]))),
                            "colours and transparency"),
    "inverted": (encoded(Image.fromarray(255 - WHITE)), "whole border"),
    "inverted strokes": (encoded(layer(255, 255 - WHITE)), "whole border"),
    "1 everywhere": (encoded(Image.fromarray(WHITE * 0 + 1)), "1 everywhere"),
    "nothing to see": (encoded(layer(255, 0)), "wholly transparent"),
    "254 and 255": (encoded(Image.fromarray(NUMBERS + 254)), "neither of them black"),
    "torn": (encoded(Image.fromarray(WHITE))[:40], "not an image")}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_mean_two_things_is_refused(kind):
    content, words = REFUSED[kind]
    with pytest.raises(RegionError, match=words):
        mask_pictures.read(content)


@pytest.mark.parametrize("value", [0, 255])
def test_one_value(value):
    assert (mask_pictures.read(encoded(Image.fromarray(WHITE * 0 + np.uint8(value)))).mask
            == bool(value)).all()


@pytest.mark.parametrize("quality", [20, 50, 75, 95])
def test_masks_that_were_jpegs(quality):
    """Drawn twice as large and averaged, the disc says itself which pixels are half covered."""
    y, x = np.mgrid[:240, :320]
    disc = (y - 100) ** 2 + (x - 150) ** 2 < 40 ** 2
    read = mask_pictures.read(encoded(Image.fromarray(disc.astype(np.uint8) * 255), "JPEG",
                                      quality=quality))
    assert 0 < read.grey < 0.3
    assert abs(int(read.mask.sum()) - int(disc.sum())) < 0.01 * disc.sum()
    assert (read.mask != disc).sum() < 0.02 * disc.sum()


@pytest.mark.parametrize("seed", range(30))
def test_feathered_masks_keep_their_half(seed):
    rng = np.random.default_rng(seed)
    true = np.zeros((150, 200), np.uint8)
    top, left = rng.integers(20, 60, 2)
    true[top:top + rng.integers(30, 60), left:left + rng.integers(30, 90)] = 255
    soft = Image.fromarray(true).filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 8))))
    read = mask_pictures.read(encoded(soft))
    np.testing.assert_array_equal(read.mask, np.asarray(soft) >= 128)
    assert 0 < read.grey < 0.6
    assert abs(int(read.mask.sum()) - int((true > 0).sum())) < 0.2 * (true > 0).sum()


def test_a_data_set_that_says_so_may_mask_a_background():
    content = encoded(Image.fromarray(255 - WHITE))
    read = mask_pictures.read(content, background_may_be_masked=True)
    np.testing.assert_array_equal(read.mask, ~TRUE)
