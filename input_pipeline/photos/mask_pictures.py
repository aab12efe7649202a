"""Pictures that somebody saved as masks, read by written rules; what is ambiguous is refused.

1. Where the opacity differs from pixel to pixel, it is the mask if all that can be seen has one
   colour (strokes on a transparent layer). Otherwise the picture is refused: whether its hole or
   its rest is meant, nobody can tell. An opacity that is the same everywhere says nothing.
2. Else the brightest channel of the colour decides; a palette's numbers do not.
   - One value everywhere: 0 marks nothing, 128 and more of 255 everything; others are refused.
   - Values below 32 beside 0 are numbers of classes: each but 0 is masked.
   - Of two values the larger one is masked; they have to be 128 apart, or the smaller one 0.
   - Of more values, those from the middle of 0 to the largest possible on. Masks that were JPEGs,
     feathered or smoothed have them; pictures of which more than half is grey are refused.
3. A mask that covers the whole border of the picture, but not all of it, is refused: its background
   was saved as the mask.
"""

import dataclasses

import numpy as np

from input_pipeline.photos import images
from input_pipeline.photos.regions import RegionError

CLASSES = 32  # more than any label picture of artifacts has
NEAR = 26  # a tenth of the range: what is nearer to its ends does not speak against a mask
MOST_GREY = 0.5


@dataclasses.dataclass(frozen=True)
class MaskPicture:
    """A mask, and how far it was one.

    Attributes:
        mask: uint8[H, W] of 0 and 1.
        grey: share of the pixels that were neither black nor white, 0 to 1; 0 where the mask had
            two values, or numbers of classes.
        values: uint8[H, W], what the rules were about.
    """

    mask: np.ndarray
    grey: float
    values: np.ndarray


def read(content: bytes, *, background_may_be_masked: bool = False,
         white_alone: bool = False) -> MaskPicture:
    """Decode a mask file of any kind by the rules above.

    Args:
        background_may_be_masked: leave out the third, for data sets that say what white means.
        white_alone: in place of the second, masked is what is 255.

    Raises RegionError: not an image, or which pixels are meant cannot be told.
    """
    values = _values(content)
    if white_alone:
        mask, grey = values == 255, float(np.mean((values > 0) & (values < 255)))
    else:
        mask, grey = _decided(values)
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if border.all() and not mask.all() and not background_may_be_masked:
        raise RegionError("mask covers the whole border of the picture: its background seems to "
                          "be what is masked; save the region white on black")
    return MaskPicture(mask.astype(np.uint8), grey, values)


def _values(content: bytes) -> np.ndarray:
    """uint8[H, W]: what the rules are about, opacity or brightness."""
    try:
        with images.opened(content, "mask") as image:
            if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
                pixels = np.asarray(image.convert("RGBA"))
                opacity, colours = pixels[..., 3], pixels[..., :3]
            else:
                opacity, colours = None, _colours(image)
    except images.ImageError as error:
        raise RegionError(f"mask is not an image that PIL can read ({error})") from error
    if opacity is None or opacity.min() == opacity.max() > 0:
        return colours.max(axis=-1)
    seen = colours[opacity > 0]
    if not seen.size:
        raise RegionError("mask is wholly transparent")
    if (seen != seen[0]).any():
        raise RegionError("mask has colours and transparency, and either may be what is masked; "
                          "save the region white on black")
    return opacity


def _colours(image) -> np.ndarray:
    """uint8[H, W, C] of an image without opacity; 16 bits become 8."""
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 65535:
            raise RegionError(f"mask has values {deep.min()} to {deep.max()}")
        # Numbers of classes stay what they are.
        return (deep if deep.max() < CLASSES else deep // 257).astype(np.uint8)[..., None]
    if image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _decided(values: np.ndarray) -> tuple[np.ndarray, float]:
    """(bool[H, W], share of grey) by the second rule."""
    known = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    low, high = int(known[0]), int(known[-1])
    if low == high:
        if 0 < low < 128:
            raise RegionError(f"mask is {low} everywhere: neither black nor white")
        return values > 0, 0.0
    if low == 0 and high < CLASSES:
        return values > 0, 0.0
    if len(known) == 2:
        if low and high - low < 128:
            raise RegionError(f"mask has the values {low} and {high}, neither of them black")
        return values == high, 0.0
    between = float(np.mean((values >= NEAR) & (values <= 255 - NEAR)))
    if between > MOST_GREY:
        raise RegionError(f"mask is grey in {100 * between:.0f} % of its pixels: a photo or a heat "
                          f"map, not a mask")
    return values >= 128, float(np.mean((values > 0) & (values < 255)))
