"""Every headline number as a function of how often each photo is drawn.

With each photo drawn once it is the number of metrics.json; with photos drawn at random it is a
bootstrap replicate (Efron, 1979). All replicates are computed at once, as products of the draws
with what is known of the photos.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from legion_jax.evaluate import mask_scores, region_scores, reliability, verdict_scores

Statistic = Callable[[np.ndarray], np.ndarray]  # draws int[R, N] -> float[R], NaN for no photos


def of_rows(rows: Sequence[dict], *, rule: str = "exact") -> dict[str, Statistic]:
    """Statistics of N rows by the dotted path of their number in metrics.json."""
    return (_localisation(rows, rule) | _matching(rows) | _texts(rows) | _detection(rows)
            | _words(rows))


def once(rows: Sequence[dict]) -> np.ndarray:
    """Draws in which every photo is there once, int[1, N]."""
    return np.ones((1, len(rows)), np.int64)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole != 0)


def _mean(values: Sequence[float | None] | np.ndarray, counted: Sequence | None = None):
    """Mean of float[N] over the photos that are `counted`; without it, those with a value."""
    values = np.array([np.nan if v is None else v for v in values], np.float64)
    counted = ~np.isnan(values) if counted is None else np.asarray(counted, bool)
    values = np.where(counted, values, 0)
    return lambda draws: _share(draws @ values, draws @ counted.astype(np.float64))


def _localisation(rows: Sequence[dict], rule: str) -> dict[str, Statistic]:
    marked = np.array([r["counts"] is not None for r in rows], bool)
    counts = np.array([r["counts"] or [0, 0, 0, 0] for r in rows], np.int64).reshape(-1, 4)
    answered = np.array([not r["failed"] for r in rows], bool)
    artifacts = marked & (counts[:, 0] + counts[:, 2] > 0)
    scores = mask_scores.scores(counts, rule=rule)
    found = {}
    for name in mask_scores.NAMES:
        values = scores[name] * answered
        found[f"localisation.mean.{name}"] = _mean(values, marked)
        found[f"localisation.mean_with_artifacts.{name}"] = _mean(values, artifacts)
        found[f"localisation.pooled.{name}"] = functools.partial(
            _pooled, counts=counts, marked=marked, name=name, rule=rule)
    area = np.array([r["mask_area"] for r in rows], np.float64)
    real = np.array([r["label"] == 0 for r in rows], bool)
    withheld = np.array([r["verdict"] == "real" for r in rows], bool)
    return found | {
        "localisation.false_area_on_clean": _mean(area, marked & ~artifacts),
        "localisation.false_area_on_real": _mean(area, real),
        "localisation.false_area_on_real_shown": _mean(np.where(withheld, 0, area), real)}


def _pooled(draws, *, counts, marked, name, rule):
    values = mask_scores.scores(draws @ counts, rule=rule)[name]
    return np.where(draws @ marked > 0, values, np.nan)


def _texts(rows: Sequence[dict]) -> dict[str, Statistic]:
    return {f"text.{name}": _mean([r[name] for r in rows]) for name in ("rouge_l", "css")}


def _words(rows: Sequence[dict]) -> dict[str, Statistic]:
    agree = [None if r["failed"] else r["words_agree"] for r in rows]
    right = [(r["words"] == "fake") == (r["label"] > 0)
             if r["words"] is not None and r["label"] >= 0 else None for r in rows]
    return {"words.agreement": _mean(agree), "words.accuracy": _mean(right)}


def _matching(rows: Sequence[dict]) -> dict[str, Statistic]:
    found = region_scores.table(rows)
    places = range(len(region_scores.THRESHOLDS))
    result: dict[str, Statistic] = {}
    for name in ("hungarian", "coco"):
        at = functools.partial(_areas, found=found, name=name)
        result[f"matching.{name}.ap50"] = functools.partial(at, columns=[0])
        result[f"matching.{name}.map"] = functools.partial(at, columns=places)
    for name, columns in (("ap50", [0]), ("map", places)):
        result[f"matching.legion.{name}"] = _mean(found["legion"][:, columns].mean(axis=1))
    return result


def _areas(draws, *, found, name, columns):
    drawn, truth = draws[:, found["photo"]], draws @ found["truth"]
    return np.mean([region_scores.average_precision(found["scores"], found[name][:, column], truth,
                                                    drawn) for column in columns], axis=0)


def _detection(rows: Sequence[dict]) -> dict[str, Statistic]:
    places = np.array([n for n, r in enumerate(rows) if verdict_scores.judged([r])], int)
    chosen = [rows[place] for place in places]
    score, truth, verdict, told = verdict_scores.arrays(chosen)
    if not told.any():
        return {}
    verdict = np.where(told, verdict, ~truth)
    right = verdict == truth

    def over(statistic: Statistic) -> Statistic:
        return lambda draws: statistic(draws[:, places])

    real, fake = _mean(right, ~truth), _mean(right, truth)
    f1, f1_real = _f1(verdict, truth), _f1(~verdict, ~truth)
    of_truth = np.where(truth, score, 1 - score)
    found = {
        "accuracy": _mean(right), "accuracy_real": real, "accuracy_fake": fake,
        "balanced_accuracy": lambda draws: (real(draws) + fake(draws)) / 2,
        "f1": f1, "f1_real": f1_real, "macro_f1": lambda draws: (f1(draws) + f1_real(draws)) / 2,
        "brier": _mean((score - truth) ** 2, told),
        "nll": _mean(-np.log(np.maximum(np.where(told, of_truth, 1), reliability.SMALLEST)), told),
        "ece": _calibration_error(score, verdict, right, told),
        "auc": functools.partial(_ranking, score=score, truth=truth, told=told, area=True),
        "average_precision": functools.partial(_ranking, score=score, truth=truth, told=told,
                                               area=False),
        "mean_accuracy_of_splits": _mean_of_parts([r["split"] for r in chosen], right),
        "mean_accuracy_of_categories": _mean_of_parts([r["category"] for r in chosen], right)}
    return {f"detection.{name}": over(statistic) for name, statistic in found.items()}


def _f1(called: np.ndarray, truth: np.ndarray) -> Statistic:
    hits, total = called & truth, called.astype(int) + truth
    return lambda draws: _share(2.0 * (draws @ hits), draws @ total)


def _calibration_error(score, verdict, right, told) -> Statistic:
    """|sum of confidence - sum of right| per bin, over the photos."""
    confidence = np.where(told, np.where(verdict, score, 1 - score), 0)
    place = reliability.places(confidence)
    excess = np.zeros((len(score), reliability.BINS))
    excess[np.arange(len(score)), place] = np.where(told, confidence - right, 0)
    return lambda draws: _share(np.abs(draws @ excess).sum(1), draws @ told.astype(np.float64))


def _ranking(draws, *, score, truth, told, area):
    """ROC area or average precision of weighted photos; ties count as in `detection`."""
    order = np.argsort(-score[told], kind="stable")
    ranked, fake = score[told][order], truth[told][order]
    drawn = draws[:, told][:, order]
    starts = np.flatnonzero(np.append(True, np.diff(ranked) != 0))
    fakes = np.add.reduceat(drawn * fake, starts, axis=1).astype(np.float64)
    reals = np.add.reduceat(drawn * ~fake, starts, axis=1).astype(np.float64)
    gain = _share(fakes, np.broadcast_to(fakes.sum(1, keepdims=True), fakes.shape))
    if area:
        cost = _share(reals, np.broadcast_to(reals.sum(1, keepdims=True), reals.shape))
        return (cost * (np.cumsum(gain, axis=1) - gain / 2)).sum(1)
    found = np.cumsum(fakes, axis=1)
    precision = found / np.maximum(found + np.cumsum(reals, axis=1), 1)
    return np.where(reals.sum(1) > 0, (gain * precision).sum(1), np.nan)


def _mean_of_parts(names: Sequence[str], right: np.ndarray) -> Statistic:
    """Unweighted mean of the accuracies of all named parts that were drawn."""
    known = sorted({name for name in names if name})
    member = np.array([[name == part for part in known] for name in names], bool).reshape(
        len(names), len(known))

    def statistic(draws):
        accuracy = _share(draws @ (member & right[:, None]).astype(np.float64),
                          draws @ member.astype(np.float64))
        drawn = ~np.isnan(accuracy)
        return _share(np.where(drawn, accuracy, 0).sum(1), drawn.sum(1))
    return statistic
