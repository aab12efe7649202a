"""What is written of a prediction: a line of JSON, and beside the photo's name JSON, mask, overlay.
"""

import io
import json
import threading

import numpy as np
from etils import epath
from PIL import Image

from input_pipeline import files
from input_pipeline.photos import regions
from legion_jax.display.overlay import draw_overlay
from legion_jax.predict.prediction import Prediction

MASK = "mask"
KINDS = ("json", MASK, "overlay")
ENDINGS = {MASK: "_mask.png", "overlay": "_overlay.png", "json": ".json"}
SMALLEST_DRAWN = 800_000  # pixels of an overlay: small photos are enlarged
DRAWING_BYTES = 32  # per pixel of an overlay, while it is drawn
OVERLAY_SIDE = 4096  # px; a larger photo is drawn smaller: an overlay is there to be looked at


def as_json(image: str, name: str, prediction: Prediction) -> dict:
    """The result of one photo.

    Args:
        image: where the photo is; name: what its files are called.

    Returns:
        What JSON can hold. Sizes are (height, width), spans count characters of the explanation,
        probabilities have five digits: what is left is the same for every batch size.
    """
    artifacts = [
        {"phrase": r.phrase, "span": [r.start, r.end], "detail": r.detail,
         "rle": None if r.mask is None else regions.mask_to_rle(r.mask),
         "score": _rounded(r.score)} for r in prediction.regions]
    return {"image": image, "name": name, "size": list(prediction.size),
            "verdict": prediction.verdict, "probability": _rounded(prediction.probability),
            "fake_probability": _rounded(prediction.fake_probability),
            "words": prediction.words, "words_agree": prediction.words_agree,
            "explanation": prediction.explanation, "answer": prediction.answer,
            "finished": prediction.finished, "withheld": prediction.withheld,
            "artifacts": artifacts}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def overlay(image: np.ndarray, prediction: Prediction) -> Image.Image:
    """Photo with masks and phrases, headed by the verdict; at most OVERLAY_SIDE pixels a side."""
    drawn = [r for r in prediction.regions if r.mask is not None]
    masks = [r.mask for r in drawn]
    title = None
    if prediction.verdict is not None:
        sure = "" if prediction.probability is None else f" {prediction.probability:.0%}"
        title = f"{prediction.verdict}{sure}"
    longest = max(image.shape[:2])
    if longest > OVERLAY_SIDE:
        size = tuple(max(1, round(side * OVERLAY_SIDE / longest)) for side in image.shape[1::-1])
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
        masks = [regions.resized(mask, size[::-1]) for mask in masks]
    return draw_overlay(image, masks, [r.phrase for r in drawn], title=title)


def write(output: epath.PathLike, line: dict, photo: np.ndarray | None, prediction: Prediction, *,
          kinds: tuple[str, ...] = KINDS, temporary: epath.Path | None = None) -> None:
    """Write NAME.json, NAME_mask.png and NAME_overlay.png of one photo, those among `kinds`.

    Args:
        line: of `as_json`; its name may hold folders, which are made.
        photo: uint8[H, W, 3]; only the overlay needs it.
        temporary: how the names of unfinished files begin, on the same file system; by default
            they are hidden ones beside the finished.
    """
    target = epath.Path(output) / line["name"]
    if kinds:
        files.make_folder(target.parent)
    contents = {
        MASK: lambda: regions.mask_to_png(prediction.mask),
        "overlay": lambda: _png(overlay(photo, prediction)),
        "json": lambda: json.dumps(line, indent=2, ensure_ascii=False).encode() + b"\n"}
    for kind, content in contents.items():
        if kind in kinds:
            unfinished = temporary and (
                temporary.parent / f"{temporary.name}-{threading.get_ident()}-{kind}")
            files.write_bytes(target.parent / f"{target.name}{ENDINGS[kind]}", content(),
                              temporary=unfinished)


def remove(output: epath.PathLike, name: str, *, kinds: tuple[str, ...] = KINDS) -> None:
    """Remove what `write` may have written of a photo."""
    target = epath.Path(output) / name
    for kind in kinds:
        (target.parent / f"{target.name}{ENDINGS[kind]}").unlink(missing_ok=True)


def working_bytes(prediction: Prediction, kinds: tuple[str, ...] = KINDS) -> int:
    """About how much memory `as_json` and `write` hold for one photo, its own pixels included."""
    pixels = prediction.size[0] * prediction.size[1]
    masks = sum(region.mask is not None for region in prediction.regions)
    needed = pixels * (masks + 2)  # the masks and their encoding
    if MASK in kinds:
        needed += 3 * pixels
    if "overlay" in kinds:
        drawn = min(max(pixels, SMALLEST_DRAWN), OVERLAY_SIDE ** 2)
        needed += 3 * pixels + (DRAWING_BYTES + masks) * drawn
    return needed


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)  # 6 takes twice as long for a tenth less
    return buffer.getvalue()
