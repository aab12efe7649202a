"""A small data set made from the photographs inside scikit-image, in a published set's layout.

Crops of real photos are left alone (two in five) or scarred in one to three places, or repainted
all over where the layout has a class for that. Nothing is downloaded.
"""

import concurrent.futures
import functools
import json
import multiprocessing
import os

from etils import epath
from PIL import Image
from tqdm import tqdm

from input_pipeline import files, strict_json
from input_pipeline.scarred_photos.layouts import Layout, layout_named
from input_pipeline.scarred_photos.samples import ScarredPhotosError, make_sample, photo_folder

VERSION = 2  # raise it whenever the same parameters would give other files
MARKER = "generator.json"


def _write_sample(root: epath.Path, split: str, index: int, *, layout: str, size: int,
                  seed: int) -> dict:
    """Writes the image of a sample, and what of it is a file of its own; returns its entry."""
    form = layout_named(layout)
    sample = make_sample(split, index, size=size, seed=seed, repaints=form.repaints)
    name = f"{sample.photo}_{index:05d}.png"
    path = root / form.folder(split, sample) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample.image).save(path, compress_level=4)
    return form.write(root, split, index, sample, name)


def _write_split(root: epath.Path, split: str, *, count: int, form: Layout, size: int,
                 seed: int, progress: bool) -> None:
    write = functools.partial(_write_sample, root, split, layout=form.name, size=size, seed=seed)
    # A sample depends on its index alone, so processes may share the work in any way.
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        written = pool.map(write, range(count), chunksize=32)
        entries = list(tqdm(written, desc=split, total=count, unit="image", disable=not progress))
    for name, content in form.annotations(split, entries).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


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
    layout: str = "synthscars",
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
        layout: how files and annotations lie in it, one of `layouts.LAYOUTS`.
        progress: show progress bars.

    Returns:
        The folder.

    Raises:
        ScarredPhotosError: scikit-image or a photo is missing, the folder exists with other
            content, or there is no such layout.
    """
    output, form = epath.Path(output), layout_named(layout)
    parameters = {"generator": "scarred_photos", "version": VERSION, "num_train": num_train}
    parameters |= {"num_test": num_test, "size": size, "seed": seed} | form.marks
    if _already_made(output, parameters):
        return output
    photo_folder()  # a missing package is named here, not by every worker
    with files.new_folder(output, last=MARKER) as unfinished:
        for split, count in (("train", num_train), ("test", num_test)):
            _write_split(unfinished, split, count=count, form=form, size=size, seed=seed,
                         progress=progress)
        (unfinished / MARKER).write_text(json.dumps(parameters, indent=1) + "\n",
                                         encoding="utf-8")
    return output
