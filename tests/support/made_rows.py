"""Records, predictions and rows of evaluations, drawn at random or said in a few words."""

import io

import numpy as np
from PIL import Image

from input_pipeline.photos import regions
from input_pipeline.records.record import Record, Region as MarkedRegion
from legion_jax.evaluate import photo_rows
from legion_jax.evaluate.settings import DEFAULT
from legion_jax.predict.prediction import Prediction, Region

WORDS = "the left hand has six blurred fingers and no shadow".split()


def record(name: str, photo: np.ndarray | None = None, *, label: int = 2, polygons=(),
           caption: str = "", has_masks: bool = True, category: str = "", generator: str = "",
           size: tuple[int, int] = (16, 20)) -> Record:
    """A prepared record as it is read; without a photo its image is unreadable."""
    content = b"no image"
    if photo is not None:
        buffer, size = io.BytesIO(), photo.shape[:2]
        Image.fromarray(photo).save(buffer, "PNG")
        content = buffer.getvalue()
    return Record(
        id=name, dataset="made", file_name=f"{name}.png", group_id=name, image=content,
        label=label, caption=caption, category=category, generator=generator, height=size[0],
        width=size[1], has_masks=has_masks, regions=[
            MarkedRegion(f"region {n}", polygons=[p]) for n, p in enumerate(polygons)])


def prediction(size: tuple[int, int], masks=(), *, fake: float | None = 0.5, words=None,
               text: str = "", scores=None, finished: bool = True) -> Prediction:
    """A prediction that draws `masks` bool[H, W]; it is called real where fake < 0.5."""
    scores = [1.0] * len(masks) if scores is None else scores
    drawn = [Region("region", 0, 6, "", mask, score)
             for mask, score in zip(masks, scores, strict=True)]
    verdict = None if fake is None else "tampered" if fake >= 0.5 else "real"
    return Prediction(verdict, None if fake is None else max(fake, 1 - fake), fake, words, text,
                      text, finished, size, drawn)


def random_rows(seed: int, number: int, *, settings=DEFAULT) -> list[dict]:
    """Rows with everything that happens: photos that nobody marked, clean, unreadable, silent."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(number):
        label = int(rng.integers(-1, 3))
        polygons = [_box(rng) for _ in range(rng.integers(0, 4) if label else 0)]
        one = record(f"r{n}", label=label, polygons=polygons, has_masks=rng.random() > 0.2,
                     caption=" ".join(rng.choice(WORDS, 6)) if rng.random() > 0.2 else "",
                     category=str(rng.choice(["", "human", "scene"])), generator="ldm_200")
        known = photo_rows.begin(one, (16, 20), split=str(rng.choice(["progan", "dalle"])),
                                 settings=settings)
        if rng.random() < 0.1:
            rows.append(photo_rows.fail(known, "broken", settings=settings))
            continue
        masks = [_near(rng, p) for p in polygons if rng.random() > 0.3]
        masks += [_near(rng, _box(rng)) for _ in range(rng.integers(0, 2))]
        fake = None if rng.random() < 0.1 else float(rng.integers(0, 11) / 10)
        rows.append(photo_rows.finish(known, prediction(
            (16, 20), masks, fake=fake, text=" ".join(rng.choice(WORDS, 5)),
            words=[None, "real", "fake"][rng.integers(3)],
            scores=(rng.integers(0, 5, len(masks)) / 4).tolist()), settings=settings))
    return rows


def _box(rng: np.random.Generator) -> list[int]:
    x, y = int(rng.integers(0, 12)), int(rng.integers(0, 10))
    w, h = (int(v) for v in rng.integers(3, 8, 2))
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def _near(rng: np.random.Generator, polygon: list[int]) -> np.ndarray:
    moved = np.array(polygon) + np.tile(rng.integers(-1, 2, 2), 4)
    return regions.polygons_to_mask([np.maximum(moved, 0).tolist()], 16, 20).astype(bool)
