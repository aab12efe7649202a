"""Predicted regions against true ones: which phrase's mask found which artifact.

Three conventions, because they give three numbers:

* `hungarian`: in every photo the assignment of predicted to true regions with the largest summed
  IoU; a pair is a hit where its IoU reaches the threshold. All predicted regions of the data set
  are then ranked by their score, and AP is COCO's area under the interpolated precision-recall
  curve (101 points). A region may be counted as a miss because its truth went to another that
  overlaps it more, whatever their scores.
* `coco`: as pycocotools' COCOeval does it (masks, one category, all areas, at most 100 regions a
  photo): at every threshold regions take, by falling score, the free truth they overlap most.
* `legion`: what LEGION's helper computes per photo: connected components (8 neighbours) of both
  *union* masks, assigned as above; the share of assigned pairs that reach the threshold. Regions
  left over on either side cost nothing, no score ranks anything, and a photo without a true or
  without a predicted pixel has 0. Averaged over photos.

`ap50` is at IoU 0.5, `map` the mean over 0.5, 0.55 ... 0.95.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.ndimage
import scipy.optimize
from pycocotools import mask as coco_mask

from legion_jax.evaluate import weighted

THRESHOLDS = np.linspace(0.5, 0.95, 10)
MOST_REGIONS = 100  # of a photo, those with the highest scores, as COCO counts
_RECALLS = np.linspace(0, 1, 101)
_NEIGHBOURS = np.ones((3, 3), int)


def overlaps(predicted: Sequence[dict], truth: Sequence[dict]) -> np.ndarray:
    """IoU of run-length codes (`regions.mask_to_rle`), each with each: float64[P, G]."""
    if not predicted or not truth:
        return np.zeros((len(predicted), len(truth)))
    return np.asarray(coco_mask.iou(list(predicted), list(truth), [0] * len(truth)), np.float64)


def assigned(iou: np.ndarray) -> np.ndarray:
    """IoU of every predicted region with the truth assigned to it, 0 without: [P, G] -> [P]."""
    overlap = np.zeros(len(iou))
    rows, columns = scipy.optimize.linear_sum_assignment(iou, maximize=True)
    overlap[rows] = iou[rows, columns]
    return overlap


def greedy_hits(iou: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Which predicted regions are hits by COCO's rule: bool[P, 10], one column a threshold."""
    hits = np.zeros((len(iou), len(THRESHOLDS)), bool)
    order = np.argsort(-np.asarray(scores), kind="stable")
    for column, threshold in enumerate(THRESHOLDS):
        free = np.ones(iou.shape[1], bool)
        for row in order:
            candidates = np.where(free, iou[row], -1)
            # COCO goes on to a later truth that overlaps as much; it makes no score better.
            best = len(candidates) - 1 - int(np.argmax(candidates[::-1])) if free.any() else -1
            if best >= 0 and candidates[best] >= min(threshold, 1 - 1e-10):
                free[best], hits[row, column] = False, True
    return hits


def component_pairs(predicted: np.ndarray, truth: np.ndarray) -> list[float]:
    """IoU of the assigned pairs of connected components of two masks bool[H, W]."""
    (ours, num_ours), (theirs, num_theirs) = (scipy.ndimage.label(mask, _NEIGHBOURS)
                                              for mask in (predicted, truth))
    if not num_ours or not num_theirs:
        return []
    pixels = np.bincount((ours.astype(np.int64) * (num_theirs + 1) + theirs).ravel(),
                         minlength=(num_ours + 1) * (num_theirs + 1)
                         ).reshape(num_ours + 1, num_theirs + 1)
    both = pixels[1:, 1:]
    iou = both / (pixels.sum(1)[1:, None] + pixels.sum(0)[None, 1:] - both)
    rows, columns = scipy.optimize.linear_sum_assignment(iou, maximize=True)
    return iou[rows, columns].tolist()


def average_precision(scores: np.ndarray, hits: np.ndarray, num_truth: np.ndarray,
                      drawn: np.ndarray) -> np.ndarray:
    """Area under the interpolated precision-recall curve, COCO's 101 points.

    Args:
        scores: float[P] of all predicted regions; equal ones keep their order.
        hits: bool[P].
        num_truth: int[R], true regions in each of R resamples.
        drawn: int[R, P], how often every predicted region is in them.

    Returns:
        float64[R]; NaN where there is no true region.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    drawn = drawn[:, order]
    num_hits = np.cumsum(drawn * hits[order], axis=1)
    precision = num_hits / np.maximum(np.cumsum(drawn, axis=1), 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    areas = np.full(len(num_truth), np.nan)
    for row in np.flatnonzero(num_truth):
        points = np.searchsorted(num_hits[row] / num_truth[row], _RECALLS, side="left")
        areas[row] = np.append(best[row], 0)[points].mean()
    return areas


def of_row(row: dict) -> tuple[np.ndarray, np.ndarray, int] | None:
    """(scores [P], IoU [P, G], G) of a row, or None where regions cannot be told apart.

    That is where nobody marked artifacts, or only all of them together. Regions without a mask
    are no prediction; of more than MOST_REGIONS, those with the lowest scores are left out.
    """
    if row["counts"] is None or (not row["truth"] and sum(row["counts"][::2])):
        return None
    scores = np.array([r["score"] for r in row["regions"] if r["rle"] is not None], np.float64)
    iou = np.array(row["ious"], np.float64).reshape(len(scores), len(row["truth"]))
    surest = np.sort(np.argsort(-scores, kind="stable")[:MOST_REGIONS])
    return scores[surest], iou[surest], len(row["truth"])


def matching(rows: Sequence[dict]) -> dict:
    """Scores of the regions of N rows, see the module's introduction.

    Returns:
        A tree of `weighted` over the rows, {} where no photo's regions are marked one by one:
        hungarian, coco, legion: ap50 and map, over no true region (photo, for the last) None;
        precision50, recall50: shares of predicted and of true regions that are a hit of the
            Hungarian assignment at IoU 0.5; matched_iou: mean IoU of a true region with the one
            assigned to it, 0 without; num_photos, num_predicted, num_true: what it is over.
    """
    table = _table(rows)
    if not table.usable.any():
        return {}
    num_true, num_predicted = int(table.num_true.sum()), len(table.scores)
    hits = np.count_nonzero(table.hungarian[:, 0])
    return {
        "hungarian": _areas(table, table.hungarian), "coco": _areas(table, table.coco),
        "legion": {"ap50": weighted.mean(table.legion[:, 0]),
                   "map": weighted.mean(table.legion.mean(axis=1))},
        "precision50": hits / num_predicted if num_predicted else None,
        "recall50": hits / num_true if num_true else None,
        "matched_iou": table.overlap / num_true if num_true else None,
        "num_photos": int(table.usable.sum()), "num_predicted": num_predicted,
        "num_true": num_true}


@dataclasses.dataclass(frozen=True)
class _Table:
    """All P predicted regions of N rows side by side.

    Attributes:
        photo: int[P], the number of each region's row.
        scores: float[P].
        hungarian, coco: bool[P, 10], hits at each of THRESHOLDS.
        overlap: sum of the IoU of all pairs of the Hungarian assignment.
        num_true: int[N], true regions of every row.
        usable: bool[N], rows whose regions can be told apart.
        legion: float[N, 10], share of pairs of components that are hits, NaN without marks.
    """

    photo: np.ndarray
    scores: np.ndarray
    hungarian: np.ndarray
    coco: np.ndarray
    overlap: float
    num_true: np.ndarray
    usable: np.ndarray
    legion: np.ndarray


def _table(rows: Sequence[dict]) -> _Table:
    none = np.zeros((0, len(THRESHOLDS)), bool)
    photo, scores, hungarian, coco = [np.zeros(0, int)], [np.zeros(0)], [none], [none]
    num_true, usable = np.zeros(len(rows), int), np.zeros(len(rows), bool)
    legion = np.full((len(rows), len(THRESHOLDS)), np.nan)
    overlap = 0.0
    for number, row in enumerate(rows):
        if row["counts"] is not None:
            pairs = np.array(row["component_ious"], np.float64)
            legion[number] = (pairs[:, None] >= THRESHOLDS).mean(0) if len(pairs) else 0
        if (regions := of_row(row)) is None:
            continue
        own_scores, iou, num_true[number] = regions
        usable[number] = True
        pairs = assigned(iou)
        overlap += float(pairs.sum())
        photo.append(np.full(len(own_scores), number))
        scores.append(own_scores)
        hungarian.append(pairs[:, None] >= THRESHOLDS)
        coco.append(greedy_hits(iou, own_scores))
    return _Table(*map(np.concatenate, (photo, scores, hungarian, coco)), overlap, num_true, usable,
                  legion)


def _areas(table: _Table, hits: np.ndarray) -> dict[str, weighted.Score]:
    """ap50 and map of regions whose hits are bool[P, 10]."""
    def mean_of(columns: np.ndarray) -> weighted.Score:
        def score(draws: np.ndarray) -> np.ndarray:
            drawn, num_true = draws[:, table.photo], draws @ table.num_true
            return np.mean([average_precision(table.scores, column, num_true, drawn)
                            for column in columns], axis=0)
        return score
    return {"ap50": mean_of(hits.T[:1]), "map": mean_of(hits.T)}
