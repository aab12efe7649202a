"""What several data sets judge alike: image names, stated sizes, masks of another size."""

import io
import logging
import posixpath
from collections.abc import Collection, Iterable

import numpy as np
from PIL import Image

from input_pipeline.photos import mask_pictures
from input_pipeline.photos.images import FORMATS, ImageError, opened, swaps_sides
from input_pipeline.photos.regions import RegionError, mask_to_png, resized
from input_pipeline.records.dataset import Notes
from input_pipeline.records.record import RecordError
from input_pipeline.records.tree import Tree

LOG = logging.getLogger("input_pipeline")
# All by which PIL knows what it decodes here; it knows none for the two pictures of some phones.
IMAGE_FILES = frozenset({".mpo"} | {
    suffix for suffix, form in Image.registered_extensions().items() if form in FORMATS})


def says_image(name: str) -> bool:
    """Whether a file's name says image; `.DS_Store` and `Thumbs.db` do not."""
    return (not hidden(name)
            and posixpath.splitext(posixpath.basename(name))[1].lower() in IMAGE_FILES)


def hidden(name: str) -> bool:
    """Whether a file is one of those that systems leave beside others, whatever is in it."""
    return posixpath.basename(name).startswith(".")


def is_image(tree: Tree, name: str) -> bool:
    """Whether a file is an image: its name says so, or else its content does.

    Photos are saved without a suffix, and under suffixes of sites. Of a name that says image the
    content is not looked at: what is wrong with it is for who reads it.
    """
    if says_image(name) or hidden(name):
        return says_image(name)
    try:
        check_image(name, tree.read(name))
    except RecordError:
        return False
    return True


def check_image(name: str, content: bytes) -> None:
    """Raises RecordError where neither the name of a file nor its content says image."""
    if says_image(name):
        return
    try:
        if not hidden(name):
            with opened(content):
                return
    except ImageError:
        pass
    raise RecordError("not an image file", name)


def say_left_out(source: str, there: Iterable[str], taken: Collection[str],
                 known: Iterable[str]) -> None:
    """Warns of what looks like a split and is none.

    Args:
        there: names beside those that were taken, of folders or files; taken: of these.
        known: what is taken, by name.
    """
    if left := sorted(set(there) - set(taken)):
        LOG.warning("%s: %s left out: no split is called so; known are %s", source,
                    f"{', '.join(left[:5])}{' and others are' if len(left) > 5 else ' is'}",
                    ", ".join(known))


def home(tree: Tree, *wanted: str) -> str:
    """`""`, or `"FOLDER/"` when only a folder at the top has one of the wanted ones."""
    top = tree.folders()
    if not set(top) & set(wanted):
        for folder in top:
            if set(tree.folders(folder)) & set(wanted):
                return f"{folder}/"
    return ""


def shown_size(content: bytes, name: str) -> tuple[int, int]:
    """(height, width) as a viewer shows the image, from the head of its file.

    Raises RecordError when there is none.
    """
    try:
        with opened(content, name) as image:
            width, height = image.size
            turned = swaps_sides(image)
    except ImageError as error:
        raise RecordError("unreadable image", str(error)) from error
    return (width, height) if turned else (height, width)


def note_size(size: tuple[int, int], height, width, notes: Notes) -> None:
    """Notes a height and width in the source, where there are any, that are not the image's."""
    if height is None and width is None:
        return
    if (height, width) != size:
        notes.repaired("size contradicts the image",
                       f"{width}x{height} told, {size[1]}x{size[0]} found")


def read_mask(content: bytes, notes: Notes, **options) -> np.ndarray:
    """`mask_pictures.read`, uint8[H, W]; grey ones are noted. Raises RegionError."""
    picture = mask_pictures.read(content, **options)
    if picture.grey:
        notes.repaired("grey mask", f"{100 * picture.grey:.1f} % of its pixels are neither black "
                                    f"nor white; those from 128 of 255 on are masked")
    return picture.mask


def fit_mask(content: bytes, size: tuple[int, int], notes: Notes, **options) -> bytes:
    """A mask file as a PNG of 0 and 255 on the image's pixels; `size` is (height, width).

    Which pixels it means is decided by `photos.mask_pictures`, which `options` are for. One of
    another size but the same sides' ratio is resized (nearest) and noted.
    Raises RecordError for others, for empty ones and for what is no image.
    """
    try:
        mask = read_mask(content, notes, **options)
    except RegionError as error:
        raise RecordError("unusable mask", str(error)) from error
    (height, width), (tall, wide) = mask.shape, size
    if mask.shape != size:
        mismatch = f"mask of {width}x{height} for an image of {wide}x{tall}"
        # Within the pixel of the smaller one that rounding may have cost.
        if abs(width * tall - height * wide) > max(width, height, wide, tall):
            raise RecordError("unusable mask", mismatch)
        mask = resized(mask, size)
        notes.repaired("mask resized", mismatch)
    if not mask.any():
        raise RecordError("unusable mask", "mask covers no pixel")
    return mask_to_png(mask)


def grey_levels(content: bytes, **options) -> bytes:
    """How far each pixel is masked in a mask file with greys, as a grey PNG of the file's size.

    Empty where all is black or white, which a mask of bits says as well; `options` are those of
    `mask_pictures.read`. Raises RecordError as `fit_mask` does.
    """
    try:
        picture = mask_pictures.read(content, **options)
    except RegionError as error:
        raise RecordError("unusable mask", str(error)) from error
    if not picture.grey:
        return b""
    buffer = io.BytesIO()
    Image.fromarray(picture.values).save(buffer, "PNG")
    return buffer.getvalue()
