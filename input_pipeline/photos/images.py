"""Photos from files, and the two views of them the model takes.

Everything stays uint8: normalising happens on the device. Both resizes are PIL's antialiased
ones, which is what the published preprocessing runs, so the pixels agree bit for bit.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from input_pipeline.errors import UserError, reason

MAX_PIXELS = 178_956_970  # PIL's own limit for what it takes for a decompression bomb
MAX_BYTES = 256 << 20  # of an encoded file
# Per pixel, at most, while a photo is decoded: PIL's pixels, RGB and a copy, and what decoders
# of some formats hold beside them.
DECODING_BYTES = {"WEBP": 17, "JPEG2000": 20, "AVIF": 20}
OTHER_DECODING_BYTES = 12
# Of a JPEG's blocks of metadata, which PIL joins one by one: a hundred times what cameras write.
MAX_METADATA, MAX_BLOCKS, MAX_PADDING = 16 << 20, 4096, 1 << 18
MAX_RATIO = 200  # long side over short side; beyond it a resized copy fills the memory
REDUCING_GAP = 1.5  # sides of a reduced photo over the sides that are needed
ORIENTATION, SWAPPING = 0x0112, (5, 6, 7, 8)  # EXIF tag, and its values that swap the sides
IMAGE_WIDTH = 0x0100  # a tag of TIFF
# Of photos and masks. PIL knows more, some of which it hands to programs outside.
Image.init()
FORMATS = tuple({"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"}
                & Image.OPEN.keys())


class ImageError(UserError):
    """A file or an array that cannot be used as a photo; the message says which and why."""


def read_image(source: str | os.PathLike | bytes, *, name: str | None = None) -> np.ndarray:
    """Decodes a photo the way a viewer shows it; see `read_photo`. Returns uint8[Y, X, 3], RGB."""
    return np.array(read_photo(source, name=name)[0], np.uint8)


def read_photo(source: str | os.PathLike | bytes, *, name: str | None = None,
               at_least: tuple[int, int] | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """Decodes a photo the way a viewer shows it, without copying its pixels.

    The EXIF orientation is applied; grey, palette, CMYK and 16-bit grey (scaled, not clipped)
    become RGB; transparency is dropped; of an animation the first frame is taken.

    Args:
        source: path, or the encoded bytes of the file.
        name: what errors call the image; the path by default.
        at_least: (short side, long side) in pixels that are needed. A JPEG is then decoded at 1/2,
            1/4 or 1/8 if that keeps both sides REDUCING_GAP times as long as needed. Its views are
            not bit for bit those of the whole photo: pixels differ by 1.2 of 255 on average at
            the gap of 1.5, by 0.9 at 2, and by up to 30 at a few sharp edges.

    Returns:
        The photo in RGB, and the (height, width) of the whole of it, however it was decoded.

    Raises:
        ImageError: missing, truncated, not an image, too large (MAX_PIXELS) or too narrow.
    """
    name = _name(source, name)
    with opened(source, name) as image:
        width, height = image.size
        reduced = at_least is not None and _reduce(image, *at_least)
        image.load()
        upright, turned = _upright(image)
        photo = _to_rgb(upright)
        if not reduced:
            return photo, (photo.height, photo.width)
        return photo, (width, height) if turned else (height, width)


def read_size(source: str | os.PathLike | bytes, *, name: str | None = None) -> tuple[int, int]:
    """(height, width) as the file's header tells, before any EXIF orientation; nothing is decoded.

    Raises ImageError as `read_photo` does, for what the header shows.
    """
    with opened(source, name) as image:
        return image.height, image.width


def swaps_sides(image: Image.Image) -> bool:
    """Whether the EXIF orientation exchanges rows and columns when it is applied.

    PIL tells the size of a TIFF as it will be shown; older releases did not.
    """
    stored = getattr(image, "tag_v2", {}).get(IMAGE_WIDTH, image.width)
    return _orientation(image) in SWAPPING and stored == image.width


def _orientation(image: Image.Image) -> int:
    """EXIF's number from 1, upright, to 8; 1 where there is none or the block is broken."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # PIL raises nearly anything on broken EXIF blocks
        return 1


def check_bytes(size: int, limit: int, *, name: str) -> None:
    """Raises ImageError for an encoded file of `size` bytes above the limit."""
    if size > limit:
        raise ImageError(f"{name}: {size} bytes, limit {limit}")


def decoding_bytes(image: Image.Image) -> int:
    """Memory that decoding an opened image takes at most."""
    return image.width * image.height * DECODING_BYTES.get(image.format, OTHER_DECODING_BYTES)


def _name(source: str | os.PathLike | bytes, name: str | None) -> str:
    is_bytes = isinstance(source, bytes | bytearray | memoryview)
    return name or (f"image of {len(source)} bytes" if is_bytes else str(source))


@contextlib.contextmanager
def opened(source: str | os.PathLike | bytes, name: str | None = None) -> Iterator[Image.Image]:
    """An image before decoding, photo or mask: its size and its metadata's are checked.

    `name`: as of `read_photo`. Whatever PIL raises in the block becomes an ImageError.
    """
    name = _name(source, name)
    is_bytes = isinstance(source, bytes | bytearray | memoryview)
    try:
        with contextlib.ExitStack() as stack:
            file = io.BytesIO(source) if is_bytes else stack.enter_context(Path(source).open("rb"))
            _check_metadata(file, name)
            image = stack.enter_context(Image.open(file, formats=FORMATS))
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"{name}: {width} x {height} pixels, limit {MAX_PIXELS}")
            _check_sides(height, width, name=name)
            yield image
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: not an image that PIL can read as {', '.join(sorted(FORMATS))}") from error
    except Exception as error:  # broken files make PIL's decoders raise nearly anything
        raise ImageError(f"{name}: {reason(error)}") from error


def _check_metadata(file: BinaryIO, name: str) -> None:
    """Raises ImageError for a JPEG with more metadata than any camera writes; rewinds the file."""
    total = number = padding = 0
    if file.read(2) == b"\xff\xd8":
        while file.read(1) == b"\xff":
            while (code := file.read(1)) in (b"\xff", b"\0") and padding <= MAX_PADDING:
                padding += 1
            if not code or code == b"\xda":  # the pixels begin
                break
            length = int.from_bytes(file.read(2), "big")
            if 0xE0 <= code[0] <= 0xEF or code[0] == 0xFE:
                total, number = total + length, number + 1
            if total > MAX_METADATA or number > MAX_BLOCKS or padding > MAX_PADDING:
                raise ImageError(f"{name}: more than {MAX_METADATA} bytes or {MAX_BLOCKS} blocks "
                                 f"of metadata")
            file.seek(max(length - 2, 0), os.SEEK_CUR)
    file.seek(0)


def clip_image(image: np.ndarray | Image.Image, size: int) -> np.ndarray:
    """Makes CLIP's view: short side resized to `size`, bicubic, then the centre square.

    Follows Hugging Face's CLIPImageProcessor; the margins of a photo that is not square are lost.

    Args:
        image: uint8[Y, X, 3] or a photo of `read_photo`.
        size: side of the result in pixels.

    Returns:
        uint8[size, size, 3].

    Raises:
        ImageError: not such an array, or one side more than MAX_RATIO times the other.
    """
    photo = _as_photo(image)
    width, height = photo.size
    short, long = min(height, width), max(height, width)
    new_long = int(size * long / short)
    new_height, new_width = (size, new_long) if height <= width else (new_long, size)
    resized = _resize(photo, new_height, new_width, Image.Resampling.BICUBIC)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return np.array(resized.crop((left, top, left + size, top + size)))


def sam_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """Returns (height, width) in pixels after the longer side becomes `longest`.

    SAM's ResizeLongestSide: halves are rounded up; small images grow too.
    """
    scale = longest / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def check_sam_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """`sam_size`. Raises ImageError when a side would have no pixel left."""
    new_height, new_width = sam_size(height, width, longest)
    if not new_height or not new_width:
        raise ImageError(f"{width} x {height} pixels vanish when the longer side is {longest}")
    return new_height, new_width


def sam_image(image: np.ndarray | Image.Image, longest: int,
              canvas: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Makes SAM's view: longer side resized to `longest`, bilinear, in a canvas's top left corner.

    The rest of the canvas is 0 here. SAM's padding is 0 *after* normalising, so whoever
    normalises must blank everything outside the returned size again.

    Args:
        image: uint8[Y, X, 3] or a photo of `read_photo`.
        longest: length of the longer side after the resize, at most `canvas`.
        canvas: side of the square result in pixels.

    Returns:
        uint8[canvas, canvas, 3], and the (height, width) the photo fills in it.

    Raises:
        ImageError: not such an array, too narrow, or `longest` exceeds `canvas`.
    """
    photo = _as_photo(image)
    width, height = photo.size
    if longest > canvas:
        raise ImageError(f"longest side {longest} does not fit the canvas of {canvas}")
    new_height, new_width = check_sam_size(height, width, longest)
    resized = _resize(photo, new_height, new_width, Image.Resampling.BILINEAR)
    if new_height == new_width == canvas:
        return np.array(resized), (new_height, new_width)
    padded = np.zeros((canvas, canvas, 3), np.uint8)
    padded[:new_height, :new_width] = np.asarray(resized)
    return padded, (new_height, new_width)


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """Applies the EXIF orientation; True where it exchanges rows and columns.

    Metadata too broken to read is no reason to lose the photo.
    """
    if _orientation(image) == 1:
        return image, False  # ImageOps would copy it
    try:
        return ImageOps.exif_transpose(image), swaps_sides(image)
    except Exception:  # PIL raises nearly anything on broken EXIF blocks
        return image, False


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # straight to RGB gives the same colours and a warning
    if not image.mode.startswith("I"):
        return image if image.mode == "RGB" else image.convert("RGB")
    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError(f"grey values {grey.min()} to {grey.max()} exceed 16 bits")
    scaled = grey.astype(np.uint32)  # large photos: no copy that is not needed
    scaled += 128
    scaled //= 257
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")


def _check_sides(height: int, width: int, *, name: str) -> None:
    if not height or not width:
        raise ImageError(f"{name}: {width} x {height} pixels, nothing to see")
    if max(height, width) > MAX_RATIO * min(height, width):
        raise ImageError(
            f"{name}: {width} x {height} pixels, one side exceeds {MAX_RATIO} times the other"
        )


def _as_photo(image: np.ndarray | Image.Image) -> Image.Image:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ImageError(f"expected uint8[Y, X, 3], found {image.dtype}{list(image.shape)}")
        _check_sides(*image.shape[:2], name="image")
        return Image.fromarray(image)
    if image.mode != "RGB":
        raise ImageError(f"expected a photo in RGB, found {image.mode}")
    _check_sides(image.height, image.width, name="image")
    return image


def _resize(photo: Image.Image, height: int, width: int, filter_: Image.Resampling) -> Image.Image:
    # At its own size PIL would copy it.
    return photo if photo.size == (width, height) else photo.resize((width, height), filter_)


def _reduce(image: Image.Image, short: int, long: int) -> bool:
    """Tells PIL to decode fewer pixels; False where that is not possible or not wanted."""
    sides = sorted(image.size)
    for factor in (8, 4, 2):
        reduced = [side // factor for side in sides]
        if reduced[0] >= REDUCING_GAP * short and reduced[1] >= REDUCING_GAP * long:
            size = (image.width // factor, image.height // factor)
            return image.draft(image.mode, size) is not None
    return False
