"""Photos to measure with: SynthScars' layout, sizes and text lengths, none of its content.

Each photo is a random crop of one of scikit-image's photographs, enlarged to a square JPEG of
quality 92, with two or three marked regions and a caption that makes conversations of about 300
ids, the mean of the published set. Nothing here can be learned from; it only takes as long to read.
"""

import functools
import importlib.util
import io
import json
import pathlib

import numpy as np
from PIL import Image
from tqdm import tqdm

from input_pipeline.errors import UserError

QUALITY = 92
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png",
          "motorcycle_left.png", "retina.jpg", "rocket.jpg")
SUBJECTS = ("left hand", "right ear", "shop sign", "bicycle wheel", "window frame", "shadow",
            "shirt collar", "table leg", "door handle", "eyes", "reflection", "railing")
PLACES = ("near the edge", "in the background", "in the foreground", "at the top", "at the side")
FLAWS = ("has one part too many and melts into what is behind it",
         "bends where nothing could bend and ends in the air",
         "carries letters that belong to no script",
         "falls against the light of the rest of the scene",
         "is smeared over its neighbours without a border",
         "repeats a pattern that a real surface would not show")
MORE = ("No object of this kind is built like that, and its outline is not closed.",
        "The texture beside it is sharp, so the blur cannot come from the lens.",
        "Its perspective does not agree with the lines of the floor.")


@functools.cache
def _load(name: str) -> Image.Image:
    package = importlib.util.find_spec("skimage")  # only its folder is needed, not the library
    if package is None:
        raise UserError("--synthetic: needs scikit-image's photos: pip install scikit-image")
    with Image.open(pathlib.Path(package.origin).parent / "data" / name) as image:
        return image.convert("RGB")


def photo(rng: np.random.Generator, size: int) -> bytes:
    """A JPEG of size x size pixels."""
    whole = _load(PHOTOS[rng.integers(len(PHOTOS))])
    side = rng.uniform(0.6, 1.0) * min(whole.size)
    left, top = rng.uniform(0, whole.width - side), rng.uniform(0, whole.height - side)
    crop = whole.resize((size, size), Image.Resampling.BICUBIC,
                        box=(left, top, left + side, top + side))
    file = io.BytesIO()
    crop.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def outline(rng: np.random.Generator, size: int) -> list[float]:
    """A closed wobbly polygon of 12 to 40 points, flat x, y, x, y, ... in pixels."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(12, 41)))
    centre, radius = rng.uniform(0.25, 0.75, 2) * size, rng.uniform(0.05, 0.22, 2) * size
    wobble = rng.uniform(0.7, 1.1, len(angle))[:, None]
    points = centre + wobble * radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.round(np.clip(points, 1, size - 1), 1).reshape(-1).tolist()


def annotation(rng: np.random.Generator, size: int) -> tuple[str, list[dict]]:
    """Caption and refs of a photo."""
    refs = []
    for subject in rng.choice(SUBJECTS, rng.integers(2, 4), replace=False):
        flaw = FLAWS[rng.integers(len(FLAWS))]
        extra = " ".join(rng.choice(MORE, rng.integers(0, 3), replace=False))
        refs.append({"sentence": f"The {subject} {PLACES[rng.integers(len(PLACES))]}.",
                     "explanation": f"The {subject} {flaw}. {extra}".strip(), "bbox": None,
                     "segmentation": [outline(rng, size)]})
    artifacts = "".join(f"{ref['sentence']}:{ref['explanation']}" for ref in refs)
    return ("Upon examining the image. I have found: several places that no camera could have "
            f"recorded.\nTo elaborate, I have found the following artifacts. {artifacts}"), refs


def write(folder: pathlib.Path, count: int, *, size: int = 1024, seed: int = 0) -> None:
    """Writes `count` photos as a train split, as published: folder/train/{images,annotations}."""
    images, annotations = folder / "train/images", folder / "train/annotations"
    images.mkdir(parents=True)
    annotations.mkdir()
    records = []
    for index in tqdm(range(count), desc="making photos", unit="photo", disable=None):
        rng = np.random.default_rng([seed, index])
        name = f"{index:05d}.jpg"
        (images / name).write_bytes(photo(rng, size))
        caption, refs = annotation(rng, size)
        records.append({str(index): {"img_file_name": name, "caption": caption, "refs": refs}})
    (annotations / "train.json").write_text(json.dumps(records))
