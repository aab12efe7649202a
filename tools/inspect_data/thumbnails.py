"""Pictures of a contact sheet: small photos, and masks and heat maps to lie on them."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from input_pipeline.photos import images
from legion_jax.display import overlay, web

MAX_SIDE, MIN_SIDE = 640, 320  # px of a picture's longer side; smaller photos are magnified
SQUARE = 96  # px of the pictures on the index
# How bad a place is, from not at all to very.
HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)])


def thumbnail(source: Sequence, index: int) -> str:
    """A small square picture of a record as a data URI; '' where there is none."""
    try:
        photo = images.read_image(source[index].image)
        side = min(photo.shape[:2])
        top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
        small = Image.fromarray(photo[top:top + side, left:left + side])
        return data_uri(small.resize((SQUARE, SQUARE), Image.Resampling.LANCZOS), "JPEG")
    except Exception:  # the record's card says what is wrong
        return ""


def data_uri(picture: Image.Image, form: str) -> str:
    """A JPEG, or without loss a WEBP, as the text of a data URI."""
    options = {"quality": 82} if form == "JPEG" else {"lossless": True, "exact": False}
    return web.data_uri(picture, form, **options)


def marks_layer(masks: Sequence[np.ndarray], colours: Sequence[tuple[int, int, int]],
                size: tuple[int, int]) -> Image.Image:
    """What `overlay.paint_masks` adds to any photo of `size` (height, width), as RGBA.

    It blends each pixel with a colour, so black and white ones tell how much and with which.
    """
    black, white = (np.asarray(overlay.paint_masks(np.full((*size, 3), ground, np.uint8), masks,
                                                   colours=colours), np.float32)
                    for ground in (0, 255))
    alpha = 255 - (white - black).min(axis=-1, keepdims=True)
    tones = np.rint(np.minimum(255, 255 * black / np.maximum(alpha, 1)))
    return Image.fromarray(np.concatenate([tones, alpha], -1).astype(np.uint8), "RGBA")


def heat_picture(photo: Image.Image, heat: np.ndarray) -> Image.Image:
    """The photo, dim and grey, under the colours of its heat map uint8[H, W] of any size."""
    values = np.asarray(Image.fromarray(heat).resize(photo.size, Image.Resampling.BILINEAR))
    values = values.astype(np.float32)[..., None] / 255
    steps = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(values[..., 0], steps, channel) for channel in HEAT.T], -1)
    grey = np.asarray(photo.convert("L"), np.float32)[..., None] * 0.5
    cover = np.minimum(1, 1.2 * np.sqrt(values)) * 0.85
    return Image.fromarray(np.rint(grey + cover * (colours - grey)).astype(np.uint8))


def scaled(photo: np.ndarray) -> Image.Image:
    """The photo with its longer side between MIN_SIDE and MAX_SIDE, small ones in whole steps."""
    height, width = photo.shape[:2]
    longest = max(height, width)
    scale = MAX_SIDE / longest if longest > MAX_SIDE else math.ceil(MIN_SIDE / longest)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    kind = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return Image.fromarray(photo).resize(size, kind)


def reduced(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask at `size` (width, height); one too thin for it is kept where it was."""
    grey = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(
        size, Image.Resampling.BOX))
    return grey > 127 if (grey > 127).any() else grey > 0
