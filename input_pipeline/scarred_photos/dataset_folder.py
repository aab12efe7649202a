"""A small data set in SynthScars' layout, made from the photographs inside scikit-image.

Crops of real photos are left alone (two in five) or scarred in one to three places; phrase,
explanation and polygon of each scar are written as SynthScars writes them. Nothing is downloaded.
Photos are divided between train and test, so a test image never shows a scene of the train split.
"""

import concurrent.futures
import functools
import importlib.util
import json
import multiprocessing
import os
import pathlib

import numpy as np
from etils import epath
from PIL import Image
from tqdm import tqdm

from input_pipeline import files, strict_json
from input_pipeline.errors import UserError
from input_pipeline.scarred_photos.scar_kinds import CATEGORIES, CATEGORIES_ON_EVEN_TEXTURE
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
VERSION = 2  # raise it whenever the same parameters would give other files
MARKER = "generator.json"
NO_ARTIFACT = "I have found no artifact. The light, the shapes and the textures agree."
REAL_OF_FIVE = (0, 3)  # samples with these indices modulo 5 stay real: exactly two in five
MIN_CONTRAST = 22.0  # standard deviation of the grey crop, in steps of 255
MIN_CELL_CONTRAST = 4.0  # the same within each cell of a 3x3 grid, for most cells
CROP_ATTEMPTS = 400
CROPS_PER_PHOTO = 20


class ScarredPhotosError(UserError):
    """The data set cannot be made; the message says why."""


def _photo_folder() -> pathlib.Path:
    spec = importlib.util.find_spec("skimage")  # only its folder is needed, not the library
    if spec is None or not spec.submodule_search_locations:
        raise ScarredPhotosError(
            "scikit-image is not installed; its photos are needed: pip install scikit-image"
        )
    return pathlib.Path(spec.submodule_search_locations[0]) / "data"


@functools.cache
def _load_photo(file_name: str, longest: int) -> Image.Image:
    """Reads a photo as RGB, its longer side brought down to `longest` pixels if above."""
    path = _photo_folder() / file_name
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


def make_sample(
    split: str, index: int, *, size: int = 160, seed: int = 0
) -> tuple[str, np.ndarray, list[Scar]]:
    """Makes one sample, a pure function of its arguments.

    Args:
        split: 'train' or 'test'.
        index: number of the sample in its split.
        size: mean side in pixels; each side varies by a tenth.
        seed: seed of the data set.

    Returns:
        Name of the photo, uint8[H, W, 3], the scars in reading order (none: a real photo).

    Raises:
        ScarredPhotosError: scikit-image or one of its photos is missing.
    """
    rng = np.random.default_rng([seed, list(PHOTOS).index(split), index])
    count = 0 if index % 5 in REAL_OF_FIVE else int(rng.integers(1, 4))
    for attempt in range(CROP_ATTEMPTS):
        if attempt % CROPS_PER_PHOTO == 0:  # a dark sky offers few crops: take another photo
            file_name = PHOTOS[split][int(rng.integers(len(PHOTOS[split])))]
            photo = _load_photo(file_name, size * 5)
            kinds = CATEGORIES_ON_EVEN_TEXTURE if file_name in EVEN_TEXTURES else CATEGORIES
        crop = _crop(photo, size=size, rng=rng)
        if not _interesting(crop):
            continue
        if not count:
            return pathlib.PurePath(file_name).stem, crop, []
        image, scars = scar_photo(crop, count, rng=rng, categories=kinds)
        if scars:
            return pathlib.PurePath(file_name).stem, image, scars
    raise ScarredPhotosError(
        f"{split} sample {index}: no crop of {size} pixels with enough contrast in "
        f"{CROP_ATTEMPTS} attempts"
    )


def describe(scars: list[Scar]) -> tuple[str, list[dict]]:
    """Writes the caption and the refs of an image in SynthScars' form."""
    if not scars:
        return NO_ARTIFACT, []
    refs = [
        {
            "sentence": scar.phrase,
            "explanation": scar.kind.explanation,
            "bbox": None,
            "segmentation": [scar.polygon],
        }
        for scar in scars
    ]
    items = " ".join(f"{ref['sentence']}:{ref['explanation']}" for ref in refs)
    noun = "artifact" if len(refs) == 1 else "artifacts"
    return f"I have found {len(refs)} {noun}. {items}", refs


def _write_sample(folder, split, index, *, size, seed):
    photo, image, scars = make_sample(split, index, size=size, seed=seed)
    file_name = f"{photo}_{index:05d}.png"
    Image.fromarray(image).save(folder / file_name, compress_level=4)
    caption, refs = describe(scars)
    return {str(index): {"img_file_name": file_name, "caption": caption, "refs": refs}}


def _write_split(root, split, *, count, size, seed, progress):
    (root / split / "images").mkdir(parents=True)
    (root / split / "annotations").mkdir()
    write = functools.partial(_write_sample, root / split / "images", split, size=size, seed=seed)
    # A sample depends on its index alone, so processes may share the work in any way.
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        written = pool.map(write, range(count), chunksize=32)
        records = list(tqdm(written, desc=split, total=count, unit="image", disable=not progress))
    path = root / split / "annotations" / f"{split}.json"
    path.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def _already_made(output, parameters):
    if not output.exists():
        return False
    marker = output / MARKER
    if not marker.is_file():
        raise ScarredPhotosError(f"{output}: exists and was not made by this generator")
    made_with = strict_json.read(marker, error=ScarredPhotosError)
    if made_with != parameters:
        raise ScarredPhotosError(f"{output}: made with {made_with}, asked for {parameters}")
    return True


def make_dataset(
    output: epath.PathLike,
    *,
    num_train: int,
    num_test: int,
    size: int = 160,
    seed: int = 0,
    progress: bool = False,
) -> epath.Path:
    """Makes the data set; does nothing when it is there already with the same parameters.

    The folder appears under its name only when complete.

    Args:
        output: folder to make.
        num_train: images of the train split.
        num_test: images of the test split.
        size: mean side of an image in pixels.
        seed: seed of every random choice.
        progress: show progress bars.

    Returns:
        The folder.

    Raises:
        ScarredPhotosError: scikit-image or a photo is missing, or the folder exists with other
            content.
    """
    output = epath.Path(output)
    parameters = {"generator": "scarred_photos", "version": VERSION, "num_train": num_train}
    parameters |= {"num_test": num_test, "size": size, "seed": seed}
    if _already_made(output, parameters):
        return output
    _photo_folder()  # a missing package is named here, not by every worker
    with files.new_folder(output, last=MARKER) as unfinished:
        for split, count in (("train", num_train), ("test", num_test)):
            _write_split(unfinished, split, count=count, size=size, seed=seed, progress=progress)
        (unfinished / MARKER).write_text(json.dumps(parameters, indent=1) + "\n",
                                         encoding="utf-8")
    return output
