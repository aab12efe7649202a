"""Rows of photos -> the blocks of metrics.json."""

from collections.abc import Sequence

import numpy as np

from input_pipeline.records import verdict_classes
from input_pipeline.text.words import words
from legion_jax.evaluate import (
    fakevlm_accuracy,
    mask_scores,
    region_scores,
    teacher_forced,
    verdict_scores,
    weighted,
    word_verdicts,
)

LISTED_FAILURES = 100
# Not of a category.
_WHOLE_ONLY = ("by_split", "by_category", "by_generator", "reliability", "verdict_by", "classes")


def summary(rows: Sequence[dict], *, rule: str = "exact") -> dict:
    """All blocks that rows alone decide; `rule` is one of `mask_scores.RULES`.

    Returns:
        num_photos; num_failed, failures: photos that could not be read and why; num_unfinished:
        answers cut at the length limit; num_no_mask: photos with artifacts whose answer draws
        none; localisation, text, words; detection and groups where verdicts and labels are known;
        matching where single regions are marked; categories where there are any;
        published_accuracy where verdicts were read by FakeVLM's rule; teacher_forced where true
        answers were read as by SIDA's evaluation. A block is {} where there is nothing to score, a
        number None where there is no photo to take it over.
    """
    published = {"published_accuracy": fakevlm_accuracy.published_accuracy(
        fakevlm_accuracy.counts_of(rows))} if word_verdicts.source_of(
            rows) == word_verdicts.FAKEVLM else {}
    failed = [row for row in rows if row["failed"]]
    numbers = weighted.values(blocks(rows, rule=rule), len(rows))
    return {
        "num_photos": len(rows), "num_failed": len(failed),
        "failures": [{"id": row["id"], "reason": row["failed"]}
                     for row in failed[:LISTED_FAILURES]],
        "num_unfinished": sum(not row["finished"] and not row["failed"] for row in rows),
        "num_no_mask": sum(bool(row["counts"]) and row["counts"][0] + row["counts"][2] > 0
                           and not row["num_masks"] for row in rows),
        "localisation": numbers["localisation"], "categories": _categories(rows, rule=rule),
        "matching": numbers["matching"], "text": numbers["text"],
        "detection": numbers["detection"],
        "groups": verdict_scores.groups(numbers["detection"]) if numbers["detection"] else {},
        "words": numbers["words"], **published, **{
            name: numbers[name] for name in ("teacher_forced",) if name in numbers}}


def blocks(rows: Sequence[dict], *, rule: str) -> dict[str, dict]:
    """The blocks whose numbers have intervals, as trees of `weighted` over the rows."""
    return {"localisation": _localisation(rows, rule=rule),
            "matching": region_scores.matching(rows), "text": _text(rows),
            "detection": verdict_scores.block(rows), "words": verdict_scores.words(rows)} | (
                {"teacher_forced": teacher_forced.block(rows)}
                if any("forced" in row for row in rows) else {})


def _localisation(rows: Sequence[dict], *, rule: str) -> dict:
    """`mask_scores.localisation` of the rows somebody marked, and false masks on real photos.

    false_area_on_real is the mean share of predicted pixels over photos labelled real,
    false_area_on_real_shown with none where the verdict withholds the masks.
    """
    marked = [number for number, row in enumerate(rows) if row["counts"] is not None]
    tree = mask_scores.localisation(
        np.array([rows[number]["counts"] for number in marked], np.int64).reshape(-1, 4),
        rule=rule, failed=np.array([bool(rows[number]["failed"]) for number in marked], bool))
    area = np.array([row["mask_area"] for row in rows], np.float64)
    real = np.array([row["label"] == 0 for row in rows], bool)
    withheld = np.array([verdict_classes.means_real(row["verdict"]) for row in rows], bool)
    return weighted.among(np.array(marked, int), tree) | {
        "false_area_on_real": weighted.mean(area, real),
        "false_area_on_real_shown": weighted.mean(np.where(withheld, 0, area), real)}


def _text(rows: Sequence[dict]) -> dict:
    """Means over the rows with a reference, and how many these are."""
    rouge_l = [row["rouge_l"] for row in rows]
    return {"rouge_l": weighted.mean(rouge_l), "css": weighted.mean([row["css"] for row in rows]),
            "num": sum(value is not None for value in rouge_l),
            "num_wordless": sum(row["rouge_l"] is not None and not words(
                row["explanation"]) for row in rows)}


def _categories(rows: Sequence[dict], *, rule: str) -> dict[str, dict]:
    """{category: {"num_photos", "localisation", "detection", "text"}}, blank ones left out."""
    parts: dict[str, list[dict]] = {}
    for row in rows:
        if row["category"]:
            parts.setdefault(row["category"], []).append(row)
    return {name: {"num_photos": len(part)} | weighted.values({
        "localisation": _localisation(part, rule=rule),
        "detection": {key: score for key, score in verdict_scores.block(part).items()
                      if key not in _WHOLE_ONLY and not key.startswith("mean_")},
        "text": _text(part)}, len(part)) for name, part in sorted(parts.items())}
