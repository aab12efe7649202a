"""Photos from files, and the two views of them the model takes.

Everything stays uint8: normalising happens on the device. Both resizes are PIL's antialiased
ones, which is what the published preprocessing runs, so the pixels agree bit for bit.
"""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from input_pipeline.errors import UserError

MAX_PIXELS = 178_956_970  # PIL's own limit for what it takes for a decompression bomb
MAX_RATIO = 200  # long side over short side; beyond it a resized copy fills the memory


class ImageError(UserError):
    """A file or an array that cannot be used as a photo; the message says which and why."""


def read_image(source: str | os.PathLike | bytes, *, name: str | None = None) -> np.ndarray:
    """Decodes a photo the way a viewer shows it.

    The EXIF orientation is applied; grey, palette, CMYK and 16-bit grey (scaled, not clipped)
    become RGB; transparency is dropped; of an animation the first frame is taken.

    Args:
        source: path, or the encoded bytes of the file.
        name: what errors call the image; the path by default.

    Returns:
        uint8[Y, X, 3], RGB.

    Raises:
        ImageError: missing, truncated, not an image, too large (MAX_PIXELS) or too narrow.
    """
    is_bytes = isinstance(source, bytes | bytearray | memoryview)
    name = name or (f"image of {len(source)} bytes" if is_bytes else str(source))
    try:
        with Image.open(io.BytesIO(source) if is_bytes else Path(source)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"{name}: {width} x {height} pixels, limit {MAX_PIXELS}")
            _check_sides(height, width, name=name)
            image.load()
            return np.array(_to_rgb(_upright(image)), np.uint8)
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image that PIL can read") from error
    except Exception as error:  # broken files make PIL's decoders raise nearly anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"{name}: {reason}") from error


def clip_image(image: np.ndarray, size: int) -> np.ndarray:
    """Makes CLIP's view: short side resized to `size`, bicubic, then the centre square.

    Follows Hugging Face's CLIPImageProcessor; the margins of a photo that is not square are lost.

    Args:
        image: uint8[Y, X, 3].
        size: side of the result in pixels.

    Returns:
        uint8[size, size, 3].

    Raises:
        ImageError: not such an array, or one side more than MAX_RATIO times the other.
    """
    height, width = _check_array(image)
    short, long = min(height, width), max(height, width)
    new_long = int(size * long / short)
    new_height, new_width = (size, new_long) if height <= width else (new_long, size)
    resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BICUBIC)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return np.asarray(resized)[top : top + size, left : left + size].copy()


def sam_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """Returns (height, width) in pixels after the longer side becomes `longest`.

    SAM's ResizeLongestSide: halves are rounded up; small images grow too.
    """
    scale = longest / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def sam_image(image: np.ndarray, longest: int, canvas: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Makes SAM's view: longer side resized to `longest`, bilinear, in a canvas's top left corner.

    The rest of the canvas is 0 here. SAM's padding is 0 *after* normalising, so whoever
    normalises must blank everything outside the returned size again.

    Args:
        image: uint8[Y, X, 3].
        longest: length of the longer side after the resize, at most `canvas`.
        canvas: side of the square result in pixels.

    Returns:
        uint8[canvas, canvas, 3], and the (height, width) the photo fills in it.

    Raises:
        ImageError: not such an array, too narrow, or `longest` exceeds `canvas`.
    """
    height, width = _check_array(image)
    if longest > canvas:
        raise ImageError(f"longest side {longest} does not fit the canvas of {canvas}")
    new_height, new_width = sam_size(height, width, longest)
    if not new_height or not new_width:
        raise ImageError(f"{width} x {height} pixels vanish when the longer side is {longest}")
    resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR)
    padded = np.zeros((canvas, canvas, 3), np.uint8)
    padded[:new_height, :new_width] = np.asarray(resized)
    return padded, (new_height, new_width)


def _upright(image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation; metadata too broken to read is no reason to lose the photo."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # PIL raises nearly anything on broken EXIF blocks
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # straight to RGB gives the same colours and a warning
    if not image.mode.startswith("I"):
        return image.convert("RGB")
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError(f"grey values {grey.min()} to {grey.max()} exceed 16 bits")
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")


def _check_sides(height: int, width: int, *, name: str) -> None:
    if not height or not width:
        raise ImageError(f"{name}: {width} x {height} pixels, nothing to see")
    if max(height, width) > MAX_RATIO * min(height, width):
        raise ImageError(
            f"{name}: {width} x {height} pixels, one side exceeds {MAX_RATIO} times the other"
        )


def _check_array(image: np.ndarray) -> tuple[int, int]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"expected uint8[Y, X, 3], found {image.dtype}{list(image.shape)}")
    height, width = image.shape[:2]
    _check_sides(height, width, name="image")
    return height, width
