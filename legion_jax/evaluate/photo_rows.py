"""One photo of an evaluation as a line of JSON: what is true, what was predicted, how it scores."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from input_pipeline.photos import images, perturbations, regions
from input_pipeline.records.record import DataError, Record, RecordError
from legion_jax.evaluate import mask_scores, region_scores, text_scores, word_verdicts
from legion_jax.evaluate.settings import Settings
from legion_jax.predict.prediction import Prediction


def begin(record: Record, size: tuple[int, int], *, split: str, settings: Settings) -> dict:
    """What is known of a photo of `size` before the model sees it: half of its row."""
    truth, union = truth_of(record, size, rasteriser=settings.rasteriser)
    return {
        "id": record.id, "split": split, "label": record.label,
        "category": record.category, "generator": record.generator,
        "size": [int(side) for side in size], "reference": record.caption,
        "num_regions": len(truth), "truth": truth, "truth_rle": union}


def truth_of(record: Record, size: tuple[int, int], *,
             rasteriser: str) -> tuple[list[dict], dict | None]:
    """Marked regions [{"phrase", "rle"}] and the run-length code of all that is marked.

    The code is None where nobody looked for artifacts. Raises DataError naming the record when a
    region covers no pixel of a photo of this size.
    """
    if not record.has_masks:
        return [], None
    try:
        truth = [{"phrase": region.phrase,
                  "rle": regions.mask_to_rle(region.pixels(size, rasteriser=rasteriser))}
                 for region in record.regions]
        return truth, regions.mask_to_rle(record.marked(size, rasteriser=rasteriser))
    except regions.RegionError as error:
        raise DataError(f"record {record.id}: {error}") from error


def finish(known: dict, prediction: Prediction, *, settings: Settings, question: str = "") -> dict:
    """The row of a photo from its first half and what was predicted.

    `question`: as it was asked, of which a published rule for verdicts makes use.
    """
    judged = word_verdicts.judge(prediction, settings.verdict_rule, photo=known["id"],
                                 question=question)
    named = [{"phrase": region.phrase, "span": [region.start, region.end],
              "detail": region.detail,
              "rle": None if region.mask is None else regions.mask_to_rle(region.mask),
              "score": region.score}
             for region in prediction.regions]
    masks = [region["rle"] for region in named if region["rle"] is not None]
    mask = prediction.mask
    row = known | {
        "failed": None, "verdict": judged.verdict, "probability": judged.probability,
        "fake_probability": prediction.fake_probability, "verdict_by": judged.by,
        "classes": list(prediction.classes), "drawn": judged.drawn, "words": prediction.words,
        "words_agree": judged.words_agree, "finished": prediction.finished,
        "explanation": prediction.explanation, "answer": prediction.answer,
        "regions": named, "num_masks": len(masks), "mask_area": float(mask.mean()),
        **_pixel_scores(mask, known["truth_rle"], settings)}
    truth = [region["rle"] for region in known["truth"]]
    return row | {"ious": region_scores.overlaps(masks, truth).tolist()} | _text_scores(row)


def fail(known: dict, reason: str, *, settings: Settings) -> dict:
    """The row of a photo that could not be read: no answer, an empty mask, every score 0."""
    row = known | {
        "failed": reason, "verdict": None, "probability": None, "fake_probability": None,
        "verdict_by": None, "classes": [], "drawn": False, "words": None, "words_agree": None,
        "finished": False, "explanation": "", "answer": "", "regions": [],
        "num_masks": 0, "mask_area": 0.0, "ious": [],
        **_pixel_scores(np.zeros(known["size"], bool), known["truth_rle"], settings)}
    zeros = {name: 0.0 for name in mask_scores.NAMES if row[name] is not None}
    return row | zeros | _text_scores(row)


def predicted(predictor, source: "Source", numbers: Iterable[int], *,
              settings: Settings, question: str = "") -> Iterator[tuple[int, dict]]:
    """Evaluate records `numbers` of a source; photos are read as the predictor takes them.

    Yields (number, row), each once, in the order in which they are finished; `question` is as of
    `finish`.
    """
    known, unreadable = {}, []

    def photos():
        for number in numbers:
            half, photo, reason = _read(source, number, settings)
            if photo is None:
                unreadable.append((number, fail(half, reason, settings=settings)))
            else:
                known[number] = half
                yield number, photo

    for number, prediction in predictor.stream(photos(), explain="always"):
        while unreadable:
            yield unreadable.pop()
        yield number, finish(known.pop(number), prediction, settings=settings, question=question)
    yield from unreadable


class Source:
    """Records of one or several splits under one number each, and the split each is of."""

    def __init__(self, parts: Sequence[tuple[str, Sequence[Record]]]):
        """`parts`: (name of the split, its records)."""
        self.parts = list(parts)
        self._ends = np.cumsum([len(records) for _, records in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def at(self, number: int) -> tuple[str, int, Sequence[Record]]:
        """(split, number in it, its records) of a record."""
        part = int(np.searchsorted(self._ends, number, side="right"))
        name, records = self.parts[part]
        return name, number - int(self._ends[part]) + len(records), records


def _read(source: Source, number: int, settings: Settings):
    """(first half of the row, photo uint8[H, W, 3] or None, why there is none)."""
    split, own_number, records = source.at(number)
    try:
        record = records[own_number]
    except RecordError as error:
        # Nothing is known of it, not even its truth.
        return {"id": f"{split}[{own_number}]", "split": split, "label": -1, "category": "",
                "generator": "", "size": [1, 1], "reference": "", "num_regions": 0, "truth": [],
                "truth_rle": None}, None, str(error)
    try:
        photo = images.read_image(record.image, name=record.id)
    except images.ImageError as error:
        size = record.height, record.width
        return begin(record, size, split=split, settings=settings), None, str(error)
    if settings.perturbation:
        photo = perturbations.perturb(photo, settings.perturbation, settings.level,
                                      record_id=record.id)
    return begin(record, photo.shape[:2], split=split, settings=settings), photo, ""


def _pixel_scores(mask: np.ndarray, truth: dict | None, settings: Settings) -> dict:
    if truth is None:
        return {"counts": None, **dict.fromkeys(mask_scores.NAMES), "component_ious": []}
    true = regions.rle_to_mask(truth).astype(bool)
    counts = mask_scores.pixel_counts(mask, true)
    return {"counts": [int(c) for c in counts],
            **mask_scores.pixel_scores(counts, rule=settings.pixel_rule),
            "component_ious": region_scores.component_pairs(mask, true)}


def _text_scores(row: dict) -> dict:
    """A record without a reference has no score; `css` comes later, if an encoder is named."""
    reference = row["reference"]
    return {"rouge_l": text_scores.rouge_l(row["explanation"], reference) if reference else None,
            "css": None}
