"""input_pipeline/photos/images.py: decoding of every kind of file, and the two views of a photo."""

import io

import numpy as np
import pytest
from hostile_images import empty_png, encoded
from PIL import Image, ImageCms

from input_pipeline.datasets.checks import says_image, shown_size
from input_pipeline.photos.images import (
    ImageError,
    check_bytes,
    clip_image,
    read_image,
    read_size,
    sam_image,
    sam_size,
)

COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 99, 199]], [[0] * 3, [255] * 3]],
                   np.uint8)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_rgb_from_bytes_and_path(tmp_path):
    data = encoded(Image.fromarray(COLOURS))
    image = read_image(data)
    assert image.dtype == np.uint8 and image.flags.writeable
    np.testing.assert_array_equal(image, COLOURS)
    (tmp_path / "photo.png").write_bytes(data)
    np.testing.assert_array_equal(read_image(tmp_path / "photo.png"), COLOURS)
    np.testing.assert_array_equal(read_image(str(tmp_path / "photo.png")), COLOURS)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encoded(Image.fromarray(COLOURS), exif=exif)
    upright = {
        1: COLOURS,
        2: COLOURS[:, ::-1],
        3: COLOURS[::-1, ::-1],
        4: COLOURS[::-1],
        5: COLOURS.swapaxes(0, 1),
        6: np.rot90(COLOURS, -1),
        7: np.rot90(COLOURS, 2).swapaxes(0, 1),
        8: np.rot90(COLOURS),
    }[orientation]
    np.testing.assert_array_equal(read_image(stored), upright)


def test_broken_exif_does_not_lose_the_photo():
    stored = encoded(Image.fromarray(COLOURS), exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff")
    np.testing.assert_array_equal(read_image(stored), COLOURS)


def test_grey_and_one_bit():
    grey = np.array([[0, 7, 255]], np.uint8)
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(grey)))[..., 1], grey)
    bits = encoded(Image.fromarray(grey > 100))
    np.testing.assert_array_equal(read_image(bits)[0, :, 2], [0, 0, 255])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_scaled_and_not_clipped(kind):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    image = read_image(encoded(Image.fromarray(values), kind))
    assert image.shape == (1, 6, 3)
    np.testing.assert_array_equal(image[0, :, 0], [0, 0, 1, 1, 128, 255])


def test_values_without_a_range_are_refused():
    floats = encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF")
    with pytest.raises(ImageError, match="floats.tiff: floating-point pixels"):
        read_image(floats, name="floats.tiff")
    wide = encoded(Image.fromarray(np.full((2, 2), 70000, np.int32)), "TIFF")
    with pytest.raises(ImageError, match="wide: grey values 70000 to 70000 exceed 16 bits"):
        read_image(wide, name="wide")


def test_palette_and_transparency():
    palette = Image.fromarray(COLOURS).quantize(6)
    np.testing.assert_array_equal(read_image(encoded(palette)), COLOURS)
    see_through = encoded(palette, transparency=bytes(range(6)))
    np.testing.assert_array_equal(read_image(see_through), COLOURS)
    alpha = np.dstack([COLOURS, np.full((3, 2), 10, np.uint8)])
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(alpha))), COLOURS)


def test_cmyk():
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    image = read_image(encoded(cmyk, "JPEG", quality=100))
    assert image.shape == (16, 16, 3)
    assert np.abs(image.astype(int) - [255, 0, 0]).max() < 8


def test_a_colour_profile_changes_no_value():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    np.testing.assert_array_equal(
        read_image(encoded(Image.fromarray(COLOURS), icc_profile=profile)), COLOURS)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (read_image(data) == [255, 0, 0]).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_transparency_of_grey_is_dropped(kind):
    values = np.array([[[0, 255], [7, 0]], [[200, 9], [255, 128]]], np.uint8)
    stored = encoded(Image.fromarray(values), kind)
    assert Image.open(io.BytesIO(stored)).mode == "LA"
    np.testing.assert_array_equal(read_image(stored), np.repeat(values[..., :1], 3, -1))


def test_the_first_picture_of_a_phones_file_is_read():
    """Behind it stands a second view, or a gain map, which is smaller and grey."""
    photo = Image.fromarray(noise(24, 40))
    alone = read_image(encoded(photo, "JPEG", quality=95))
    for second in (Image.fromarray(noise(24, 40, seed=1)), Image.new("L", (20, 12), 128)):
        stored = encoded(photo, "MPO", save_all=True, append_images=[second], quality=95)
        assert Image.open(io.BytesIO(stored)).n_frames == 2
        np.testing.assert_array_equal(read_image(stored), alone)
        assert shown_size(stored, "photo") == (24, 40)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_files_are_named(kind, tmp_path):
    data = encoded(Image.fromarray(noise(64, 64)), kind)
    path = tmp_path / "cut.img"
    for keep in (len(data) // 2, len(data) // 10, 8):
        path.write_bytes(data[:keep])
        with pytest.raises(ImageError, match=r"cut\.img: [^\n]+$"):
            read_image(path)


@pytest.mark.parametrize("data", [b"", b"hello, this is text", b"\x89PNG\r\n\x1a\n" + b"x" * 40])
def test_what_is_no_image_is_named(data):
    with pytest.raises(ImageError, match="upload 7: "):
        read_image(data, name="upload 7")
    with pytest.raises(ImageError, match=f"image of {len(data)} bytes: "):
        read_image(data)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(ImageError, match="none.png: No such file or directory"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="Is a directory"):
        read_image(tmp_path)


@pytest.mark.parametrize("block", [
    b"\xff\xe1\xff\xffExif\0\0" + bytes(65527), b"\xff\xfe\0\2", b"\xff\xff\0\xed\0\4ab"])
def test_metadata_that_would_take_minutes_is_refused(block, tmp_path):
    photo = encoded(Image.fromarray(noise(64, 64)), "JPEG")
    few, many = (photo[:2] + block * number + photo[2:] for number in (20, 5000))
    assert read_image(few).shape == (64, 64, 3)
    (tmp_path / "a.jpg").write_bytes(many)
    for source in (many, tmp_path / "a.jpg"):
        with pytest.raises(ImageError, match="more than 16777216 bytes or 4096 blocks of metadata"):
            read_image(source)


def test_padding_that_would_take_minutes_is_refused():
    photo = encoded(Image.fromarray(noise(64, 64)), "JPEG")
    assert read_image(photo[:2] + b"\xff" * 100 + photo[2:]).shape == (64, 64, 3)
    with pytest.raises(ImageError, match="of metadata"):
        read_image(photo[:2] + b"\xff" * 10_000_000 + photo[2:])


def test_decompression_bombs_are_refused_with_their_size(monkeypatch):
    with pytest.raises(ImageError, match="bomb: .*400000000"):
        read_image(empty_png(20000, 20000), name="bomb")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageError, match="bomb: 20000 x 20000 pixels, limit 178956970"):
        read_image(empty_png(20000, 20000), name="bomb")


def test_the_header_alone_tells_the_size():
    assert read_size(empty_png(400, 300)) == (300, 400)  # its pixels are missing
    with pytest.raises(ImageError):
        read_image(empty_png(400, 300))
    with pytest.raises(ImageError, match="bomb: .*400000000"):
        read_size(empty_png(20000, 20000), name="bomb")
    with pytest.raises(ImageError, match="strip: 201 x 1 pixels, one side exceeds"):
        read_size(empty_png(201, 1), name="strip")
    with pytest.raises(ImageError, match="notes.txt: not an image"):
        read_size(b"text", name="notes.txt")


def test_large_files_are_refused_with_both_numbers():
    check_bytes(10, 10, name="a")
    with pytest.raises(ImageError, match="a.jpg: 11 bytes, limit 10"):
        check_bytes(11, 10, name="a.jpg")


def test_very_narrow_images_are_refused():
    narrow = np.zeros((1, 201, 3), np.uint8)
    with pytest.raises(ImageError, match="strip: 201 x 1 pixels, one side exceeds 200 times"):
        read_image(encoded(Image.fromarray(narrow)), name="strip")
    for view in (lambda image: clip_image(image, 8), lambda image: sam_image(image, 64, 64)):
        with pytest.raises(ImageError, match="201 x 1 pixels"):
            view(narrow)
    assert clip_image(narrow[:, :200], 8).shape == (8, 8, 3)
    with pytest.raises(ImageError, match="200 x 1 pixels vanish when the longer side is 64"):
        sam_image(narrow[:, :200], 64, 64)


@pytest.mark.parametrize(
    "image", [np.zeros((2, 2, 3)), np.zeros((2, 2), np.uint8), np.zeros((0, 2, 3), np.uint8)]
)
def test_views_refuse_other_arrays(image):
    with pytest.raises(ImageError):
        clip_image(image, 8)
    with pytest.raises(ImageError):
        sam_image(image, 8, 8)


def test_clip_view_is_the_centre_square():
    image = np.zeros((8, 24, 3), np.uint8)
    image[:, 8:16] = 200
    np.testing.assert_array_equal(clip_image(image, 8), np.full((8, 8, 3), 200))
    np.testing.assert_array_equal(clip_image(image.swapaxes(0, 1), 8), np.full((8, 8, 3), 200))
    wide = noise(8, 13)
    np.testing.assert_array_equal(clip_image(wide, 8), wide[:, 2:10])  # margins 2 and 3


@pytest.mark.parametrize("height, width", [(5, 9), (40, 31), (336, 336), (7, 7), (400, 63)])
def test_views_have_their_sizes(height, width):
    image = noise(height, width)
    view = clip_image(image, 28)
    assert (view.shape, view.dtype) == ((28, 28, 3), np.uint8)
    padded, size = sam_image(image, 48, 64)
    assert (padded.shape, padded.dtype) == ((64, 64, 3), np.uint8)
    assert size == sam_size(height, width, 48) and max(size) == 48
    assert not padded[size[0] :].any() and not padded[:, size[1] :].any()


@pytest.mark.parametrize(
    "height, width, size",
    [(213, 320, (682, 1024)), (310, 230, (1024, 760)), (2, 1024, (2, 1024)), (3, 2048, (2, 1024))],
)
def test_sam_size_rounds_halves_up(height, width, size):
    assert sam_size(height, width, 1024) == size


def test_sam_view_at_its_own_size_is_the_image():
    image = noise(10, 16)
    padded, size = sam_image(image, 16, 20)
    assert size == (10, 16)
    np.testing.assert_array_equal(padded[:10, :16], image)
    with pytest.raises(ImageError, match="longest side 24 does not fit the canvas of 20"):
        sam_image(image, 24, 20)


@pytest.mark.parametrize("name", ["a.JPG", "a.jfif", "a.jpe", "a.avif", "a.jp2", "a.ppm", "a.mpo",
                                  "a.b.webp", "a.pgm", "a.apng"])
def test_names_of_photos(name):
    assert says_image(name) and not says_image(f"{name}.txt") and not says_image(f".{name}")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_shown_size_is_that_of_the_decoded_photo(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encoded(Image.fromarray(noise(24, 40)), kind, exif=exif)
    wanted = (40, 24) if orientation > 4 else (24, 40)
    assert shown_size(stored, "photo") == read_image(stored).shape[:2] == wanted
