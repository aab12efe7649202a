"""Scars: rounded polygons in a photo whose inside is visibly wrong."""

import dataclasses

import numpy as np

from input_pipeline.photos.regions import RegionError, polygons_to_mask
from input_pipeline.scarred_photos.scar_kinds import CATEGORIES, Kind, Window

MIN_AREA, MAX_AREA, MAX_TOTAL = 0.05, 0.15, 0.45  # shares of the image
GAP = 4  # pixels between two scars
CHANGED = 8  # a pixel counts as changed from this step of 255 in its strongest channel
MIN_COVERAGE = 0.5  # share of a polygon's pixels that must be changed
MIN_PIECE_CONTRAST = 12.0  # standard deviation of 8x8 means in a moved piece, in steps of 255
DRAWS, PLACES = 6, 6  # kinds tried per scar, places tried per kind

PLACE_WORDS = (
    ("at the upper left", "at the top", "at the upper right"),
    ("on the left", "in the centre", "on the right"),
    ("at the lower left", "at the bottom", "at the lower right"),
)


@dataclasses.dataclass(frozen=True)
class Scar:
    """A placed artifact.

    Attributes:
        kind: what is wrong.
        polygon: flat list x1, y1, ... in pixels; exactly what it covers was changed.
        centre: centre of mass (x, y) as shares of width and height.
    """

    kind: Kind
    polygon: list[float]
    centre: tuple[float, float]

    @property
    def order(self) -> tuple[int, float]:
        """Sorts into reading order: the third of the height, then x."""
        return int(self.centre[1] * 3), self.centre[0]

    @property
    def place(self) -> str:
        """One of nine places, e.g. 'at the upper left'."""
        return PLACE_WORDS[int(self.centre[1] * 3)][int(self.centre[0] * 3)]

    @property
    def phrase(self) -> str:
        """The kind and the place, e.g. 'grainy patch at the upper left'."""
        return f"{self.kind.name} {self.place}"


def draw_polygon(height: int, width: int, *, rng: np.random.Generator) -> list[float] | None:
    """Draws a rounded polygon of 10 to 16 vertices inside the image.

    Returns:
        Flat list x1, y1, ... in pixels, to one decimal; None when the draw does not fit.
    """
    count = int(rng.integers(10, 17))
    area = rng.uniform(MIN_AREA + 0.01, MAX_AREA) * height * width
    stretch = np.exp(rng.uniform(-0.35, 0.35))
    radius = np.sqrt(area / np.pi)
    angles = (np.arange(count) + rng.uniform(-0.25, 0.25, count)) * 2 * np.pi / count
    reach = radius * rng.uniform(0.88, 1.12, count)
    tilt = rng.uniform(0, np.pi)
    u, v = reach * np.cos(angles) * stretch, reach * np.sin(angles) / stretch
    x, y = u * np.cos(tilt) - v * np.sin(tilt), u * np.sin(tilt) + v * np.cos(tilt)
    spare_x, spare_y = width - 2 - np.ptp(x), height - 2 - np.ptp(y)
    if spare_x < 0 or spare_y < 0:
        return None
    x += 1 - x.min() + rng.uniform(0, spare_x)
    y += 1 - y.min() + rng.uniform(0, spare_y)
    return [round(float(value), 1) for value in np.stack([x, y], axis=1).reshape(-1)]


def grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Widens bool[H, W] by a square of the given reach in pixels."""
    for axis in (0, 1):
        padded = np.pad(mask, [(pixels, pixels) if a == axis else (0, 0) for a in (0, 1)])
        reach = np.lib.stride_tricks.sliding_window_view(padded, 2 * pixels + 1, axis=axis)
        mask = reach.any(axis=-1)
    return mask


def _block_means(values, side=8):
    height, width = (edge - edge % side for edge in values.shape[:2])
    shape = (height // side, side, width // side, side, *values.shape[2:])
    return values[:height, :width].reshape(shape).mean(axis=(1, 3))


def conspicuous(before: np.ndarray, after: np.ndarray, *, inside: np.ndarray, kind: Kind) -> bool:
    """Says whether a change can be seen: uint8[h, w, 3] twice, bool[h, w] -> bool."""
    change = after.astype(np.float64) - before
    if (np.abs(change).max(axis=-1) >= CHANGED)[inside].mean() < MIN_COVERAGE:
        return False
    if kind.moved:
        inside = _block_means(inside.astype(np.float64)) > 0.5
        change, content = _block_means(change), _block_means(after.astype(np.float64))
        # A moved piece with nothing on it reads as a spot of light or shadow.
        if not inside.any() or content.mean(axis=-1)[inside].std() < MIN_PIECE_CONTRAST:
            return False
    return bool(np.abs(change)[inside].mean() >= kind.least)


def _place(image, *, taken, kind, rng):
    """Tries one place: (window, its new content, mask bool[H, W], Scar), or None if unfit."""
    height, width = image.shape[:2]
    polygon = draw_polygon(height, width, rng=rng)
    if polygon is None:
        return None
    try:
        mask = polygons_to_mask([polygon], height, width).astype(bool)
    except RegionError:
        return None
    if not MIN_AREA <= np.count_nonzero(mask) / mask.size <= MAX_AREA or (mask & taken).any():
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = Window(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
    before, inside = image[window.slices], mask[window.slices]
    content = np.clip(kind.change(image, window, rng), 0, 255).astype(np.uint8)
    after = np.where(inside[..., None], content, before)
    if not conspicuous(before, after, inside=inside, kind=kind):
        return None
    ys, xs = np.nonzero(inside)
    centre_x = (window.left + float(xs.mean()) + 0.5) / width
    centre_y = (window.top + float(ys.mean()) + 0.5) / height
    return window, after, mask, Scar(kind, polygon, (centre_x, centre_y))


def scar_photo(
    photo: np.ndarray,
    count: int,
    *,
    rng: np.random.Generator,
    categories: tuple[tuple[Kind, ...], ...] = CATEGORIES,
) -> tuple[np.ndarray, list[Scar]]:
    """Puts up to `count` scars of random kinds in separate places of a photo.

    Every change is read from the untouched photo. A scar that cannot be seen, or whose phrase
    repeats another's, is drawn again elsewhere and then as another kind.

    Args:
        photo: uint8[H, W, 3].
        count: scars wanted, at least 1.
        rng: source of all randomness.
        categories: kinds to choose from; a category is drawn first, then one of its kinds.

    Returns:
        uint8[H, W, 3] and the scars in reading order; fewer than `count`, even none, where the
        photo offers no place.
    """
    result, scars = photo.copy(), []
    taken, covered = np.zeros(photo.shape[:2], bool), 0.0  # taken: what is covered, and a gap
    for _ in range(count):
        for attempt in range(DRAWS * PLACES):
            if attempt % PLACES == 0:
                category = categories[int(rng.integers(len(categories)))]
                kind = category[int(rng.integers(len(category)))]
            placed = _place(photo, taken=taken, kind=kind, rng=rng)
            if placed is None or placed[-1].phrase in {scar.phrase for scar in scars}:
                continue
            window, content, mask, scar = placed
            if covered + mask.mean() >= MAX_TOTAL:
                continue
            covered += mask.mean()
            result[window.slices] = np.where(
                mask[window.slices][..., None], content, result[window.slices]
            )
            taken |= grow(mask, GAP)
            scars.append(scar)
            break
    return result, sorted(scars, key=lambda scar: scar.order)
