"""The kinds of artifact that are put into a photo on purpose.

Three categories, as annotators of synthetic images name them: distortion (grain, blur, blocks,
colour), structure (a twisted, rotated or doubled piece) and physics (light and shadow).
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter


@dataclasses.dataclass(frozen=True)
class Window:
    """Bounding box of a polygon in pixels, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the window in an [H, W, ...] array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.bottom - self.top, self.right - self.left


@dataclasses.dataclass(frozen=True)
class Kind:
    """One sort of artifact.

    Attributes:
        name: the words of the phrase before the place.
        explanation: one sentence saying what is wrong.
        change: (uint8[H, W, 3], Window, rng) -> [h, w, 3] in 0..255, the window's new content.
        least: smallest mean absolute change inside the polygon, in steps of 255.
        moved: the content is a piece of the photo, so it must differ from what it covers in more
            than its texture.
    """

    name: str
    explanation: str
    change: Callable[[np.ndarray, Window, np.random.Generator], np.ndarray]
    least: float
    moved: bool = False


def _grain(image, window, rng):
    height, width = window.shape
    noise = rng.normal(0.0, rng.uniform(80, 110), (-(-height // 3), -(-width // 3), 3))
    noise = noise.repeat(3, axis=0).repeat(3, axis=1)[:height, :width]  # 3-pixel grain
    return image[window.slices] + noise


def _blur(image, window, rng):
    margin = 12
    top, left = max(window.top - margin, 0), max(window.left - margin, 0)
    patch = image[top : window.bottom + margin, left : window.right + margin]
    soft = Image.fromarray(patch).filter(ImageFilter.GaussianBlur(rng.uniform(6, 9)))
    height, width = window.shape
    y, x = window.top - top, window.left - left
    return np.asarray(soft)[y : y + height, x : x + width]


def _blocks(image, window, rng):
    side = int(rng.integers(9, 14))
    small = Image.fromarray(image[window.slices]).reduce(side)
    blocks = np.asarray(small).repeat(side, axis=0).repeat(side, axis=1)
    return blocks[: window.shape[0], : window.shape[1]]


def _colour(image, window, rng):
    hsv = np.array(Image.fromarray(image[window.slices]).convert("HSV"))
    turn = rng.uniform(120, 180) * rng.choice([-1, 1]) / 360 * 256
    hue = hsv[..., 0].astype(np.float64) + turn
    if hsv[..., 1].mean() < 40:  # a grey patch has no hue to turn: give it one
        hue[:] = rng.uniform(0, 256)
    hsv[..., 0] = hue.astype(np.int64) % 256
    hsv[..., 1] = np.maximum(hsv[..., 1], 200)
    hsv[..., 2] = np.maximum(hsv[..., 2], 110)
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


def _sample(image, y, x):
    """Bilinear reading of uint8[H, W, 3] at float coordinates y, x [h, w], clamped at the edge."""
    height, width = image.shape[:2]
    y, x = np.clip(y, 0, height - 1.001), np.clip(x, 0, width - 1.001)
    row, column = y.astype(np.int64), x.astype(np.int64)
    dy, dx = (y - row)[..., None], (x - column)[..., None]
    upper = image[row, column] * (1 - dx) + image[row, column + 1] * dx
    lower = image[row + 1, column] * (1 - dx) + image[row + 1, column + 1] * dx
    return upper * (1 - dy) + lower * dy


def _ripple(image, window, rng):
    """Waves of a few pixels along both axes, as if seen through moving water."""
    y, x = np.mgrid[window.top : window.bottom, window.left : window.right].astype(np.float64)
    length, reach = rng.uniform(7, 10), rng.uniform(6, 9)
    phase = rng.uniform(0, 2 * np.pi, 2)
    return _sample(
        image,
        y + reach * np.sin(2 * np.pi * x / length + phase[0]),
        x + reach * np.sin(2 * np.pi * y / length + phase[1]),
    )


def _shuffle(image, window, rng):
    """The window cut into square pieces that are put back in another order."""
    side = int(rng.integers(7, 11))
    height, width = window.shape
    rows, columns = -(-height // side), -(-width // side)
    pad = ((0, rows * side - height), (0, columns * side - width), (0, 0))
    padded = np.pad(image[window.slices], pad, mode="reflect")
    pieces = padded.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    pieces = pieces[rng.permutation(len(pieces))]
    mixed = pieces.reshape(rows, columns, side, side, 3).swapaxes(1, 2)
    return mixed.reshape(rows * side, columns * side, 3)[:height, :width]


def _repeat(image, window, rng):
    """One small piece of the photo, over and over."""
    (height, width), (full_height, full_width) = window.shape, image.shape[:2]
    side = int(rng.integers(8, 12))
    top = int(rng.integers(0, full_height - side + 1))
    left = int(rng.integers(0, full_width - side + 1))
    piece = image[top : top + side, left : left + side]
    return np.tile(piece, (-(-height // side), -(-width // side), 1))[:height, :width]


def _light(image, window, rng):
    # Warm light: blue gains least.
    return image[window.slices] * rng.uniform(1.2, 1.6) + np.array([150.0, 110.0, -60.0])


def _shadow(image, window, rng):
    # As if lit by the sky alone: what light is left is blue.
    return image[window.slices] * rng.uniform(0.15, 0.3) + np.array([0.0, 0.0, 70.0])


DISTORTION = (
    Kind("grainy patch", "The grain here is far coarser than in the rest.", _grain, 25),
    Kind("blurred patch", "The detail is smeared away while the rest is sharp.", _blur, 22),
    Kind("blocky patch", "The texture breaks up into square blocks.", _blocks, 20),
    Kind("colour shift", "The colour does not fit the things it lies on.", _colour, 30),
)
STRUCTURE = (
    Kind("rippled piece", "The shapes are bent into waves.", _ripple, 42),
    Kind("scrambled piece", "The parts stand in the wrong order.", _shuffle, 42),
    Kind("repeated piece", "One small part is repeated over and over.", _repeat, 46),
)
PHYSICS = (
    Kind("warm light", "The light is hard-edged and has no source in the scene.", _light, 45),
    Kind("blue shadow", "The shadow is hard-edged and nothing casts it.", _shadow, 45),
)
CATEGORIES = (DISTORTION, STRUCTURE, PHYSICS)
# Gravel moved within gravel changes every pixel and still shows nothing.
CATEGORIES_ON_EVEN_TEXTURE = (DISTORTION, PHYSICS)
