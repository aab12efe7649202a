"""Rows of photos -> the blocks of metrics.json."""

from collections.abc import Callable, Sequence

import numpy as np

from legion_jax.evaluate import mask_scores, region_scores, text_scores, verdict_scores

LISTED_FAILURES = 100
_PLAIN = ("by_split", "by_category", "by_generator", "reliability")


def summary(rows: Sequence[dict], *, rule: str = "exact") -> dict:
    """All blocks that rows alone decide; `rule` is one of `metrics.RULES`.

    Returns:
        num_photos; num_failed, failures: photos that could not be read and why; num_unfinished:
        answers cut at the length limit; num_no_mask: photos with artifacts whose answer draws
        none; localisation, text, words; detection and groups where verdicts and labels are known;
        matching where single regions are marked; categories where there are any. A block is {}
        where there is nothing to score.
    """
    failed = [r for r in rows if r["failed"]]
    found = verdict_scores.block(rows)
    return {
        "num_photos": len(rows), "num_failed": len(failed),
        "failures": [{"id": r["id"], "reason": r["failed"]} for r in failed[:LISTED_FAILURES]],
        "num_unfinished": sum(not r["finished"] and not r["failed"] for r in rows),
        "num_no_mask": sum(bool(r["counts"]) and r["counts"][0] + r["counts"][2] > 0
                           and not r["num_masks"] for r in rows),
        "localisation": localisation(rows, rule=rule), "categories": categories(rows, rule=rule),
        "matching": region_scores.block(rows) or {}, "text": text(rows), "detection": found or {},
        "groups": verdict_scores.groups(found) if found else {},
        "words": verdict_scores.words(rows)}


def localisation(rows: Sequence[dict], *, rule: str) -> dict:
    """`metrics.localisation` of the rows somebody marked, and false masks on real photos.

    false_area_on_real is the mean share of predicted pixels over photos labelled real,
    false_area_on_real_shown with none where the verdict withholds the masks; None without such.
    """
    marked = [r for r in rows if r["counts"] is not None]
    result = mask_scores.localisation(
        np.array([r["counts"] for r in marked], np.int64).reshape(-1, 4), rule=rule,
        failed=np.array([bool(r["failed"]) for r in marked], bool))
    real = [r for r in rows if r["label"] == 0]
    return result | {
        "false_area_on_real": _mean([r["mask_area"] for r in real]),
        "false_area_on_real_shown": _mean([
            0.0 if r["verdict"] == "real" else r["mask_area"] for r in real])}


def text(rows: Sequence[dict]) -> dict:
    """{"rouge_l", "css": means over the rows with a reference or None, "num": those}."""
    scored = [r for r in rows if r["rouge_l"] is not None]
    return {"rouge_l": _mean([r["rouge_l"] for r in scored]),
            "css": _mean([r["css"] for r in scored if r["css"] is not None]),
            "num": len(scored)}


def categories(rows: Sequence[dict], *, rule: str) -> dict[str, dict]:
    """{category: {"num_photos", "localisation", "detection", "text"}}, blank ones left out."""
    parts: dict[str, list[dict]] = {}
    for row in rows:
        if row["category"]:
            parts.setdefault(row["category"], []).append(row)
    return {name: {"num_photos": len(part), "localisation": localisation(part, rule=rule),
                   "detection": {key: value
                                 for key, value in (verdict_scores.block(part) or {}).items()
                                 if key not in _PLAIN and not key.startswith("mean_")},
                   "text": text(part)}
            for name, part in sorted(parts.items())}


def add_css(rows: Sequence[dict], encode: Callable[[list[str]], np.ndarray]) -> None:
    """Set `css` of every row with a reference, see `texts.cosines`."""
    scored = [r for r in rows if r["rouge_l"] is not None]
    values = text_scores.cosines([r["explanation"] for r in scored],
                                 [r["reference"] for r in scored],
                                 encode)
    for row, value in zip(scored, values, strict=True):
        row["css"] = value


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values, dtype=np.float64)) if len(values) else None
