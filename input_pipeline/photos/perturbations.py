"""Damage done to photos for the robustness evaluation: noise, blur, JPEG and resizing, in levels.

Each works on the decoded photo, before any preprocessing, and leaves the ground truth alone. The
result depends on photo, level and record id only, so a second evaluation sees the same pixels.

| name | level | what is done |
|---|---|---|
| noise | sigma, in units of full scale | normal noise on every channel of every pixel |
| blur | odd kernel size k | Gaussian of sigma 0.3 ((k - 1) / 2 - 1) + 0.8, cut off at k |
| jpeg | quality 1 to 95 | encoded and decoded by libjpeg, chroma halved as cameras do |
| resize | factor below 1 | reduced by bicubic and brought back to its size |
| web | quality 1 to 95 | longest side at most 1280, then JPEG twice, then its size again |

Noise and blur take the levels of LEGION's published helpers; its exact grid is not published.
"""

import hashlib
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from input_pipeline.errors import UserError

GRID: dict[str, tuple[float, ...]] = {
    "noise": (0.02, 0.05, 0.1, 0.2), "blur": (3, 7, 11, 15), "jpeg": (90, 70, 50, 35),
    "resize": (0.75, 0.5, 0.25), "web": (75,)}
WEB_SIDE = 1280
LOUDEST = 100  # beyond 1 little of a photo is left, but published scripts ask for 25.5


def perturb(image: np.ndarray, name: str, level: float, *, record_id: str) -> np.ndarray:
    """A damaged copy of a photo.

    Args:
        image: uint8[H, W, 3]; the result has the same shape.
        name: one of `GRID`; level: see the module's table, not only those of the grid.
        record_id: seeds the noise.

    Raises:
        UserError: naming an unknown perturbation or a level it cannot have.
    """
    if name not in _FUNCTIONS:
        raise UserError(f"no perturbation {name!r}; known: {', '.join(GRID)}")
    return _FUNCTIONS[name](image, level, record_id)


def blur_sigma(kernel: int) -> float:
    """Width of OpenCV's Gaussian for a kernel of this size, in pixels."""
    return 0.3 * ((kernel - 1) / 2 - 1) + 0.8


def _noise(image: np.ndarray, sigma: float, record_id: str) -> np.ndarray:
    if not 0 <= sigma <= LOUDEST:
        raise UserError(f"noise: sigma 0 to {LOUDEST}, got {sigma}")
    digest = hashlib.sha256(f"{record_id} {sigma}".encode()).digest()
    noise = np.random.default_rng(np.frombuffer(digest, np.uint32)).standard_normal(
        image.shape, np.float32)
    return _bytes(image + 255 * np.float32(sigma) * noise)


def _blur(image: np.ndarray, kernel: float, record_id: str) -> np.ndarray:
    del record_id
    if kernel != int(kernel) or kernel < 1 or not kernel % 2:
        raise UserError(f"blur: an odd kernel size, got {kernel}")
    half = int(kernel) // 2
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / blur_sigma(int(kernel))) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    out = image.astype(np.float32)
    for axis in (0, 1):
        # Mirrored without the edge itself, as OpenCV does; a narrow photo cannot be.
        mode = "reflect" if image.shape[axis] > half else "symmetric"
        padded = np.pad(out, [(half, half) if a == axis else (0, 0) for a in range(3)], mode)
        size = image.shape[axis]
        out = sum(w * np.take(padded, range(i, i + size), axis) for i, w in enumerate(weights))
    return _bytes(out)


def _jpeg(image: np.ndarray, quality: float, record_id: str) -> np.ndarray:
    del record_id
    if quality != int(quality) or not 1 <= quality <= 95:
        raise UserError(f"jpeg: a whole quality 1 to 95, got {quality}")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(quality), subsampling="4:2:0")
    return np.array(Image.open(buffer).convert("RGB"))


def _resize(image: np.ndarray, factor: float, record_id: str) -> np.ndarray:
    del record_id
    if not 0 < factor < 1:
        raise UserError(f"resize: a factor between 0 and 1, got {factor}")
    return _scaled(image, factor, lambda small: small)


def _web(image: np.ndarray, quality: float, record_id: str) -> np.ndarray:
    factor = min(1.0, WEB_SIDE / max(image.shape[:2]))
    return _scaled(image, factor, lambda small: _jpeg(
        _jpeg(small, quality, record_id), quality, record_id))


def _scaled(image: np.ndarray, factor: float, work: Callable) -> np.ndarray:
    """`work` done on a reduced copy, which is then enlarged again."""
    height, width = image.shape[:2]
    small = Image.fromarray(image)
    if factor < 1:
        small = small.resize((max(1, round(width * factor)), max(1, round(height * factor))),
                             Image.Resampling.BICUBIC)
    done = Image.fromarray(work(np.asarray(small)))
    if done.size != (width, height):
        done = done.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(done)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


_FUNCTIONS = {"noise": _noise, "blur": _blur, "jpeg": _jpeg, "resize": _resize, "web": _web}
