"""Samples: crops of the photographs inside scikit-image, left alone, scarred or repainted.

Photos are divided between train and test, so a test image never shows a scene of the train split.
"""

import dataclasses
import functools
import importlib.util
import pathlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from input_pipeline.errors import UserError
from input_pipeline.scarred_photos.repaint import repaint
from input_pipeline.scarred_photos.scar_kinds import (
    CATEGORIES,
    CATEGORIES_ON_EVEN_TEXTURE,
    Kind,
)
from input_pipeline.scarred_photos.scars import Scar, scar_photo

PHOTOS = {
    "train": (
        "astronaut.png", "brick.png", "camera.png", "coins.png", "grass.png",
        "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg",
        "rocket.jpg",
    ),
    "test": ("chelsea.png", "coffee.png", "gravel.png"),
}  # fmt: skip
EVEN_TEXTURES = ("grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png")
REAL_OF_FIVE = (0, 3)  # samples with these indices modulo 5 stay real: exactly two in five
REPAINTED_OF_FIVE = (4,)  # and these are repainted instead of scarred, where that is asked for
MIN_CONTRAST = 22.0  # standard deviation of the grey crop, in steps of 255
MIN_CELL_CONTRAST = 4.0  # the same within each cell of a 3x3 grid, for most cells
CROP_ATTEMPTS = 400
CROPS_PER_PHOTO = 20


class ScarredPhotosError(UserError):
    """The data set cannot be made; the message says why."""


def photo_folder() -> pathlib.Path:
    """Where scikit-image keeps its photos. Raises ScarredPhotosError where it is not installed."""
    spec = importlib.util.find_spec("skimage")  # only its folder is needed, not the library
    if spec is None or not spec.submodule_search_locations:
        raise ScarredPhotosError(
            "scikit-image is not installed; its photos are needed: pip install scikit-image"
        )
    return pathlib.Path(spec.submodule_search_locations[0]) / "data"


@functools.cache
def _load_photo(file_name: str, longest: int) -> Image.Image:
    """Reads a photo as RGB, its longer side brought down to `longest` pixels if above."""
    path = photo_folder() / file_name
    if not path.is_file():
        raise ScarredPhotosError(f"{path}: not part of this scikit-image installation")
    with Image.open(path) as image:
        photo = image.convert("RGB")
    photo.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return photo


def _interesting(crop: np.ndarray) -> bool:
    """False for a crop that is near-constant as a whole or in most of its nine cells."""
    grey = np.asarray(Image.fromarray(crop).convert("L"), np.float32)
    cells = [cell for row in np.array_split(grey, 3) for cell in np.array_split(row, 3, axis=1)]
    busy = sum(cell.std() >= MIN_CELL_CONTRAST for cell in cells)
    return grey.std() >= MIN_CONTRAST and busy >= 6


def _crop(photo, *, size, rng):
    """A random crop of random scale and shape, mirrored or not, its global tone changed mildly."""
    low, high = round(size * 0.9), round(size * 1.1)
    width, height = (int(side) for side in rng.integers(low, high + 1, 2))
    scale = max(rng.uniform(0.5, 1.1), width / photo.width, height / photo.height)
    span_x, span_y = width / scale, height / scale  # in pixels of the photo
    left = rng.uniform(0, photo.width - span_x) if photo.width > span_x else 0.0
    top = rng.uniform(0, photo.height - span_y) if photo.height > span_y else 0.0
    box = (left, top, min(left + span_x, photo.width), min(top + span_y, photo.height))
    crop = np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC, box=box))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    gain = rng.uniform(0.8, 1.2) * rng.uniform(0.9, 1.1, 3)
    tone = crop.astype(np.float32)
    mean = tone.mean()
    tone = ((tone - mean) * rng.uniform(0.75, 1.15) + mean) * gain.astype(np.float32)
    return np.clip(tone, 0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image and what is true of it.

    Attributes:
        photo: name of the photograph it was cut from.
        image: uint8[H, W, 3].
        scars: in reading order; none in a real or a repainted photo.
        repainted: nothing of the photo itself is left.
    """

    photo: str
    image: np.ndarray
    scars: list[Scar]
    repainted: bool = False

    @property
    def real(self) -> bool:
        """Whether the photo was left alone."""
        return not self.scars and not self.repainted


def make_sample(split: str, index: int, *, size: int = 160, seed: int = 0,
                repaints: bool = False) -> Sample:
    """Makes one sample, a pure function of its arguments.

    Args:
        split: 'train' or 'test'.
        index: number of the sample in its split.
        size: mean side in pixels; each side varies by a tenth.
        seed: seed of the data set.
        repaints: one sample in five is repainted all over instead of scarred; all others are the
            same.

    Raises:
        ScarredPhotosError: scikit-image or one of its photos is missing.
    """
    rng = np.random.default_rng([seed, list(PHOTOS).index(split), index])
    count = 0 if index % 5 in REAL_OF_FIVE else int(rng.integers(1, 4))
    for file_name, crop, kinds in _crops(split, size=size, rng=rng):
        photo = pathlib.PurePath(file_name).stem
        if repaints and index % 5 in REPAINTED_OF_FIVE:
            return Sample(photo, repaint(crop, rng=rng), [], repainted=True)
        if not count:
            return Sample(photo, crop, [])
        image, scars = scar_photo(crop, count, rng=rng, categories=kinds)
        if scars:
            return Sample(photo, image, scars)
    raise ScarredPhotosError(
        f"{split} sample {index}: no crop of {size} pixels with enough contrast in "
        f"{CROP_ATTEMPTS} attempts"
    )


def _crops(split: str, *, size: int, rng: np.random.Generator
           ) -> Iterator[tuple[str, np.ndarray, tuple[tuple[Kind, ...], ...]]]:
    """(file of the photo, an interesting crop of it, kinds of scars that show on it)."""
    for attempt in range(CROP_ATTEMPTS):
        if attempt % CROPS_PER_PHOTO == 0:  # a dark sky offers few crops: take another photo
            file_name = PHOTOS[split][int(rng.integers(len(PHOTOS[split])))]
            photo = _load_photo(file_name, size * 5)
            kinds = CATEGORIES_ON_EVEN_TEXTURE if file_name in EVEN_TEXTURES else CATEGORIES
        crop = _crop(photo, size=size, rng=rng)
        if _interesting(crop):
            yield file_name, crop, kinds
