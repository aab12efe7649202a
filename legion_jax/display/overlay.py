"""A photo with its artifact masks drawn on it and the phrases that explain them underneath."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from input_pipeline.photos.regions import resized
from legion_jax.display import captions
from legion_jax.display.captions import STRIP

# Told apart with any common colour blindness (Okabe and Ito 2008, without black; last: P. Tol).
PALETTE = (
    (213, 94, 0), (86, 180, 233), (240, 228, 66), (0, 158, 115),
    (204, 121, 167), (230, 159, 0), (0, 114, 178), (136, 34, 85),
)
UNION = (70, 235, 150)  # of a mask that tells no artifacts apart
MIN_WIDTH = 480  # px; narrower photos are enlarged so that tags and phrases can be read
MAX_ENLARGED_HEIGHT = 1600  # px; a tall narrow photo stops growing here and is centred instead
GAP = 6  # px between photos side by side
FILL = 0.35  # share of the mask's colour inside it


def colour(index: int) -> tuple[int, int, int]:
    """RGB of the index-th mask; the palette starts over when it is used up."""
    return PALETTE[index % len(PALETTE)]


def draw_overlay(image: np.ndarray, masks: Sequence[np.ndarray], phrases: Sequence[str], *,
                 title: str | None) -> Image.Image:
    """Draws masks as tinted, outlined, numbered areas and lists their phrases below the photo.

    Args:
        image: uint8[H, W, 3], RGB.
        masks: bool[H, W] each; one without a pixel is only mentioned in the list.
        phrases: one for each mask; long ones are wrapped, and cut with an ellipsis after
            four lines. Letters the built-in font lacks are spelled in ASCII or shown as "?".
        title: first line below the photo, such as "tampered 97 %", or None.

    Returns:
        RGB picture. The photo keeps its size, or is enlarged to MIN_WIDTH pixels; without title
        and phrases there is nothing below it.

    Raises:
        ValueError: another dtype or shape, or not one phrase for each mask.
    """
    if len(masks) != len(phrases):
        raise ValueError(f"{len(masks)} masks, but {len(phrases)} phrases")
    photo, drawn = _draw_photo(image, masks)
    strip = captions.draw_strip(_caption(title, phrases, drawn), max(photo.width, MIN_WIDTH),
                                _text_size(photo))
    picture = Image.new("RGB", (strip.width, photo.height + strip.height), STRIP)
    picture.paste(photo, ((strip.width - photo.width) // 2, 0))
    picture.paste(strip, (0, photo.height))
    return picture


def draw_comparison(image: np.ndarray, masks: Sequence[Sequence[np.ndarray]],
                    phrases: Sequence[str], *, titles: Sequence[str]) -> Image.Image:
    """The photo once for each set of masks, side by side, and the phrases once below them.

    Args:
        image: uint8[H, W, 3], RGB.
        masks: sets of as many masks as there are phrases, as of `draw_overlay`; the k-th mask has
            the same number and colour in all of them.
        titles: one line above each photo.

    Returns:
        RGB picture. Raises ValueError as `draw_overlay` does.
    """
    if any(len(group) != len(phrases) for group in masks):
        raise ValueError(f"{[len(group) for group in masks]} masks, but {len(phrases)} phrases")
    photos = [_draw_photo(image, group)[0] for group in masks]
    width, text_size = max(photos[0].width, MIN_WIDTH), _text_size(photos[0])
    heads = [captions.draw_strip([(title, None)], width, text_size) for title in titles]
    total = width * len(photos) + GAP * (len(photos) - 1)
    strip = captions.draw_strip(_caption(None, phrases, [True] * len(phrases)), total, text_size)
    top = heads[0].height
    picture = Image.new("RGB", (total, top + photos[0].height + strip.height), STRIP)
    for number, (head, photo) in enumerate(zip(heads, photos, strict=True)):
        left = number * (width + GAP)
        picture.paste(head, (left, 0))
        picture.paste(photo, (left + (width - photo.width) // 2, top))
    picture.paste(strip, (0, top + photos[0].height))
    return picture


def _draw_photo(image: np.ndarray, masks: Sequence[np.ndarray]) -> tuple[Image.Image, list[bool]]:
    """The photo, enlarged if it is small, with painted and numbered masks; which are not empty."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"image needs uint8[H, W, 3], got {image.dtype}{image.shape}")
    height, width = image.shape[:2]
    scale = max(1.0, min(MIN_WIDTH / width, MAX_ENLARGED_HEIGHT / height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    large = [_enlarge(mask, index, shape=(height, width), size=size)
             for index, mask in enumerate(masks)]
    photo = paint_masks(np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)),
                        large)
    _draw_tags(photo, large, min(_text_size(photo), max(8, int(size[1] / 1.5))))
    return photo, [bool(mask.any()) for mask in large]


def _text_size(photo: Image.Image) -> int:
    return int(np.clip(photo.width / 36, 15, 44))


def paint_masks(image: np.ndarray, masks: Sequence[np.ndarray], *,
                colours: Sequence[tuple[int, int, int]] = PALETTE,
                fill: float = FILL) -> Image.Image:
    """Tints uint8[H, W, 3] inside each bool[H, W] and draws outlines, all at the given size.

    The k-th mask takes the k-th colour, starting over at the end; `fill` 0 leaves the inside as
    it is. Outlines come last, so no mask hides where another one ends.
    """
    picture = np.array(image, np.float32)
    thick = max(2, round(min(picture.shape[:2]) / 180))
    layers = [(_surroundings(mask), np.array(colours[k % len(colours)], np.float32))
              for k, mask in enumerate(masks)]
    layers = [(picture[box], mask[box], tone)  # the first is a view: it writes to the picture
              for mask, (box, tone) in zip(masks, layers, strict=True)]
    for part, mask, tone in layers:
        part[mask] += fill * (tone - part[mask])
    for part, mask, _ in layers:
        part[_grow(mask, 1) & ~mask] *= 0.3  # a dark line keeps bright outlines visible on snow
    for part, mask, tone in layers:
        part[_grow(~mask, thick, beyond=True) & mask] = tone
    return Image.fromarray(np.rint(picture).astype(np.uint8))


def _surroundings(mask: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of a mask and one more on each side; large photos need no more work."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not rows.size:
        return slice(0), slice(0)
    return (slice(max(0, rows[0] - 1), rows[-1] + 2),
            slice(max(0, columns[0] - 1), columns[-1] + 2))


def _enlarge(mask: np.ndarray, index: int, *, shape: tuple[int, int],
             size: tuple[int, int]) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != shape:
        raise ValueError(f"mask {index} needs bool{shape}, got {mask.dtype}{mask.shape}")
    return resized(mask, size[::-1])


def _grow(mask: np.ndarray, steps: int, *, beyond: bool = False) -> np.ndarray:
    """bool[H, W] grown by `steps` pixels up, down, left and right; `beyond` the border is true."""
    for _ in range(steps):
        wide = np.pad(mask, 1, constant_values=beyond)
        mask = (wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2]
                | wide[1:-1, 2:])
    return mask


def _draw_tags(photo: Image.Image, masks: Sequence[np.ndarray], text_size: int) -> None:
    """A numbered plate beside each mask, where no other plate lies if such a place exists."""
    draw, font = ImageDraw.Draw(photo), captions.font(text_size)
    placed: list[tuple[float, float, float, float]] = []
    for index, mask in enumerate(masks):
        if not mask.any():
            continue
        text = str(index + 1)
        wide, tall = font.getlength(text) + text_size * 0.6, text_size * 1.35
        spots = [_clamp(spot, photo.size) for spot in _spots(mask, wide, tall)]
        box = next((s for s in spots if not any(_overlap(s, p) for p in placed)), spots[0])
        placed.append(box)
        tone = colour(index)
        draw.rounded_rectangle(box, radius=text_size * 0.3, fill=tone, outline=(0, 0, 0))
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        draw.text(middle, text, font=font, fill=_readable_on(tone), anchor="mm")


def _spots(mask: np.ndarray, wide: float, tall: float) -> list[tuple[float, float, float, float]]:
    """Places for a plate, best first: above, below, left, right of a mask, then along its top."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    above = np.median(np.flatnonzero(mask[top])) - wide / 2
    below = np.median(np.flatnonzero(mask[bottom - 1])) - wide / 2
    before = np.median(np.flatnonzero(mask[:, left])) - tall / 2
    after = np.median(np.flatnonzero(mask[:, right - 1])) - tall / 2
    corners = [(above, top - tall - 1), (below, bottom + 1), (left - wide - 1, before),
               (right + 1, after)]
    corners += [(left + step * (wide + 1), top) for step in range(30)]
    return [(x, y, x + wide, y + tall) for x, y in corners]


def _clamp(box: tuple[float, ...], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Moves a box into the photo."""
    left, top, right, bottom = box
    x = max(0.0, min(left, size[0] - 1 - (right - left)))
    y = max(0.0, min(top, size[1] - 1 - (bottom - top)))
    return x, y, x + right - left, y + bottom - top


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _readable_on(tone: tuple[int, int, int]) -> tuple[int, int, int]:
    brightness = 0.299 * tone[0] + 0.587 * tone[1] + 0.114 * tone[2]
    return (0, 0, 0) if brightness > 115 else (255, 255, 255)


def _caption(title: str | None, phrases: Sequence[str],
             drawn: Sequence[bool]) -> list[tuple[str, captions.Colour | None]]:
    """Paragraphs of the strip: (text, colour of the mask, or None for the title)."""
    lines: list[tuple[str, captions.Colour | None]] = [(title, None)] if title else []
    for index, (phrase, visible) in enumerate(zip(phrases, drawn, strict=True)):
        words = " ".join(phrase.split()) or "(no phrase)"
        lines.append((words if visible else f"{words} (empty mask)", colour(index)))
    return lines
