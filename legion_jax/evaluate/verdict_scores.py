"""Scores of verdicts and of their probabilities.

Fake, whether synthetic or tampered, is the positive class.

Two averages of accuracy go by one name in publications: over all photos, and over test sets first
(LEGION's: the unweighted mean of the accuracies of its generators' test sets). Both are given.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from input_pipeline.records import verdict_classes
from legion_jax.evaluate import class_scores, weighted, word_verdicts

BINS = 15  # of equal width over the probability of a verdict (Guo et al., 2017, section 2)
SMALLEST = 1e-12  # a probability of 0 that was wrong would cost an infinite likelihood
# Columns of the LEGION paper's table and the test sets of UniversalFakeDetect that each averages;
# names as in `input_pipeline.datasets.folder_binary`.
GROUPS = {
    "GANs": ("progan", "cyclegan", "biggan", "stylegan", "gaugan", "stargan"),
    "Deepfakes": ("deepfake",),
    "CRN": ("crn",),
    "IMLE": ("imle",),
    "SITD": ("sitd",),
    "SAN": ("san",),
    "Diffusion": ("guided", "ldm_200", "ldm_200_cfg", "ldm_100", "glide_100_27", "glide_50_27",
                  "glide_100_10", "dalle"),
}
SPELLINGS = {"seeingdark": "sitd"}


def detection(fake_probability: np.ndarray, is_fake: np.ndarray, predicted_fake: np.ndarray, *,
              answered: np.ndarray | None = None, scored: np.ndarray | None = None) -> dict:
    """Scores of the verdicts of a data set.

    Args:
        fake_probability: float[N], 0 to 1.
        is_fake: bool[N], the truth.
        predicted_fake: bool[N], the verdict given, whatever threshold made it.
        answered: bool[N]; without an answer a photo counts as a wrong verdict. All, by default.
        scored: bool[N], photos that have a probability. Those answered, by default.

    Returns:
        A tree of `weighted` over N photos:
        accuracy, accuracy_real, accuracy_fake: shares of right verdicts, of all photos and of
            those of one class; balanced_accuracy: mean of the last two.
        f1, f1_real, macro_f1: of the fake class, of the real class, their mean; nothing where no
            photo is of the class and none was called so.
        auc: area under the ROC curve, pairs with equal probability count one half.
        average_precision: sum of precision times gain in recall over distinct probabilities.
            Both need real and fake photos.
        ece, brier, nll: `calibration_error` of the verdict given, mean squared error of the
            probability of fake, mean negative log likelihood in nats, where a probability of 0
            counts as SMALLEST. The first is of photos that have verdict and probability.
        reliability: the bins of the diagram of the same photos, `reliability_bins`.
        num, num_unanswered: photos; those without an answer.

    Raises:
        ValueError: the arrays differ in shape or have not one axis, or a probability is not one.
    """
    score = np.asarray(fake_probability, np.float64)
    truth, verdict = np.asarray(is_fake, bool), np.asarray(predicted_fake, bool)
    if score.ndim != 1 or not score.shape == truth.shape == verdict.shape:
        raise ValueError("probabilities, truths and verdicts need one shape [N], got "
                         f"{score.shape}, {truth.shape} and {verdict.shape}")
    answered = np.ones(truth.shape, bool) if answered is None else np.asarray(answered, bool)
    scored = answered if scored is None else np.asarray(scored, bool)
    if (wrong := scored & ~((score >= 0) & (score <= 1))).any():
        photo = np.flatnonzero(wrong)[0]
        raise ValueError(f"probability of photo {photo} is {score[photo]}, not in 0 to 1")
    verdict = np.where(answered, verdict, ~truth)
    right = verdict == truth
    real, fake = weighted.mean(right, ~truth), weighted.mean(right, truth)
    f1, f1_real = _f1(verdict, truth), _f1(~verdict, ~truth)
    return {
        "accuracy": weighted.mean(right), "accuracy_real": real, "accuracy_fake": fake,
        "balanced_accuracy": _half_and_half(real, fake),
        "f1": f1, "f1_real": f1_real, "macro_f1": _half_and_half(f1, f1_real),
        **_of_probabilities(score, truth, verdict, answered=answered, scored=scored),
        "num": int(truth.size), "num_unanswered": int(np.count_nonzero(~answered)),
    }


def reliability_bins(confidence: np.ndarray, right: np.ndarray) -> list[dict]:
    """What a reliability diagram shows: BINS bins of equal width, open below, closed above.

    Args:
        confidence: float[N], probability of the verdict given, 0 to 1.
        right: bool[N], whether it was right.

    Returns:
        For each bin {low, high, num, confidence, accuracy}; the last two are means over its
        photos, None in an empty bin.
    """
    bins = []
    for number in range(BINS):
        inside = _bin_of(confidence) == number
        bins.append({"low": number / BINS, "high": (number + 1) / BINS,
                     "num": int(np.count_nonzero(inside)),
                     "confidence": float(confidence[inside].mean()) if inside.any() else None,
                     "accuracy": float(right[inside].mean()) if inside.any() else None})
    return bins


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> weighted.Score:
    """Expected calibration error: |confidence - accuracy| of each bin, weighted by its photos.

    Naeini et al. (2015) as used by Guo et al. (2017, equation 3); arguments as of
    `reliability_bins`.
    """
    excess = np.zeros((len(confidence), BINS))
    excess[np.arange(len(confidence)), _bin_of(confidence)] = confidence - right
    return lambda draws: weighted.ratio(np.abs(draws @ excess).sum(1), draws.sum(1))


def grouped(accuracies: Mapping[str, float]) -> dict[str, dict]:
    """The paper's columns from the accuracies of test sets; unknown names belong to none.

    Returns {column: {"accuracy": unweighted mean, "sets": those it is over, "missing": those of
    the column that are not there}}, columns without any test set left out.
    """
    known = {SPELLINGS.get(name, name): value for name, value in accuracies.items()}
    columns = {}
    for column, names in GROUPS.items():
        if sets := [name for name in names if name in known]:
            columns[column] = {"accuracy": float(np.mean([known[name] for name in sets])),
                               "sets": sets, "missing": [n for n in names if n not in known]}
    return columns


def block(rows: Sequence[dict]) -> dict:
    """`detection` of N rows, with accuracies per split, category and generator.

    Rows count whose label is known and that have a verdict, or none for want of a readable photo,
    of a word for real or fake, or of the [CLS] that a head reads.

    Returns:
        A tree of `weighted` over the rows, {} without any verdict. `by_split` and `by_category`
        are {name: {"accuracy", "num"}} over real and fake photos; `by_generator` over the fakes it
        made, so its accuracy is a recall. `mean_accuracy_of_splits` and `_of_categories` are
        unweighted means over these. Where words are the verdict, `verdict_by` is the rule that
        reads them, as of `word_verdicts`; num_unparsed, num_drawn: answers without a verdict by
        it, which count as wrong and are not of num_unanswered; verdicts by lot. The same of a head
        is num_no_verdict, where there are any. `classes` is `class_scores.block`, where there are
        more classes than real and not real.
    """
    numbers = np.array([number for number, row in enumerate(rows) if _counts(row)], int)
    rows = [rows[number] for number in numbers]
    if all(row["failed"] for row in rows):
        return {}
    answered = np.array([_has_verdict(row) for row in rows], bool)
    scored = np.array([row["fake_probability"] is not None for row in rows], bool)
    score = np.array([row["fake_probability"] for row in rows], np.float64)  # None becomes NaN
    truth = np.array([row["label"] > 0 for row in rows], bool)
    verdict = np.array([not verdict_classes.means_real(row["verdict"]) for row in rows], bool)
    tree = detection(score, truth, verdict, answered=answered, scored=scored)
    right = answered & (verdict == truth)
    for name, plural in (("split", "splits"), ("category", "categories")):
        tree[f"by_{name}"], tree[f"mean_accuracy_of_{plural}"] = _by_part(
            [row[name] for row in rows], right)
    tree["by_generator"], _ = _by_part([row["generator"] for row in rows], right)
    if classes := class_scores.block(rows):
        tree["classes"] = classes
    return weighted.among(numbers, tree | _of_words(rows) | _of_heads(rows))


def _counts(row: dict) -> bool:
    """Whether a row is a right or a wrong verdict."""
    return row["label"] >= 0 and (row["fake_probability"] is not None or bool(row["failed"])
                                  or row.get("verdict_by") is not None)


def _has_verdict(row: dict) -> bool:
    if word_verdicts.is_by_words(row):
        return row["verdict"] is not None
    return row["fake_probability"] is not None


def _of_words(rows: Sequence[dict]) -> dict:
    """What `block` tells beside where a rule read the verdicts from words, else {}."""
    read = [row for row in rows if word_verdicts.is_by_words(row)]
    return {} if not read else {
        "verdict_by": word_verdicts.source_of(read),
        "num_unanswered": len(rows) - len(read),
        "num_unparsed": sum(row["verdict"] is None for row in read),
        "num_drawn": sum(bool(row["drawn"]) for row in read)}


def _of_heads(rows: Sequence[dict]) -> dict:
    """What `block` tells beside where answers lack what a head reads, else {}."""
    number = sum(word_verdicts.lacks_verdict(row) and not word_verdicts.is_by_words(row)
                 for row in rows)
    return {} if not number else {
        "num_unanswered": sum(bool(row["failed"]) for row in rows), "num_no_verdict": number}


def groups(detected: Mapping) -> dict[str, dict]:
    """The paper's columns from a `block`: test sets are its splits or, else, its categories."""
    for name in ("by_split", "by_category"):
        accuracies = {part: of_part["accuracy"] for part, of_part in detected[name].items()}
        if columns := grouped(accuracies):
            return columns
    return {}


def words(rows: Sequence[dict]) -> dict:
    """What the language model's words say of real and fake, beside the verdict and the truth.

    Returns:
        A tree of `weighted` over N rows:
        agreement: share of photos whose words say what the verdict says, of those where both say
            something; accuracy: share of right words, of those that say something of a photo with
            a known label.
        num: photos with an answer; num_silent: whose words say neither; num_disagree: whose words
            say what the verdict does not.
    """
    answered = [not row["failed"] for row in rows]
    said = [row["words"] if asked else None for row, asked in zip(rows, answered, strict=True)]
    agree = [row["words_agree"] if asked else None
             for row, asked in zip(rows, answered, strict=True)]
    right = [(word == "fake") == (row["label"] > 0) if word and row["label"] >= 0 else None
             for row, word in zip(rows, said, strict=True)]
    return {"agreement": weighted.mean(agree), "accuracy": weighted.mean(right),
            "num": sum(answered), "num_silent": sum(answered) - sum(w is not None for w in said),
            "num_disagree": sum(value is False for value in agree)}


def _by_part(names: Sequence[str],
             right: np.ndarray) -> tuple[dict[str, dict], weighted.Score]:
    """{part: {"accuracy", "num"}} of photos in named parts, and the mean of these accuracies.

    The mean is unweighted, over the parts that were drawn. Photos with a blank name are in none.
    """
    known = sorted({name for name in names if name})
    member = np.array(names, str)[:, None] == np.array(known, str)[None]  # [N, parts]
    hits, ones = (member & right[:, None]).astype(np.float64), member.astype(np.float64)

    def mean_of_parts(draws: np.ndarray) -> np.ndarray:
        accuracy = weighted.ratio(draws @ hits, draws @ ones)
        drawn = ~np.isnan(accuracy)
        return weighted.ratio(np.where(drawn, accuracy, 0).sum(1), drawn.sum(1))

    parts = {name: {"accuracy": float(right[inside].mean()), "num": int(inside.sum())}
             for name, inside in zip(known, member.T, strict=True)}
    return parts, mean_of_parts


def _of_probabilities(score: np.ndarray, truth: np.ndarray, verdict: np.ndarray, *,
                      answered: np.ndarray, scored: np.ndarray) -> dict:
    """The part of `detection` that needs a probability, over the photos that have one."""
    sure = answered & scored
    confidence = np.where(verdict, score, 1 - score)[sure]
    right = (verdict == truth)[sure]
    ranked, ranked_truth = score[scored], truth[scored]
    of_truth = np.where(ranked_truth, ranked, 1 - ranked)
    scored, sure = np.flatnonzero(scored), np.flatnonzero(sure)
    return {**weighted.among(scored, _ranking(ranked, ranked_truth)),
            "ece": weighted.among(sure, calibration_error(confidence, right)),
            **weighted.among(scored, {
                "brier": weighted.mean((ranked - ranked_truth) ** 2),
                "nll": weighted.mean(-np.log(np.maximum(of_truth, SMALLEST)))}),
            "reliability": reliability_bins(confidence, right)}


def _ranking(score: np.ndarray, truth: np.ndarray) -> dict[str, weighted.Score]:
    """ROC area and average precision, by one pass over the distinct scores, highest first."""
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=np.inf) != 0)  # of each distinct score
    fake = truth[order]

    def drawn_of_each(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fakes and reals at each distinct score, float64[R, distinct] each."""
        drawn = draws[:, order]
        return tuple(np.add.reduceat(drawn * group, starts, axis=1).astype(np.float64)
                     for group in (fake, ~fake))

    def auc(draws: np.ndarray) -> np.ndarray:
        fakes, reals = drawn_of_each(draws)
        below = np.cumsum(fakes, axis=1) - fakes / 2
        return weighted.ratio((reals * below).sum(1), reals.sum(1) * fakes.sum(1))

    def average_precision(draws: np.ndarray) -> np.ndarray:
        fakes, reals = drawn_of_each(draws)
        hits = np.cumsum(fakes, axis=1)
        precision = hits / np.maximum(hits + np.cumsum(reals, axis=1), 1)
        average = weighted.ratio((fakes * precision).sum(1), fakes.sum(1))
        return np.where(reals.sum(1) > 0, average, np.nan)

    return {"auc": auc, "average_precision": average_precision}


def _f1(called: np.ndarray, truth: np.ndarray) -> weighted.Score:
    """F1 of the class that bool[N] photos were called, and are."""
    hits, total = 2.0 * (called & truth), called.astype(np.float64) + truth
    return lambda draws: weighted.ratio(draws @ hits, draws @ total)


def _half_and_half(a: weighted.Score, b: weighted.Score) -> weighted.Score:
    return lambda draws: (a(draws) + b(draws)) / 2


def _bin_of(confidence: np.ndarray) -> np.ndarray:
    """The number of the bin of every confidence 0 to 1, int[N]; 0 is in the first."""
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
