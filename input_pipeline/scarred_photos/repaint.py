"""A photo repainted from edge to edge: brush strokes in its colours, on canvas one can see."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

# Layers from coarse to fine: blur of the colours, width and length of the strokes, each in pixels
# of a picture whose mean side is 160, and the share of places that are painted.
LAYERS = ((6.0, 14, 30, 1.0), (2.5, 7, 17, 1.0), (1.0, 4, 9, 0.55))
MEAN_SIDE = 160
JITTER = 12.0  # of a stroke's colour, in steps of 255
# Threads of the canvas: px from one to the next in a picture of MEAN_SIDE, and how much darker the
# paint is between them, in steps of 255.
THREAD, WEAVE = 7.0, 44.0
EXPLANATION = "The whole picture is laid down in brush strokes, and the canvas shows through."


def repaint(photo: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Paints a photo anew, in strokes that follow its outlines.

    Args:
        photo: uint8[H, W, 3].
        rng: source of all randomness.

    Returns:
        uint8[H, W, 3], which shares no pixel with the photo but by chance.
    """
    image = Image.fromarray(photo)
    scale = sum(image.size) / 2 / MEAN_SIDE * rng.uniform(0.8, 1.25)
    canvas = image.filter(ImageFilter.GaussianBlur(12 * scale))  # shows where no stroke comes
    brush = ImageDraw.Draw(canvas)
    for blur, width, length, share in LAYERS:
        soft = image.filter(ImageFilter.GaussianBlur(blur * scale))
        _paint_layer(brush, np.asarray(soft), width=max(2, round(width * scale)),
                     length=length * scale, share=share, rng=rng)
    painted = np.asarray(canvas) - WEAVE * _weave(photo.shape[:2], THREAD * scale, rng)[..., None]
    return np.clip(painted, 0, 255).astype(np.uint8)


def _weave(size, thread, rng):
    """Float [H, W] from 0 on the threads of a canvas to 1 between them."""
    rows, columns = (np.arange(side) * np.pi / thread + rng.uniform(0, np.pi) for side in size)
    return 1 - np.maximum(np.sin(rows)[:, None] ** 2, np.sin(columns) ** 2)


def _paint_layer(brush, soft, *, width, length, share, rng):
    """Strokes over all of `soft`, uint8[H, W, 3], or a share of the places, in random order."""
    centres = _centres(soft.shape[:2], step=max(2, round(width * 0.7)), rng=rng)
    centres = centres[rng.permutation(len(centres))[:round(len(centres) * share)]]
    rows, columns = centres.astype(int).T
    grey = soft.astype(np.float64).mean(axis=-1)
    slope_y, slope_x = np.gradient(grey)
    # Along the outline, which is across the slope.
    angles = np.arctan2(slope_x, -slope_y)[rows, columns] + rng.normal(0, 0.35, len(centres))
    colours = soft[rows, columns] + rng.normal(0, JITTER, (len(centres), 1))
    reach = length / 2 * rng.uniform(0.7, 1.3, len(centres))
    offsets = np.stack([np.sin(angles), np.cos(angles)], axis=1) * reach[:, None]
    for start, end, colour in zip(centres - offsets, centres + offsets,
                                  np.clip(colours, 0, 255).astype(int), strict=True):
        brush.line([start[1], start[0], end[1], end[0]], fill=tuple(colour.tolist()), width=width)


def _centres(size, *, step, rng):
    """Float [N, 2] of (row, column) inside `size`: a grid that was shaken."""
    height, width = size
    grid = np.stack(np.mgrid[step // 2:height:step, step // 2:width:step], axis=-1).reshape(-1, 2)
    shaken = grid + rng.uniform(-step / 2, step / 2, grid.shape)
    return np.clip(shaken, 0, [height - 1, width - 1])
