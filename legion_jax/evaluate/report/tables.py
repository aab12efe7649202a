"""The tables of a report: numbers of metrics.json with their intervals, and what they mean."""

import dataclasses
from collections.abc import Mapping, Sequence

from legion_jax.display import numbers
from legion_jax.evaluate.class_scores import NONE
from legion_jax.evaluate.report.folder import Evaluation, value_at
from legion_jax.evaluate.settings import dialogue_of
from legion_jax.evaluate.word_verdicts import FAKEVLM, WORDS

# Name and meaning of each measure. How a run counts it stands in its own `conventions`.
MEASURES = {
    "f1": ("F1", "2 TP / (2 TP + FP + FN) of the artifacts' pixels; Dice is another name."),
    "miou": ("mIoU", "Mean of the IoU of artifacts and the IoU of the rest. Artifacts are small, "
             "so even an empty mask is near one half."),
    "fg_iou": ("IoU", "TP / (TP + FP + FN) of the artifacts' pixels."),
    "bg_iou": ("IoU of the rest", "TN / (TN + FP + FN): what lies outside of all artifacts."),
    "accuracy": ("accuracy", "Share of right verdicts, real against not real."),
    "accuracy_real": ("accuracy on real", "Share of right verdicts among real photos."),
    "accuracy_fake": ("accuracy on fake", "Share of right verdicts among synthetic and tampered "
                      "photos."),
    "balanced_accuracy": ("balanced accuracy", "Mean of the accuracies on real and on fake."),
    "auc": ("AUC", "Area under the ROC curve: how often a fake has a higher fake probability than "
            "a real photo."),
    "average_precision": ("average precision", "Area under precision over recall; fake is the "
                          "positive class."),
    "f1_real": ("F1 of real", "F1 of the verdicts with real as the positive class."),
    "macro_f1": ("macro F1", "Mean of the F1 of real and of fake."),
    "ece": ("ECE", "Expected calibration error: mean distance between confidence and accuracy of "
            "the bins of the reliability diagram, weighted by photos. Less is better."),
    "brier": ("Brier score", "Mean squared distance of the fake probability from 0 or 1, whichever "
              "is true. Less is better."),
    "nll": ("NLL", "Mean negative log likelihood of the truth, in nats. Less is better."),
    "num_unparsed": ("answers without a verdict", "Their words say neither real nor fake; each "
                     "counts as a wrong verdict."),
    "num_drawn": ("verdicts drawn", "By lot, where the words say neither real nor fake."),
    "num_no_verdict": ("answers without a verdict", "They lack the [CLS] that the head reads; each "
                       "counts as a wrong verdict."),
    "ap50": ("AP50", "Average precision of single masks at IoU 0.5."),
    "map": ("mAP", "Mean average precision of single masks over IoU 0.5, 0.55 ... 0.95."),
    "rouge_l": ("ROUGE-L", "F-measure of the longest common subsequence of words of explanation "
                "and reference."),
    "css": ("CSS", "Cosine similarity of sentence embeddings of explanation and reference.")}
# Of verdicts of more than two classes, which is not what MEASURES says of the same keys.
OF_CLASSES = {
    "accuracy": ("accuracy over classes", "Share of photos given their own class."),
    "macro_f1": ("macro F1 over classes", "Mean of the F1 of every class."),
    "recall": ("recall", "Share of the photos of a class that were given it."),
    "precision": ("precision", "Share of the photos given a class that are of it."),
    "f1": ("F1", "Harmonic mean of precision and recall."),
    "support": ("photos", "How many photos are of the class.")}
# Of true answers given, by the names of SIDA's evaluation.
OF_FORCED = {
    "giou": ("gIoU", "Mean IoU of true masks."),
    "ciou": ("cIoU", "IoU of the pixels of all true masks counted together."),
    "pixel_accuracy": ("pixel accuracy", "cIoU in per cent."),
    "f1": ("F1", "Harmonic mean of cIoU and the accuracy over classes."),
    "auc": ("AUC", "Mean precision of the classes times their mean recall."),
    "num_masks": ("true masks", ""), "num_left_out": ("photos left out", "")}
F1_OF_FAKE = ("F1 of fake", "F1 of the verdicts with fake as the positive class.")
MEANS = {"mean": "mean over photos", "mean_with_artifacts": "photos with artifacts",
         "pooled": "pooled pixels"}
FALSE_AREAS = {
    "false_area_on_clean": "photos without artifacts", "false_area_on_real": "real photos",
    "false_area_on_real_shown": "real photos whose verdict does not withhold it"}
DETECTION = ("accuracy", "accuracy_real", "accuracy_fake", "balanced_accuracy", "f1", "f1_real",
             "macro_f1", "auc", "average_precision", "ece")
OF_CATEGORY = ("accuracy", "accuracy_real", "accuracy_fake", "f1", "f1_real", "macro_f1", "auc")
JUDGES = {WORDS: "the words of the answer", FAKEVLM: "FakeVLM's published rule"}


@dataclasses.dataclass(frozen=True)
class Term:
    """A name and what stands behind it, one tap away; `why` "" for names that explain themselves.
    """

    name: str
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number as text; `interval` as text or ""; `bar`: share of the cell to underline, or None.
    """

    text: str
    interval: str = ""
    bar: float | None = None


DASH = Cell("–")


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of a title and a cell per column. `strong`: titles of rows to set off."""

    title: str
    columns: Sequence[Term]
    rows: Sequence[tuple[Term, Sequence[Cell]]]
    note: str = ""
    strong: Sequence[str] = ()


def term(run: Evaluation, key: str, *path: str) -> Term:
    """The name of measure `key` with its meaning and the run's convention for it."""
    known = OF_CLASSES if "classes" in path else MEASURES
    if path[-1:] == ("detection",):
        known = MEASURES | {"f1": F1_OF_FAKE}
    if path == ("teacher_forced",):
        known = OF_FORCED
    name, meaning = known.get(key, (key.replace("_", " "), ""))
    return Term(name, f"{meaning} {convention(run, *path, key)}".strip())


def convention(run: Evaluation, *path: str) -> str:
    """The sentences for a path and for the blocks it is in, the widest first; "" without."""
    known = run.block("conventions")
    blocks = (".".join(path[:n]) for n in range(1, len(path) + 1))
    return " ".join(str(known[block]) for block in blocks if block in known)


def cell(run: Evaluation, *path: str) -> Cell:
    """The number at a path with its interval; a dash where it is not known."""
    value, interval = run.number(*path), run.interval(*path)
    if value is None:
        return DASH
    if isinstance(value, int):
        return Cell(f"{value:,}")
    bar = value if 0 <= value <= 1 else None
    ends = f"{interval[0]:.3f} – {interval[1]:.3f}" if interval else ""
    return Cell(numbers.score(value), ends, bar)


def masks(run: Evaluation) -> Table | None:
    """Localisation, one column for each way to average; None where no mask was scored."""
    if not run.number("localisation", "num_images"):
        return None
    ways = [way for way in MEANS if run.block("localisation", way)]
    rows = [(term(run, key, "localisation"), [cell(run, "localisation", way, key) for way in ways])
            for key in ("f1", "miou", "fg_iou", "bg_iou")]
    facts = [f"{run.number('localisation', key):,.0f} {words}" for key, words in (
        ("num_images", "photos"), ("num_with_artifacts", "with artifacts"),
        ("num_empty_both", "with nothing marked by either side"))
        if run.number("localisation", key) is not None]
    facts += [f"{numbers.percent(run.number('localisation', key))} of the area marked on {words}"
              for key, words in FALSE_AREAS.items()
              if run.number("localisation", key) is not None]
    return Table("Masks", [Term(MEANS[way], convention(run, "localisation", way)) for way in ways],
                 rows, note=f"{'; '.join(facts)}.")


def block(run: Evaluation, title: str, *path: str, keys: Sequence[str] = ()) -> Table | None:
    """Every number of a block, those of `keys` first; None where it has none but counts."""
    values = run.block(*path)
    names = [*(key for key in keys if key in values), *(key for key in values if key not in keys)]
    rows = []
    for key in names:
        inner = run.block(*path, key)
        if not key.startswith("by_") and key != "classes":  # those have tables of their own
            for name in inner:
                inside = term(run, name, *path, key)
                rows.append((dataclasses.replace(inside, name=f"{inside.name}, {key}"),
                             [cell(run, *path, key, name)]))
        if key != "num" and (values[key] is None or run.number(*path, key) is not None):
            rows.append((term(run, key, *path), [cell(run, *path, key)]))
    if all(cells == [DASH] for _, cells in rows):
        return None
    num = run.number(*path, "num")
    return Table(title, [Term("value")], rows, note="" if num is None else f"{num:,.0f} photos.")


def classes(run: Evaluation, title: str, *path: str) -> list[Table]:
    """Scores of each class of a block of them, and what photos of each label were called."""
    if not (names := run.block(*path, "by_class")):
        return []
    keys = ("recall", "precision", "f1", "support")
    rows = [(Term(name), [cell(run, *path, "by_class", name, key) for key in keys])
            for name in names]
    rows.append((Term("all"), [cell(run, *path, key) for key in (
        "accuracy", "", "macro_f1", "num")]))
    whole = [dataclasses.replace(term(run, key, *path), name=name) for key, name in (
        ("recall", "recall, accuracy of all"), ("precision", "precision"),
        ("f1", "F1, macro F1 of all"), ("support", "photos"))]
    confusion = run.block(*path, "confusion")
    columns = list(dict.fromkeys(name for counts in confusion.values() for name in counts))
    counted = [(Term(label), [cell(run, *path, "confusion", label, name) for name in columns])
               for label in confusion]
    return [Table(title, whole, rows, strong=("all",)),
            Table(f"{title}: what photos were called", [Term(
                "no verdict" if name == NONE else f"called {name}") for name in columns], counted,
                note="A row for what the photos are.")]


def categories(run: Evaluation) -> Table | None:
    """What is to be seen -> masks and verdicts; None without categories."""
    names = run.block("categories")
    measures = [(("localisation", "mean"), "f1"), (("localisation", "mean"), "miou"),
                (("localisation", "mean_with_artifacts"), "f1"),
                *((("detection",), key) for key in OF_CATEGORY)]
    used = [(path, key) for path, key in measures
            if any(run.number("categories", name, *path, key) is not None for name in names)]
    if not used:
        return None
    rows = []
    for name in names:
        num = run.number("categories", name, "num_photos")
        cells = [Cell("–" if num is None else f"{num:,.0f}")]
        cells += [cell(run, "categories", name, *path, key) for path, key in used]
        rows.append((Term(name or "not told"), cells))
    terms = [term(run, key, *path) for path, key in used]
    columns = [dataclasses.replace(t, name=f"{t.name}, with artifacts")
               if path[-1] == "mean_with_artifacts" else t
               for t, (path, _) in zip(terms, used, strict=True)]
    return Table("By category", [Term("photos"), *columns], rows)


def accuracies(run: Evaluation, title: str, *path: str) -> Table | None:
    """Accuracy by generator, split or group of test sets; None with less than two of them."""
    parts = run.block(*path)
    if len(parts) < 2:
        return None
    missing = {name: part.get("missing") or () for name, part in parts.items()}
    left_out = [f"{name} is without {', '.join(sets)}" for name, sets in missing.items() if sets]
    counted = all("num" in part for part in parts.values())
    rows = [(Term(name or "not told"), [
        *([cell(run, *path, name, "num")] if counted else []), cell(run, *path, name, "accuracy")])
        for name in parts]
    columns = [*([Term("photos")] if counted else []), term(run, "accuracy", *path)]
    return Table(title, columns, rows, note=f"{'; '.join(left_out)}." if left_out else "")


def published_accuracy(run: Evaluation) -> Table | None:
    """The accuracies as FakeVLM's evaluation prints them; None where they were not asked for."""
    block = ("published_accuracy",)
    if not (names := run.block(*block, "category_acc")):
        return None
    rows = []
    for name in names:
        of_category = (*block, "category_acc", name)
        num = run.number(*of_category, "total_samples")
        rows.append((Term(name or "not told"), [
            Cell("–" if num is None else f"{num:,.0f}"),
            *(_printed(run.number(*of_category, f"{kind}_accuracy"))
              for kind in ("real", "fake", "total"))]))
    whole = (*block, "global_stats")
    num = sum(run.number(*whole, key) or 0 for key in ("total_right", "total_wrong"))
    rows.append((Term("all"), [Cell(f"{num:,.0f}"), DASH, DASH,
                               _printed(run.number(*whole, "global_accuracy"))]))
    why = convention(run, *block)
    return Table("As FakeVLM's evaluation prints it", [
        Term("photos"), *(Term(name, why) for name in (
            "accuracy on real", "accuracy on fake", "accuracy"))], rows, strong=("all",))


def _printed(value: float | None) -> Cell:
    return DASH if value is None else Cell(str(value))


def slices(run: Evaluation) -> list[Table]:
    """The scores of parts of the data set, as far as it has parts."""
    parts = {"By generator, its fakes": ("detection", "by_generator"),
             "By split": ("detection", "by_split"), "By group of test sets": ("groups",)}
    candidates = [categories(run), published_accuracy(run),
                  *(accuracies(run, title, *path) for title, path in parts.items())]
    return [table for table in candidates if table]


def settings(run: Evaluation) -> list[tuple[str, str]]:
    """(name, value) of what the run was asked to do, for the reader.

    First, where they are known: the dialogue in which the model was spoken to, on its own even if
    it is noted as a part of the question, and who judges where it is not a head.
    """
    known = dict(run.block("settings"))
    first = {"dialogue": dialogue_of(known),
             "verdict by": JUDGES.get(run.value("detection", "verdict_by"))}
    known.pop("dialogue", None)
    if question := run.block("settings", "question"):
        known["question"] = {name: part for name, part in question.items() if name != "dialogue"}
    return [(name.replace("_", " "), _words(value)) for name, value in (first | known).items()
            if value not in (None, "", {}, [])]


def robustness(run: Evaluation) -> Table | None:
    """Every perturbation and level, with the change against the photos as they are."""
    rows, measures = run.metrics.get("robustness") or [], {}
    for path in (("localisation", "mean", "miou"), ("localisation", "mean", "f1"),
                 ("detection", "accuracy"), ("detection", "auc"), ("text", "rouge_l")):
        if any(value_at(row, path) is not None for row in rows):
            measures[path] = run.number(*path)
    if not measures:
        return None
    clean = [DASH if value is None else Cell(numbers.score(value)) for value in measures.values()]
    lines = [(Term("photos as they are"), clean)]
    for row in rows:
        cells = [_against(value_at(row, path), value) for path, value in measures.items()]
        lines.append((Term(f"{row['name']} {_words(row['level'])}"), cells))
    columns = [term(run, path[-1], *path[:-1]) for path in measures]
    return Table("Damaged photos", columns, lines, note="Below each number: its change in per cent "
                 "of the number for the photos as they are.", strong=("photos as they are",))


def _against(value: float | None, clean: float | None) -> Cell:
    if value is None:
        return DASH
    change = f"{100 * (value - clean) / clean:+.1f} %".replace("-", "−") if clean else ""
    return Cell(numbers.score(value), change)


def _words(value) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
