"""Artifact regions: polygons, run-length text and bit-packed masks."""

import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from input_pipeline.errors import UserError
from input_pipeline.photos import images
from input_pipeline.photos.fill import fill_polygon

# Published annotations overshoot the border by rounding; anything within a pixel is such a case.
BORDER_SLACK = 1.0
# COCO's run lengths count pixels whose centre is inside: a 10 x 10 square has 100. OpenCV's
# fillPoly, on points truncated to whole numbers, counts the border as well: 121 (`photos.fill`).
RASTERISERS = ("coco", "fillpoly")
FAR = 10  # times the longer side
# Pixels that the edges of a region may pass; COCO's rasteriser takes 100 bytes for each.
LONGEST = 1 << 22


class RegionError(UserError):
    """A polygon, a mask or a run-length code that cannot be used; the message names the reason."""


def _check_polygon(polygon: Sequence[float], height: int, width: int) -> list[float]:
    """Returns the polygon as clean floats x1, y1, x2, y2, ...; raises RegionError otherwise."""
    try:
        flat = np.asarray(polygon, np.float64)
    except (OverflowError, TypeError, ValueError) as error:
        raise RegionError("polygon is not a flat list of numbers") from error
    if flat.ndim != 1:
        raise RegionError("polygon is not a flat list of numbers")
    if flat.size % 2:
        raise RegionError(f"polygon has an odd number of values: {flat.size}")
    if flat.size < 6:
        raise RegionError(f"polygon has fewer than 3 points: {flat.size // 2}")
    if not np.isfinite(flat).all():
        raise RegionError("polygon has a value that is not finite")
    points = flat.reshape(-1, 2)
    limits = np.array([width, height], np.float64)
    if (points.max(axis=0) <= 0).any() or (points.min(axis=0) >= limits).any():
        raise RegionError(f"polygon lies wholly outside the {width}x{height} image")
    if np.abs(points).max() > FAR * limits.max():
        raise RegionError(f"polygon reaches to {np.abs(points).max():g}, far outside the "
                          f"{width}x{height} image")
    clipped = np.clip(points, 0.0, limits)
    # Farther points stay where they are: the rasteriser cuts their edges at the true slope.
    points = np.where(np.abs(clipped - points) <= BORDER_SLACK, clipped, points)
    return points.reshape(-1).tolist()


def polygons_to_mask(polygons: Sequence[Sequence[float]], height: int, width: int, *,
                     rasteriser: str = "coco") -> np.ndarray:
    """Rasterises polygons and joins them.

    Args:
        polygons: flat lists x1, y1, x2, y2, ... in pixels of the image, at least one.
        height: image height in pixels.
        width: image width in pixels.
        rasteriser: one of `RASTERISERS`: LEGION trains with the first, evaluates with the second.

    Returns:
        uint8[height, width], 1 inside any polygon, 0 elsewhere.

    Raises:
        RegionError: no polygon; or one with fewer than 3 points, an odd number of values, a value
            that is not finite, or wholly outside the image; or the union covers no pixel.
    """
    if rasteriser not in RASTERISERS:
        raise RegionError(f"rasteriser: {' or '.join(RASTERISERS)}, not {rasteriser!r}")
    if rasteriser == "coco":
        mask = coco_mask.decode(_polygons_to_rle(polygons, height, width))
    else:
        mask = _fill(polygons, height, width)
    if not mask.any():
        raise RegionError("polygon covers no pixel")
    return mask


def sound_rings(polygons: Sequence[Sequence[float]], height: int,
                width: int) -> tuple[list[Sequence[float]], dict[int, str]]:
    """The polygons of a region that cover a pixel on their own, and {number: why not} of others."""
    sound, problems = [], {}
    for number, polygon in enumerate(polygons):
        try:
            if not coco_mask.area(_polygons_to_rle([polygon], height, width)):
                raise RegionError("polygon covers no pixel")
            sound.append(polygon)
        except RegionError as error:
            problems[number] = str(error)
    return sound, problems


def polygons_to_bits(polygons: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """`polygons_to_mask` with eight pixels to a byte, made without the mask in between.

    Returns:
        uint8[height, ceil(width / 8)], bits along x, the leftmost pixel in the highest bit.

    Raises:
        RegionError: as `polygons_to_mask`.
    """
    edges = np.cumsum(_run_lengths(_polygons_to_rle(polygons, height, width)["counts"]))
    runs = edges[: len(edges) // 2 * 2].reshape(-1, 2)  # where ones begin and end, y + x * height
    if (runs[:, 0] == runs[:, 1]).all():
        raise RegionError("polygon covers no pixel")
    x, y = np.divmod(runs, height)
    # A bit for every change down a column. A run that goes on in the next one changes its top.
    tops = np.zeros(width + 2, np.int64)
    np.add.at(tops, x[:, 0] + 1, 1)
    np.add.at(tops, x[:, 1] + 1, -1)
    changes = np.zeros((height, -(-(width + 1) // 64) * 8), np.uint8)
    np.bitwise_xor.at(changes, (y, x >> 3), (0x80 >> (x & 7)).astype(np.uint8))
    at_top = np.packbits((np.cumsum(tops[:-1]) & 1).astype(bool))
    changes[0, : len(at_top)] ^= at_top
    rows = np.bitwise_xor.accumulate(changes.view(np.uint64), axis=0).view(np.uint8)
    return rows[:, : -(-width // 8)]


def _check_polygons(polygons: Sequence[Sequence[float]], height: int,
                    width: int) -> list[list[float]]:
    """`_check_polygon` of all polygons of a region; also raises RegionError for too long edges."""
    if not polygons:
        raise RegionError("region has no polygon")
    clean, length = [], 0
    for polygon in polygons:
        points = np.array(_check_polygon(polygon, height, width)).reshape(-1, 2)
        length += np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
        if length > LONGEST:
            raise RegionError(f"polygons have edges of more than {LONGEST} pixels")
        clean.append(points.reshape(-1).tolist())
    return clean


def _fill(polygons: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    _check_polygons(polygons, height, width)
    whole = (np.trunc(polygon).astype(np.int64).reshape(-1, 2) for polygon in polygons)
    return union_of((fill_polygon(points, height, width) for points in whole),
                    (height, width)).astype(np.uint8)


def _polygons_to_rle(polygons: Sequence[Sequence[float]], height: int, width: int) -> dict:
    clean = _check_polygons(polygons, height, width)
    return coco_mask.merge(coco_mask.frPyObjects(clean, height, width))


def _run_lengths(counts: bytes) -> np.ndarray:
    """Reads COCO's compressed counts: int64[N], lengths of runs of zeros and ones by turns."""
    code = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(code & 0x20 == 0)  # five bits to a character, the lowest first
    first = np.concatenate([[0], last[:-1] + 1])
    shift = 5 * (np.arange(len(code)) - np.repeat(first, last - first + 1))
    values = np.add.reduceat((code & 0x1F) << shift, first)
    values -= (code[last] & 0x10 != 0).astype(np.int64) << (5 * (last - first + 1))  # the sign
    # From the fourth on each is stored as the difference to the one two before it.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask, uint8 or bool[H, W], at another `size` (height, width), by its nearest pixels."""
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def softly_resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8[H, W] at another `size` (height, width), antialiased as SAM's view of a photo is."""
    picture = Image.fromarray(values)
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))


def union_of(masks: Iterable[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """bool[H, W], True where any of the masks [H, W] of `size` is not 0; nowhere without masks."""
    union = np.zeros(size, bool)
    for mask in masks:
        np.logical_or(union, mask, out=union)
    return union


def mask_to_bits(mask: np.ndarray) -> np.ndarray:
    """Packs uint8[..., H, W] along x: uint8[..., H, ceil(W / 8)], leftmost pixel highest."""
    return np.packbits(np.asarray(mask).astype(bool), axis=-1, bitorder="big")


def place_bits(bits: Sequence[np.ndarray], slots: int,
               canvas: int) -> tuple[np.ndarray, np.ndarray]:
    """Puts packed masks into the slots of a fixed square canvas, at its top left.

    Args:
        bits: uint8[H, ceil(W / 8)] each, see `mask_to_bits`; at most `slots`, none larger than
            the canvas.
        canvas: side of the canvas in pixels, a multiple of 8.

    Returns:
        packed: uint8[slots, canvas, canvas // 8]; zero outside the masks and in unused slots.
        valid: bool[slots], true for the slots that hold a mask.
    """
    packed = np.zeros((slots, canvas, canvas // 8), np.uint8)
    for slot, rows in enumerate(bits):
        packed[slot, : rows.shape[0], : rows.shape[1]] = rows
    return packed, np.arange(slots) < len(bits)


def place_values(values: Sequence[np.ndarray], slots: int,
                 canvas: int) -> tuple[np.ndarray, np.ndarray]:
    """As `place_bits`, of grey masks uint8[H, W]: uint8[slots, canvas, canvas] and bool[slots]."""
    placed = np.zeros((slots, canvas, canvas), np.uint8)
    for slot, rows in enumerate(values):
        placed[slot, : rows.shape[0], : rows.shape[1]] = rows
    return placed, np.arange(slots) < len(values)


def unpack_masks(packed: np.ndarray) -> np.ndarray:
    """Undoes `mask_to_bits`: uint8[..., Y, X // 8] -> uint8[..., Y, X] of 0 and 1."""
    return np.unpackbits(np.asarray(packed, np.uint8), axis=-1, bitorder="big")


def mask_to_rle(mask: np.ndarray) -> dict:
    """Encodes uint8[H, W] or bool[H, W] as COCO run lengths.

    Returns:
        {"size": [H, W], "counts": str}, the counts in COCO's compressed ASCII form; fits JSON.

    Raises:
        RegionError: the mask has not two axes.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise RegionError(f"mask needs two axes [H, W], got shape {mask.shape}")
    code = coco_mask.encode(np.asfortranarray(mask.astype(bool).astype(np.uint8)))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def rle_to_mask(rle: dict) -> np.ndarray:
    """Decodes the result of `mask_to_rle` to uint8[H, W] of 0 and 1.

    Raises:
        RegionError: a key is missing, or the counts are not ASCII text.
    """
    try:
        counts = rle["counts"].encode("ascii")
        height, width = (int(side) for side in rle["size"])
        runs = _run_lengths(counts)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise RegionError("run-length code needs 'size' [H, W] and ASCII 'counts'") from error
    # pycocotools writes as many pixels as the counts say, wherever that is.
    if min(height, width) < 1 or height * width > images.MAX_PIXELS:
        raise RegionError(f"run-length code of {width}x{height} pixels, limit {images.MAX_PIXELS}")
    if runs.min() < 0 or int(runs.sum()) != height * width:
        raise RegionError(f"run-length code of {int(runs.sum())} pixels for {width}x{height}")
    return coco_mask.decode({"size": [height, width], "counts": counts})


def png_to_mask(content: bytes) -> np.ndarray:
    """Decodes a mask file, PNG or any other: uint8[H, W], 1 where any channel is not zero.

    Raises:
        RegionError: not an image.
    """
    try:
        with images.opened(content, "mask") as image:
            if image.mode == "P":  # the number of a colour, not the colour
                return (np.asarray(image) > 0).astype(np.uint8)
            if image.mode in ("LA", "RGBA", "PA"):
                image = image.convert("L" if image.mode == "LA" else "RGB")
            values = np.asarray(image)
    except images.ImageError as error:
        raise RegionError(f"mask is not an image that PIL can read ({error})") from error
    return (values.reshape(*values.shape[:2], -1) > 0).any(axis=-1).astype(np.uint8)


def png_to_grey(content: bytes) -> np.ndarray:
    """Decodes a grey picture: uint8[H, W]. Raises RegionError for what is no image."""
    try:
        with images.opened(content, "heat map") as image:
            return np.asarray(image.convert("L"))
    except images.ImageError as error:
        raise RegionError(f"heat map is not an image that PIL can read ({error})") from error


def mask_to_png(mask: np.ndarray) -> bytes:
    """Encodes uint8[H, W] or bool[H, W] as a PNG of 0 and 255."""
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(mask) > 0).astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()
