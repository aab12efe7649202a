"""Scores of verdicts. Fake, whether synthetic or tampered, is the positive class.

Two averages of accuracy go by one name in publications: over all photos, and over test sets first
(LEGION's: the unweighted mean of the accuracies of its generators' test sets). Both are given.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from legion_jax.evaluate import reliability

# Columns of the LEGION paper's table and the test sets of UniversalFakeDetect that each averages
# (family spec 3.5 and 5.3); names as in `input_pipeline.datasets.folder_binary`.
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
              answered: np.ndarray | None = None) -> dict:
    """Score the verdicts of a data set.

    Args:
        fake_probability: float[N], 0 to 1.
        is_fake: bool[N], the truth.
        predicted_fake: bool[N], the verdict given, whatever threshold made it.
        answered: bool[N]; a photo without an answer counts as a wrong verdict and is left out of
            what needs a probability. All, by default.

    Returns:
        accuracy, accuracy_real, accuracy_fake: shares of right verdicts, of all photos and of
            those of one class; None without such photos.
        balanced_accuracy: mean of the last two, None unless both are there.
        auc: area under the ROC curve, pairs with equal probability count one half.
        average_precision: sum of precision times gain in recall over distinct probabilities.
            Both None unless real and fake photos are present.
        f1, f1_real, macro_f1: of the fake class, of the real class, their mean; None when nothing
            is of the class and nothing was called so.
        ece, brier, nll: `reliability.calibration_error` of the verdict given, mean squared error
            of the probability of fake, mean negative log likelihood in nats.
        reliability: the bins of the diagram, `reliability.bins`.
        num, num_unanswered: photos; those without an answer.

    Raises:
        ValueError: the arrays differ in shape or have not one axis, or a probability is not one.
    """
    score = np.asarray(fake_probability, np.float64)
    truth, verdict = np.asarray(is_fake, bool), np.asarray(predicted_fake, bool)
    if score.ndim != 1 or not score.shape == truth.shape == verdict.shape:
        raise ValueError("probabilities, truths and verdicts need one shape [N], got "
                         f"{score.shape}, {truth.shape} and {verdict.shape}")
    told = np.ones(truth.shape, bool) if answered is None else np.asarray(answered, bool)
    if (wrong := told & ~((score >= 0) & (score <= 1))).any():
        place = np.flatnonzero(wrong)[0]
        raise ValueError(f"probability of photo {place} is {score[place]}, not in 0 to 1")
    verdict = np.where(told, verdict, ~truth)
    right = verdict == truth
    real, fake = _mean(right[~truth]), _mean(right[truth])
    f1, f1_real = _f1(verdict & truth, verdict, truth), _f1(right & ~truth, ~verdict, ~truth)
    return {
        "accuracy": _mean(right), "accuracy_real": real, "accuracy_fake": fake,
        "balanced_accuracy": None if real is None or fake is None else (real + fake) / 2,
        "f1": f1, "f1_real": f1_real,
        "macro_f1": None if f1 is None or f1_real is None else (f1 + f1_real) / 2,
        **_probabilities(score[told], truth[told], verdict[told]),
        "num": int(truth.size), "num_unanswered": int(np.count_nonzero(~told)),
    }


def grouped(accuracies: dict[str, float]) -> dict[str, dict]:
    """The paper's columns from the accuracies of test sets; unknown names belong to none.

    Returns {column: {"accuracy": unweighted mean, "sets": those it is over, "missing": those of
    the column that are not there}}, columns without any test set left out.
    """
    known = {SPELLINGS.get(name, name): value for name, value in accuracies.items()}
    found = {}
    for column, names in GROUPS.items():
        if here := [name for name in names if name in known]:
            found[column] = {"accuracy": float(np.mean([known[name] for name in here])),
                             "sets": here, "missing": [n for n in names if n not in known]}
    return found


def arrays(rows: Sequence[dict]) -> tuple[np.ndarray, ...]:
    """Arguments of `detection` from rows: probability, truth, verdict, answered, each [N]."""
    told = np.array([r["fake_probability"] is not None for r in rows], bool)
    return (np.array([r["fake_probability"] if t else np.nan
                      for r, t in zip(rows, told, strict=True)], np.float64),
            np.array([r["label"] > 0 for r in rows], bool),
            np.array([r["verdict"] != "real" for r in rows], bool), told)


def judged(rows: Iterable[dict]) -> list[dict]:
    """Rows that count: label known, and a verdict given or none for want of a readable photo."""
    return [r for r in rows if r["label"] >= 0
            and (r["fake_probability"] is not None or r["failed"])]


def block(rows: Sequence[dict]) -> dict | None:
    """`detection` of rows, with accuracies per split, category and generator; None without any.

    `by_split` and `by_category` are {name: {"accuracy", "num"}} over real and fake photos;
    `by_generator` over the fakes it made, so its accuracy is a recall. `mean_accuracy_of_splits`
    and `_of_categories` are unweighted means over these.
    """
    rows = judged(rows)
    if not any(r["fake_probability"] is not None for r in rows):
        return None
    score, truth, verdict, told = arrays(rows)
    right = np.where(told, verdict == truth, False)
    result = detection(score, truth, verdict, answered=told)
    for name, plural in (("split", "splits"), ("category", "categories")):
        parts = _accuracies([r[name] for r in rows], right)
        result[f"by_{name}"] = parts
        result[f"mean_accuracy_of_{plural}"] = _mean(np.array([p["accuracy"]
                                                               for p in parts.values()]))
    result["by_generator"] = _accuracies([r["generator"] for r in rows], right)
    return result


def groups(found: dict) -> dict[str, dict]:
    """The paper's columns from a `block`: test sets are its splits or, else, its categories."""
    for name in ("by_split", "by_category"):
        if columns := grouped({key: part["accuracy"] for key, part in found[name].items()}):
            return columns
    return {}


def words(rows: Iterable[dict]) -> dict:
    """What the language model's words say of real and fake, beside the verdict and the truth.

    Returns:
        agreement: share of photos whose words say what the verdict says, of those where both say
            something; accuracy: share of right words, of those that say something of a photo with
            a known label; None without such photos.
        num: photos with an answer; num_silent: whose words say neither; num_disagree: whose words
        say what the verdict does not.
    """
    rows = [r for r in rows if not r["failed"]]
    said = [r for r in rows if r["words"] is not None]
    return {
        "agreement": _mean(np.array([r["words_agree"] for r in said
                                     if r["words_agree"] is not None], bool)),
        "accuracy": _mean(np.array([(r["words"] == "fake") == (r["label"] > 0) for r in said
                                    if r["label"] >= 0], bool)),
        "num": len(rows), "num_silent": len(rows) - len(said),
        "num_disagree": sum(r["words_agree"] is False for r in rows)}


def _accuracies(names: Sequence[str], right: np.ndarray) -> dict[str, dict]:
    places: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        if name:
            places.setdefault(name, []).append(number)
    return {name: {"accuracy": float(right[at].mean()), "num": len(at)}
            for name, at in sorted(places.items())}


def _probabilities(score: np.ndarray, truth: np.ndarray, verdict: np.ndarray) -> dict:
    auc, precision = _ranking(score, truth)
    confidence = np.where(verdict, score, 1 - score)
    return {"auc": auc, "average_precision": precision,
            "ece": reliability.calibration_error(confidence, verdict == truth),
            "brier": _mean((score - truth) ** 2),
            "nll": reliability.nll(np.where(truth, score, 1 - score)),
            "reliability": reliability.bins(confidence, verdict == truth)}


def _ranking(score: np.ndarray, truth: np.ndarray) -> tuple[float | None, float | None]:
    """ROC area and average precision, by one pass over the distinct scores, highest first."""
    if truth.all() or not truth.any():
        return None, None
    _, group = np.unique(-score, return_inverse=True)
    fakes = np.bincount(group, truth)
    reals = np.bincount(group, ~truth)
    true_rate = np.cumsum(fakes) / fakes.sum()
    precision = np.cumsum(fakes) / np.cumsum(fakes + reals)
    area = (reals / reals.sum()) @ (true_rate - fakes / fakes.sum() / 2)
    return float(area), float((fakes / fakes.sum()) @ precision)


def _f1(hits: np.ndarray, called: np.ndarray, truth: np.ndarray) -> float | None:
    total = np.count_nonzero(called) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(hits) / total if total else None


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values, dtype=np.float64)) if values.size else None
