"""Predicted and true regions: by hand, and against COCOeval."""

import contextlib
import io

import numpy as np
import pytest
from made_rows import prediction, record
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from input_pipeline.photos import regions
from legion_jax.evaluate import photo_rows, region_scores, weighted
from legion_jax.evaluate.settings import DEFAULT

SIZE = (40, 50)


def box(x, y, w, h):
    mask = np.zeros(SIZE, bool)
    mask[y:y + h, x:x + w] = True
    return mask


def polygon(x, y, w, h):
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def row(truth, predicted, scores=None, **facts):
    """The row of a photo with true boxes and predicted boxes (x, y, w, h)."""
    known = photo_rows.begin(record("a", polygons=[polygon(*t) for t in truth], **facts), SIZE,
                             split="", settings=DEFAULT)
    return photo_rows.finish(known, prediction(SIZE, [box(*p) for p in predicted], scores=scores),
                             settings=DEFAULT)


def matched(rows):
    """`region_scores.matching` as numbers."""
    return weighted.values(region_scores.matching(rows), len(rows))


def coco_eval(rows):
    """(AP at 0.5, mean AP) of pycocotools."""
    images, truth, predicted = [], [], []
    for n, one in enumerate(rows):
        images.append({"id": n, "height": one["size"][0], "width": one["size"][1]})
        truth += [{"image_id": n, "category_id": 1, "iscrowd": 0, "segmentation": t["rle"],
                   "area": int(regions.rle_to_mask(t["rle"]).sum())} for t in one["truth"]]
        predicted += [{"image_id": n, "category_id": 1, "segmentation": r["rle"],
                       "score": r["score"]}
                      for r in one["regions"]]
    for n, one in enumerate(truth, 1):  # 0 would mean: not matched
        one["id"] = n
    with contextlib.redirect_stdout(io.StringIO()):
        base = COCO()
        base.dataset = {"images": images, "annotations": truth, "categories": [{"id": 1}]}
        base.createIndex()
        judge = COCOeval(base, base.loadRes(predicted), "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats[1], judge.stats[0]


def random_photo(rng, *, apart: bool):
    """True boxes and predictions near them; `apart`: no prediction meets two truths."""
    step = 16 if apart else 4
    places = [(2 + step * column, 2 + step * row) for column in range(3) for row in range(3)]
    chosen = rng.permutation(len(places))[:rng.integers(0, 5)]
    truth = [(*places[c], *(int(v) for v in rng.integers(6, 9, 2))) for c in chosen]
    predicted = []
    for x, y, w, h in truth:
        for _ in range(1 if apart else rng.integers(0, 4)):
            dx, dy = rng.integers(0, 3, 2)
            predicted.append((x + int(dx), y + int(dy), w, h))
    if not apart and rng.random() < 0.5:
        predicted.append((0, 0, 5, 5))
    return row(truth, predicted, (rng.integers(0, 6, len(predicted)) / 5).tolist())


@pytest.mark.parametrize("seed", range(6))
def test_greedy_matching_is_cocos(seed):
    rng = np.random.default_rng(seed)
    rows = [random_photo(rng, apart=False) for _ in range(25)]
    scores = matched(rows)
    ap50, average = coco_eval(rows)
    assert scores["coco"] == pytest.approx({"ap50": ap50, "map": average})
    assert 0.05 < average < 0.9
    assert scores["hungarian"] != scores["coco"]


@pytest.mark.parametrize("seed", range(6))
def test_both_matchings_agree_where_nothing_competes(seed):
    rng = np.random.default_rng(seed)
    rows = [random_photo(rng, apart=True) for _ in range(25)]
    scores = matched(rows)
    assert scores["hungarian"] == scores["coco"]
    ap50, average = coco_eval(rows)
    assert scores["hungarian"] == pytest.approx({"ap50": ap50, "map": average})


def test_the_assignment_overlaps_most_and_greed_takes_what_it_can():
    # The surer prediction overlaps both truths, the other one only the first.
    iou = np.array([[0.8, 0.7], [0.6, 0.0]])
    assert region_scores.assigned(iou).tolist() == [0.7, 0.6]
    hits = region_scores.greedy_hits(iou, np.array([0.9, 0.5]))
    assert hits[0].tolist() == [True] * 7 + [False] * 3 and not hits[1].any()
    assert region_scores.assigned(np.zeros((2, 0))).tolist() == [0, 0]
    assert region_scores.assigned(np.zeros((0, 2))).shape == (0,)
    assert not region_scores.greedy_hits(np.zeros((2, 0)), np.ones(2)).any()


def test_precision_and_recall_of_regions_by_hand():
    rows = [row([(2, 2, 10, 10), (30, 20, 10, 10)], [(2, 2, 10, 10), (0, 30, 5, 5)], [0.9, 0.8]),
            row([], [])]
    scores = matched(rows)
    assert scores["precision50"] == scores["recall50"] == 0.5
    assert scores["matched_iou"] == pytest.approx(0.5)
    assert scores["hungarian"]["ap50"] == pytest.approx(51 / 101)
    assert (scores["num_photos"], scores["num_predicted"], scores["num_true"]) == (2, 2, 2)


def test_legions_helper_looks_at_components_of_the_union():
    """Two touching true regions are one component; what is left over costs nothing."""
    one = row([(2, 2, 10, 10), (12, 2, 10, 10)], [(2, 2, 20, 10), (40, 30, 5, 5)])
    assert one["component_ious"] == [1.0]
    clean = row([], [(0, 0, 3, 3)])
    assert clean["component_ious"] == []
    assert matched([one])["legion"] == {"ap50": 1, "map": 1}
    assert matched([one, clean])["legion"] == {"ap50": 0.5, "map": 0.5}
    assert region_scores.component_pairs(np.eye(4, dtype=bool), np.eye(4, dtype=bool)) == [1.0]


def test_an_overlap_of_components_by_hand():
    overlap = region_scores.component_pairs(box(0, 0, 10, 10) | box(30, 0, 4, 4), box(0, 0, 10, 5))
    assert overlap == [0.5]
    share = matched([row([(0, 0, 10, 5)], [(0, 0, 10, 10)])])["legion"]
    assert share == pytest.approx({"ap50": 1, "map": 0.1})


def test_photos_without_single_regions_do_not_count():
    unmarked = row([(2, 2, 9, 9)], [(2, 2, 9, 9)], has_masks=False)
    assert region_scores.of_row(unmarked) is None and matched([unmarked]) == {}
    together = row([(2, 2, 9, 9)], [(2, 2, 9, 9)])
    together["truth"] = []  # only the union was published
    assert region_scores.of_row(together) is None
    clean = matched([row([], [(2, 2, 9, 9)])])
    assert clean["coco"] == {"ap50": None, "map": None}
    assert clean["recall50"] is clean["matched_iou"] is None and clean["precision50"] == 0


def test_of_too_many_regions_the_surest_count(monkeypatch):
    monkeypatch.setattr(region_scores, "MOST_REGIONS", 2)
    scores, iou, number = region_scores.of_row(
        row([(2, 2, 9, 9)], [(0, 0, 3, 3), (2, 2, 9, 9), (9, 9, 3, 3)], [0.1, 0.9, 0.5]))
    assert scores.tolist() == [0.9, 0.5] and iou[:, 0].tolist() == [1.0, pytest.approx(4 / 86)]
    assert number == 1
