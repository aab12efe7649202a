"""Shortcuts of the input pipeline: the pixels and bits of the plain way; reduced decoding."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from experiments import base
from input_pipeline.batches.examples import ExampleSpec, training_example
from input_pipeline.photos import images, regions
from input_pipeline.photos.views import CanvasView, CropView
from input_pipeline.records.record import SYNTHETIC, Record, Region
from input_pipeline.text import conversation
from input_pipeline.text.tokenizer import train_tokenizer

SIZES = [(336, 336), (336, 500), (337, 335), (64, 64), (64, 48), (51, 63), (1, 64), (128, 127),
         (1023, 1024), (200, 3)]


def textured(height, width, seed=0):
    """Waves and noise, uint8[Y, X, 3]: neither flat nor without any large shape."""
    y, x, colour = np.ogrid[:height, :width, :3]
    waves = (90 * np.sin(y / 37 + colour) * np.cos(x / 29 - colour)).astype(np.int16)
    noise = np.random.default_rng(seed).integers(-10, 11, (height, width, 3), np.int8)
    return (128 + waves + noise).astype(np.uint8)


def jpeg(pixels, orientation=None):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92, exif=exif)
    return file.getvalue()


def plain_clip(image, size):
    height, width = image.shape[:2]
    long = int(size * max(height, width) / min(height, width))
    new = (size, long) if height <= width else (long, size)
    resized = np.asarray(Image.fromarray(image).resize(new[::-1], Image.Resampling.BICUBIC))
    top, left = (new[0] - size) // 2, (new[1] - size) // 2
    return resized[top:top + size, left:left + size]


def plain_sam(image, longest, canvas):
    height, width = images.sam_size(*image.shape[:2], longest)
    padded = np.zeros((canvas, canvas, 3), np.uint8)
    padded[:height, :width] = Image.fromarray(image).resize(
        (width, height), Image.Resampling.BILINEAR)
    return padded, (height, width)


@pytest.mark.parametrize("height, width", SIZES)
def test_views_of_a_photo_are_those_of_its_array_and_of_the_plain_way(height, width):
    array = textured(height, width)
    photo = Image.fromarray(array)
    for size in (28, 64, 336):
        for source in (array, photo):
            view = images.clip_image(source, size)
            assert view.flags.writeable
            np.testing.assert_array_equal(view, plain_clip(array, size))
    for longest, canvas in ((64, 64), (64, 80), (128, 128)):
        if min(images.sam_size(height, width, longest)):
            wanted, inside = plain_sam(array, longest, canvas)
            for source in (array, photo):
                view, size = images.sam_image(source, longest, canvas)
                assert size == inside and view.flags.writeable
                np.testing.assert_array_equal(view, wanted)
    np.testing.assert_array_equal(np.asarray(photo), array)


def test_views_refuse_photos_of_another_mode():
    with pytest.raises(images.ImageError, match="in RGB, found L"):
        images.clip_image(Image.new("L", (9, 9)), 8)


def outcome(function, *args):
    try:
        return function(*args)
    except regions.RegionError as error:
        return str(error)


def test_bits_are_those_of_the_mask():
    rng, failures = np.random.default_rng(0), 0
    for number in range(600):
        height, width = (int(v) for v in rng.integers(1, 70 if number % 30 else 700, 2))
        polygons = [(rng.uniform(-0.3, 1.3, (rng.integers(3, 12), 2)) * [width, height]).reshape(-1)
                    for _ in range(rng.integers(1, 4))]
        if number % 7 == 0:  # columns that are full from top to bottom, the last one too
            left = int(rng.integers(width))
            polygons[0] = np.array([left, 0, width, 0, width, height, left, height])
        mask, bits = (outcome(f, polygons, height, width)
                      for f in (regions.polygons_to_mask, regions.polygons_to_bits))
        if isinstance(mask, str):
            failures += 1
            assert bits == mask
        else:
            np.testing.assert_array_equal(bits, np.packbits(mask.astype(bool), axis=1))
    assert 0 < failures < 100


def test_the_prompt_is_kept_and_cannot_be_spoilt(tokenizer):
    first = conversation.encode_prompt(tokenizer)
    first[:] = 0
    assert conversation.encode_prompt(tokenizer)[0] == tokenizer.bos_id


@pytest.mark.parametrize("sides, needed, wanted", [
    ((4000, 3000), (336, 1024), (2000, 1500)),  # half is 1.95 times what is needed
    ((4000, 3000), (224, 512), (1000, 750)),
    ((4001, 3001), (336, 1024), (2001, 1501)),
    ((3071, 2300), (336, 1024), (3071, 2300)),  # half would be just below the gap
    ((3072, 2300), (336, 1024), (1536, 1150)),
    ((4000, 900), (336, 1024), (4000, 900)),  # the short side decides
    ((4000, 3000), (64, 64), (500, 375)),
])
def test_the_scale_of_decoding(sides, needed, wanted):
    content = jpeg(np.zeros((sides[1], sides[0], 3), np.uint8))
    photo, size = images.read_photo(content, at_least=needed)
    assert photo.size == wanted and size == (sides[1], sides[0])


def test_other_formats_and_the_default_are_decoded_whole():
    pixels = textured(300, 400)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    np.testing.assert_array_equal(
        np.asarray(images.read_photo(file.getvalue(), at_least=(8, 8))[0]), pixels)
    assert images.read_image(jpeg(pixels)).shape == (300, 400, 3)
    assert images.read_photo(jpeg(pixels), at_least=(100, 130))[0].size == (200, 150)
    assert not base.get_config().data.reduced_decoding


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer([conversation.build_prompt(), "The left hand has six fingers."], 400,
                           tmp_path_factory.mktemp("tokenizer") / "made")


def record_of(content, polygon):
    return Record(id="train_0", dataset="made", file_name="0.jpg", group_id="0", image=content,
                  caption="The left hand has six fingers.", label=SYNTHETIC, has_masks=True,
                  regions=[Region("The left hand", 0, 13, polygons=[polygon])])


@pytest.mark.parametrize("orientation", [None, 6, 3, 8])
def test_reduced_examples_differ_in_pixels_alone(tokenizer, orientation):
    stored = textured(3000, 4000)
    height, width = (4000, 3000) if orientation in (6, 8) else (3000, 4000)
    polygon = [100.5, 200, width - 90, 300, width / 2, height - 50.5]  # as a viewer shows it
    record = record_of(jpeg(stored, orientation), polygon)
    full = ExampleSpec(CropView(336), CanvasView(1024, 1024), 961, 2, 1024,
                       conversation.INSTRUCTION)
    reduced = dataclasses.replace(full, reduced_decoding=True)
    first, second = (training_example(tokenizer, spec, record) for spec in (full, reduced))
    for name in first.keys() - {"vision_image", "sam_image"}:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert tuple(first["original_size"]) == (1024 * height // max(height, width),
                                             1024 * width // max(height, width))
    for name in ("vision_image", "sam_image"):
        difference = np.abs(first[name].astype(int) - second[name])
        assert 0 < difference.mean() < 1.5 and difference.max() < 40, name
