"""Folders as an evaluation writes them, with real photographs and masks that could be."""

import functools
import io
import json
import pathlib
import zlib

import numpy as np
import pytest
import scipy.ndimage
import skimage.data
from PIL import Image
from pycocotools import mask as coco_mask
from repository import SHARED
from rouge_score import rouge_scorer
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    roc_auc_score,
)

from input_pipeline.photos.perturbations import GRID
from input_pipeline.photos.regions import mask_to_rle
from legion_jax.evaluate import mask_scores, weighted

WORDS = ("the left hand", "a melted ear", "letters on the sign", "two shadows", "the sky's edge",
         "a sixth finger", "the chair's legs", "a reflection")
WHY = ("does not end where it should.", "merges with what is behind it.", "has no source of light.",
       "repeats a pattern that nature would not.", "spells no word of any language.")
CATEGORIES, GENERATORS = ("human", "object", "animal", "scene"), ("flux", "sdxl", "midjourney")
EVIL = ("set/a b/1.png", "quote\"'&<b>", "</script><script>alert(1)</script>", "größe/雪 🦊.jpg",
        "100% #1?", "..", " blank ")
CONVENTIONS = {
    "localisation": "The union of all predicted masks against the union of all marked regions, at "
                    "the size of the original photo; a mask is where its logit is above 0.",
    "localisation.mean": "Scored photo by photo, then averaged; nothing marked by either is 1.",
    "localisation.pooled": "The pixels of all photos counted together.",
    "detection": "Fake is what is not real. The verdict is the head's most probable class.",
    "text": "Explanations decoded greedily from the photo alone; words lower-cased, no stemming.",
    "matching": "Predicted and marked regions are paired to the largest sum of IoU.",
    "words": "What the first sentence of the answer says, read by a list of words."}


@functools.cache
def photographs() -> list[np.ndarray]:
    """Real photographs, uint8[H, W, 3]."""
    pictures = [getattr(skimage.data, name)()
                for name in ("astronaut", "chelsea", "coffee", "rocket")]
    for path in sorted((SHARED / "photos").glob("*.jpg")) if SHARED.is_dir() else []:
        with Image.open(path) as image:
            pictures.append(np.asarray(image.convert("RGB")))
    return pictures


def write(folder: pathlib.Path, number: int, *, seed: int = 0, skill: float = 0.7,
          side: int = 900, **changes) -> dict[str, bytes]:
    """Writes metrics.json and rows.jsonl of `number` photos; returns the encoded photos.

    skill: 0 to 1, how close the answers are to the truth, which `seed` does not change.
    changes: keys of metrics.json that are others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    photos, rows = {}, []
    for k in range(number):
        name, content, row = _record(k, seed, skill, side)
        photos[name] = content
        rows.append(row)
    write_rows(folder, rows)
    (folder / "metrics.json").write_text(json.dumps(summary(rows, seed) | changes))
    return photos


def write_rows(folder: pathlib.Path, rows: list[dict]) -> None:
    """Writes rows.jsonl."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")


def rows_of(folder: pathlib.Path) -> list[dict]:
    """The rows of rows.jsonl."""
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def copy(written: tuple[pathlib.Path, dict], to: pathlib.Path, **changes) -> dict[str, bytes]:
    """The folder again, with other keys in metrics.json or none where the value is ...; photos."""
    path, encoded = written
    metrics = json.loads((path / "metrics.json").read_text()) | changes
    metrics = {name: value for name, value in metrics.items() if value is not ...}
    (to / "metrics.json").write_text(json.dumps(metrics))
    (to / "rows.jsonl").write_bytes((path / "rows.jsonl").read_bytes())
    return encoded


def summary(rows: list[dict], seed: int = 0) -> dict:
    """metrics.json of rows; intervals are made up, everything else is computed."""
    block = _blocks(rows)
    rng = np.random.default_rng(seed)
    metrics = {
        "checkpoint": "runs/legion_7b", "data": "synthscars/photos", "split": "test",
        "settings": {"explain": "always", "max_new_tokens": 512, "sam_longest": 0,
                     "instruction": "Is this photo real? Explain."},
        "conventions": CONVENTIONS, "num_photos": len(rows), "num_failed": 0,
        "num_unfinished": sum(not row["finished"] for row in rows), **block,
        "categories": {c: _blocks([r for r in rows if r["category"] == c]) | {
            "num_photos": sum(r["category"] == c for r in rows)} for c in CATEGORIES},
        "matching": {"hungarian": {"ap50": 0.221, "map": 0.094}, "recall50": 0.412,
                     "precision50": 0.377, "num_photos": len(rows)},
        "words": {"agreement": 0.913, "num_disagree": sum(r["words_agree"] is False for r in rows),
                  "num": len(rows)},
        "groups": {},
        "robustness": [_damaged(block, name, level, k + 1, rng)
                       for name, levels in GRID.items() for k, level in enumerate(levels)]}
    metrics["intervals"] = dict(_intervals(metrics, rng))
    return metrics


def _record(k: int, seed: int, skill: float, side: int) -> tuple[str, bytes, dict]:
    truth_rng = np.random.default_rng(1000 + k)
    rng = np.random.default_rng(zlib.crc32(f"{seed} {k}".encode()))
    image = photographs()[k % len(photographs())]
    image = image[:, ::-1] if k // len(photographs()) % 2 else image
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    size = picture.height, picture.width
    label = (2, 1, 0, 1, 0, 2)[k % 6]
    name = EVIL[k % 12] if k < 12 and k % 12 < len(EVIL) else f"test/{k:05d}.jpg"
    truths = [_blob(truth_rng, size) for _ in range(0 if label == 0 else truth_rng.integers(1, 4))]
    said = [_moved(mask, rng, size) for mask in truths if rng.random() < skill]
    said += [_blob(rng, size) for _ in range(rng.integers(0, 2) if rng.random() > skill else 0)]
    fake = float(np.clip(rng.normal(0.5 + (0.45 if label else -0.45) * skill, 0.25), 0.002, 0.998))
    return name, buffer.getvalue(), _row(name, label, size, truths, said, fake, truth_rng, rng, k)


def _row(name, label, size, truths, said, fake, truth_rng, rng, k) -> dict:
    phrases = [WORDS[i] for i in truth_rng.permutation(len(WORDS))[:len(truths)]]
    reference = " ".join(f"In this photo {p} {WHY[i % len(WHY)]}" for i, p in enumerate(phrases))
    named = [*phrases, *WORDS][:len(said)]
    text, regions = ("The photo shows several signs of synthesis. " if said else
                     "Nothing in this photo points to a generator. 🦊"), []
    for phrase, mask in zip(named, said, strict=True):
        detail = WHY[rng.integers(len(WHY))]
        start = len(text) + len("🔎 Here ")
        text += f"🔎 Here {phrase} {detail} "
        regions.append({"phrase": phrase, "span": [start, start + len(phrase)], "detail": detail,
                        "rle": mask_to_rle(mask), "score": round(float(rng.uniform(0.5, 1)), 4)})
    union = np.logical_or.reduce([np.zeros(size, bool), *truths])
    counts = mask_scores.pixel_counts(np.logical_or.reduce([np.zeros(size, bool), *said]), union)
    verdict = "real" if fake < 0.5 else ("tampered" if fake > 0.8 else "synthetic")
    words = "fake" if (fake >= 0.5) != (k % 7 == 3) else "real"
    return {
        "id": name, "label": label, "category": CATEGORIES[k % 4],
        "generator": GENERATORS[k % 3] if label else "", "size": list(size), "verdict": verdict,
        "probability": max(fake, 1 - fake), "fake_probability": fake, "words": words,
        "words_agree": (words == "real") == (verdict == "real"), "finished": k % 11 != 5,
        "explanation": text.strip(), "answer": text + "</s>", "reference": reference,
        "rouge_l": _rouge_l(text, reference), "css": round(float(rng.uniform(0, 1)), 4),
        "counts": counts.tolist(), **mask_scores.pixel_scores(counts), "num_regions": len(truths),
        "num_masks": len(said), "regions": regions,
        "truth": [{"phrase": p, "rle": mask_to_rle(m)}
                  for p, m in zip(phrases, truths, strict=True)],
        "truth_rle": mask_to_rle(union), "split": "test", "failed": None, "component_ious": [],
        "mask_area": float(counts[:2].sum() / counts.sum()),
        "ious": np.asarray(coco_mask.iou([r["rle"] for r in regions], [
            mask_to_rle(m) for m in truths], [0] * len(truths))).tolist() if said and truths
                else [[] for _ in said]}


def _blob(rng, size) -> np.ndarray:
    """A smooth patch, a few per cent of the photo."""
    rough = rng.normal(size=(9, 9))
    rough[rng.integers(2, 7), rng.integers(2, 7)] += 6
    scale = size[0] / 9, size[1] / 9
    smooth = scipy.ndimage.zoom(rough, scale, order=3)[:size[0], :size[1]]
    smooth = np.pad(smooth, [(0, size[0] - smooth.shape[0]), (0, size[1] - smooth.shape[1])])
    mask = smooth > smooth.max() * rng.uniform(0.45, 0.8)
    return scipy.ndimage.label(mask)[0] == scipy.ndimage.label(mask)[0].flat[smooth.argmax()]


def _moved(mask, rng, size) -> np.ndarray:
    reach = max(2, size[1] // 25)
    return np.roll(mask, rng.integers(-reach, reach + 1, 2), (0, 1))


def _blocks(rows: list[dict]) -> dict:
    fake = np.array([r["fake_probability"] for r in rows])
    truth, said = np.array([r["label"] > 0 for r in rows]), fake >= 0.5
    verdicts = {"accuracy": accuracy_score(truth, said),
                "f1": f1_score(truth, said, zero_division=0),
                "accuracy_real": float((~said[~truth]).mean()) if not truth.all() else None,
                "accuracy_fake": float(said[truth].mean()) if truth.any() else None,
                "auc": None, "average_precision": None, "num": len(rows)}
    if truth.any() and not truth.all():
        verdicts |= {"auc": roc_auc_score(truth, fake),
                     "average_precision": average_precision_score(truth, fake)}
    sure, right, bins = np.maximum(fake, 1 - fake), said == truth, []
    for low in np.arange(0.5, 1, 0.05):
        mine = (sure >= low) & (sure < low + 0.05)
        bins.append({"low": float(low), "high": float(low + 0.05), "num": int(mine.sum()),
                     "confidence": float(sure[mine].mean()) if mine.any() else None,
                     "accuracy": float(right[mine].mean()) if mine.any() else None})
    verdicts["ece"] = float(sum(b["num"] * abs(b["confidence"] - b["accuracy"])
                                for b in bins if b["num"]) / max(1, len(rows)))
    verdicts["reliability"] = bins
    verdicts["by_generator"] = {name: {"accuracy": float(right[at].mean()), "num": int(at.sum())}
                                for name in GENERATORS if (at := np.array(
                                 [r["generator"] == name for r in rows])).any()}
    text = {"rouge_l": float(np.mean([r["rouge_l"] for r in rows])), "num": len(rows)}
    masks = mask_scores.localisation(np.array([r["counts"] for r in rows]))
    return {"localisation": weighted.values(masks, len(rows)),
            "detection": verdicts,
            "text": text | {"css": 0.51, "css_model": "paraphrase-MiniLM-L6-v2"}}


def _rouge_l(prediction: str, reference: str) -> float:
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    return float(scorer.score(reference, prediction)["rougeL"].fmeasure)


def _damaged(block: dict, name: str, level: float, step: int, rng) -> dict:
    weaker = 1 - 0.09 * step + rng.normal() * 0.01

    def scaled(values):
        return {key: value * weaker if isinstance(value, float) else value
                for key, value in values.items() if not isinstance(value, list | dict)}

    place = {"mean": scaled(block["localisation"]["mean"])}
    return {"name": name, "level": level, "localisation": place,
            "detection": scaled(block["detection"]), "text": scaled(block["text"])}


def _intervals(block: dict, rng, path: str = ""):
    for key, value in block.items():
        where = f"{path}{key}"
        if where in ("robustness", "settings", "conventions"):
            continue
        if isinstance(value, dict):
            yield from _intervals(value, rng, f"{where}.")
        elif isinstance(value, float):
            wide = 0.02 + 0.02 * rng.random()
            yield where, [max(0.0, value - wide), min(1.0, value + wide)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluation")
    return path, write(path, 14, side=240)
