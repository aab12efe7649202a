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

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
import scipy.optimize
from pycocotools import mask as coco_mask

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
    found = np.zeros(len(iou))
    rows, columns = scipy.optimize.linear_sum_assignment(iou, maximize=True)
    found[rows] = iou[rows, columns]
    return found


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
    (ours, num), (theirs, wanted) = (scipy.ndimage.label(mask, _NEIGHBOURS)
                                     for mask in (predicted, truth))
    if not num or not wanted:
        return []
    table = np.bincount((ours.astype(np.int64) * (wanted + 1) + theirs).ravel(),
                        minlength=(num + 1) * (wanted + 1)).reshape(num + 1, wanted + 1)
    sizes, wanted_sizes = table.sum(1)[1:, None], table.sum(0)[None, 1:]
    both = table[1:, 1:]
    iou = both / (sizes + wanted_sizes - both)
    rows, columns = scipy.optimize.linear_sum_assignment(iou, maximize=True)
    return iou[rows, columns].tolist()


def average_precision(scores: np.ndarray, hits: np.ndarray, num_truth: np.ndarray,
                      weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the interpolated precision-recall curve, COCO's 101 points.

    Args:
        scores: float[P] of all predicted regions; equal ones keep their order.
        hits: bool[P].
        num_truth: int[R], true regions; one row for each set of weights.
        weights: int[R, P], how often every region is drawn; once, by default.

    Returns:
        float64[R]; NaN where there is no true region.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    number = np.ones((1, len(order)), int) if weights is None else np.asarray(weights)
    num_truth = np.asarray(num_truth)
    found = np.cumsum(number[:, order] * np.asarray(hits)[order], axis=1)
    precision = found / np.maximum(np.cumsum(number[:, order], axis=1), 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    areas = np.full(len(num_truth), np.nan)
    for row in np.flatnonzero(num_truth):
        places = np.searchsorted(found[row] / num_truth[row], _RECALLS, side="left")
        areas[row] = np.append(best[row], 0)[places].mean()
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
    kept = np.sort(np.argsort(-scores, kind="stable")[:MOST_REGIONS])
    return scores[kept], iou[kept], len(row["truth"])


def table(rows: Sequence[dict]) -> dict[str, np.ndarray]:
    """What every predicted region of a data set is, for `average_precision`.

    Returns:
        photo: int[P], place of its row; scores: float[P]; hungarian, coco: bool[P, 10], hits at
        each of THRESHOLDS; truth: int[N], true regions of every row; usable: bool[N], rows that
        count; legion: float[N, 10], share of pairs of components, NaN without marks.
    """
    photo, scores, hungarian, greedy = [], [], [], []
    truth, usable = np.zeros(len(rows), int), np.zeros(len(rows), bool)
    shares = np.full((len(rows), len(THRESHOLDS)), np.nan)
    for place, row in enumerate(rows):
        if row["counts"] is not None:
            pairs = np.array(row["component_ious"], np.float64)
            shares[place] = (pairs[:, None] >= THRESHOLDS).mean(0) if len(pairs) else 0
        if (found := of_row(row)) is None:
            continue
        usable[place], truth[place] = True, found[2]
        photo.append(np.full(len(found[0]), place))
        scores.append(found[0])
        hungarian.append(assigned(found[1])[:, None] >= THRESHOLDS)
        greedy.append(greedy_hits(found[1], found[0]))
    none = np.zeros((0, len(THRESHOLDS)), bool)
    return {"photo": np.concatenate([np.zeros(0, int), *photo]),
            "scores": np.concatenate([np.zeros(0), *scores]),
            "hungarian": np.concatenate([none, *hungarian]),
            "coco": np.concatenate([none, *greedy]),
            "truth": truth, "usable": usable, "legion": shares}


def block(rows: Sequence[dict]) -> dict | None:
    """Scores of the regions of rows, see the module's introduction; None where none are marked.

    Returns:
        hungarian, coco, legion: {"ap50", "map"}, None without a true region (photo, for the
            last); precision50, recall50: shares of predicted and of true regions that are a hit of
            the Hungarian assignment at IoU 0.5; matched_iou: mean IoU of a true region with the one
            assigned to it, 0 without; num_photos, num_predicted, num_true: what it is over.
    """
    found = table(rows)
    if not found["usable"].any():
        return None
    total, predicted = int(found["truth"].sum()), len(found["scores"])
    result = {name: _areas(found["scores"], found[name], total) for name in ("hungarian", "coco")}
    marked = ~np.isnan(found["legion"][:, 0])
    hits = np.count_nonzero(found["hungarian"][:, 0])
    overlap = sum(assigned(one[1]).sum() for one in map(of_row, rows) if one is not None)
    return result | {
        "legion": {"ap50": float(found["legion"][marked, 0].mean()),
                   "map": float(found["legion"][marked].mean())},
        "precision50": hits / predicted if predicted else None,
        "recall50": hits / total if total else None,
        "matched_iou": float(overlap / total) if total else None,
        "num_photos": int(found["usable"].sum()), "num_predicted": predicted, "num_true": total}


def _areas(scores: np.ndarray, hits: np.ndarray, total: int) -> dict[str, float | None]:
    if not total:
        return {"ap50": None, "map": None}
    areas = [average_precision(scores, column, np.array([total]))[0] for column in hits.T]
    return {"ap50": float(areas[0]), "map": float(np.mean(areas))}
