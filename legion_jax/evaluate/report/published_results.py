"""Published results, to stand beside one's own where the data set is the same.

Numbers are as printed. LEGION prints per cent, and neither says over what it averages (the implied
background IoU points to means over photos) nor gives code that computes its tables; FakeVLM's F1
does not say which class is positive; SIDA's code scores answers that it is given the truth of.
"""

import dataclasses
import re

from input_pipeline.records import verdict_classes
from legion_jax.evaluate.report.folder import Evaluation
from legion_jax.evaluate.report.tables import DASH, Cell, Table, Term, convention

LEGION = "LEGION paper (arXiv 2503.15264)"
FAKEVLM = "FakeVLM paper (arXiv 2503.14905)"
SIDA = "SIDA, table of its repository (hzlsaber/SIDA)"
THIRD = "a third party's scores of the public legion_LE weights and of its own retraining"
_MASKS = ("mIoU and F1 as printed, in per cent: two-class mIoU, F1 of the artifacts. Whether they "
          "are means over photos or pooled is not published, so this run has a row of each.")
_TEXT = "In per cent. The sentence encoder behind the published CSS is not named."
_VERDICT = ("Whether the published F1 is that of the fake class is not said; this run's is. The "
            "sentence encoder behind the published CSS is not named.")
_CLASSES = ("In per cent. The accuracy of one kind of photo is its recall; the F1 of all photos is "
            "the mean of the three. SIDA's code gives the model the true answer and reads the "
            "verdict at its [CLS]: the second row of this run is made so, with --compat=sida. "
            "Of other methods only the overall numbers are told.")
_TRAINING = {"train", "val", "validation", "dev"}
# Sets that also have photos to train on, so that all splits together are no test.
WITH_TRAINING = ("synthscars", "richhf", "fakeclue", "sid_set")


@dataclasses.dataclass(frozen=True)
class Column:
    """A measure: `path` in metrics.json; of a run on `split` alone, its accuracy as a whole."""

    name: str
    path: tuple[str, ...]
    split: str = ""


@dataclasses.dataclass(frozen=True)
class Published:
    """A table of one data set's test split.

    Attributes:
        dataset: as `input_pipeline.datasets` names it.
        title, source, note: for the page.
        columns: what each method's values are, in order.
        rows: {method: values, None where the table has none}; `ours` is the authors' own method.
        per_cent: values are in per cent, else from 0 to 1.
        ours_by: rows of this run, as (name, key of `Column.path`, what stands in its place), "" for
            the path as it is.
    """

    dataset: str
    title: str
    source: str
    note: str
    columns: tuple[Column, ...]
    rows: dict[str, tuple[float | None, ...]]
    ours: str
    per_cent: bool = True
    ours_by: tuple[tuple[str, str, str], ...] = (("this run", "", ""),)


def _masks(*categories: str) -> tuple[Column, ...]:
    """mIoU and F1 of each category; of all photos for ""."""
    return tuple(Column(f"{category} {name}".strip(),
                        (*(("categories", category) if category else ()), "localisation", "mean",
                         key))
                 for category in categories for name, key in (("mIoU", "miou"), ("F1", "f1")))


_TEXT_COLUMNS = (Column("ROUGE-L", ("text", "rouge_l")), Column("CSS", ("text", "css")))
_FAKEVLM_COLUMNS = (Column("accuracy", ("detection", "accuracy")),
                    Column("F1", ("detection", "f1")), *_TEXT_COLUMNS)
_CLASS_COLUMNS = tuple(
    column for label in ("real", "synthetic", "tampered") for column in (
        Column(f"{label} accuracy", ("detection", "classes", "by_class", label, "recall")),
        Column(f"{label} F1", ("detection", "classes", "by_class", label, "f1")))) + (
    Column("accuracy", ("detection", "classes", "accuracy")),
    Column("F1", ("detection", "classes", "macro_f1")))
_THIRD_COLUMNS = tuple(
    Column(name, ("localisation", how, key)) for name, how, key in (
        ("mean IoU", "mean", "fg_iou"), ("mean F1", "mean", "f1"),
        ("pooled IoU", "pooled", "fg_iou"), ("pooled F1", "pooled", "f1")))

# Object, Animal, Human, Scene; LOKI; RichHF-18K: mIoU, F1 of each.
_LOCALISATION = {
    "HiFi-Net": (43.74, 0.45, 45.28, 0.03, 46.21, 0.84, 45.90, 0.04, 39.60, 2.41, 44.96, 0.39),
    "TruFor": (46.99, 14.82, 48.45, 17.57, 49.02, 15.43, 48.93, 12.64, 46.55, 16.70, 48.41, 18.03),
    "PAL4VST": (50.46, 19.25, 52.55, 21.61, 59.18, 35.70, 52.55, 19.14, 47.34, 11.58, 49.88, 14.78),
    "Ferret (boxes)": (30.10, 20.81, 27.17, 15.78, 25.54, 13.87, 30.64, 13.79, 24.50, 18.88,
                       26.52, 16.22),
    "Griffon (boxes)": (38.54, 23.40, 27.76, 18.58, 23.04, 14.81, 35.83, 14.47, 21.96, 20.41,
                        28.13, 18.19),
    "LISA-v1-7B": (35.49, 23.70, 32.44, 18.77, 34.11, 17.50, 37.56, 18.31, 31.10, 9.29,
                   35.90, 21.94),
    "InternVL2-8B (boxes)": (41.08, 13.36, 41.22, 7.83, 41.21, 3.91, 41.68, 7.55, 42.03, 10.06,
                             39.90, 9.58),
    "Qwen2-VL-72B (boxes)": (33.89, 23.25, 32.46, 21.98, 26.92, 14.75, 39.00, 18.17, 26.62, 20.99,
                             27.58, 19.02),
    "LEGION": (54.62, 29.90, 54.52, 27.43, 60.82, 39.44, 53.67, 24.51, 48.66, 16.71, 50.07, 17.41)}
# SynthScars ROUGE-L, CSS; LOKI ROUGE-L, CSS.
_EXPLANATION = {
    "Qwen2-VL-72B": (25.84, 58.15, 11.80, 37.64), "LLaVA-v1.6-7B": (29.61, 61.75, 16.07, 41.07),
    "InternVL2-8B": (25.93, 56.89, 10.10, 39.62), "DeepSeek-VL2-27B": (25.50, 47.77, 6.70, 28.76),
    "GPT-4o": (22.43, 53.55, 9.61, 38.98), "LEGION": (39.50, 72.60, 18.55, 45.96)}
# FakeClue accuracy, F1, ROUGE-L, CSS; the same of LOKI.
_FAKEVLM = {
    "DeepSeek-VL2-small": (.404, .542, .171, .504, .253, .387, .164, .391),
    "DeepSeek-VL2": (.475, .541, .172, .505, .431, .392, .169, .388),
    "InternVL2-8B": (.506, .490, .180, .581, .526, .340, .179, .472),
    "InternVL2-40B": (.507, .463, .176, .552, .507, .376, .184, .473),
    "Qwen2-VL-7B": (.457, .592, .266, .565, .571, .350, .182, .384),
    "Qwen2-VL-72B": (.578, .565, .175, .544, .554, .409, .173, .432),
    "GPT-4o": (.474, .420, .134, .407, .634, .572, .147, .354),
    "FakeVLM": (.986, .981, .580, .877, .843, .837, .201, .582)}
# SID-Set accuracy and F1 of real, fully synthetic, tampered, all.
_SID_SET = {
    "SIDA-7B": (89.1, 91.0, 98.7, 98.6, 92.7, 91.0, 93.5, 93.5),
    "SIDA-13B": (89.6, 91.1, 98.5, 98.7, 92.9, 91.2, 93.6, 93.5)} | {
    name: (*(None,) * 6, *overall) for name, overall in {
        "AntifakePrompt": (63.1, 74.2), "CnnSpot": (42.1, 52.7), "FreDect": (37.4, 47.0),
        "Fusing": (40.6, 49.3), "Gram-Net": (54.8, 60.2), "UnivFD": (64.7, 80.0),
        "LGrad": (51.7, 60.7), "LNP": (55.3, 61.5)}.items()}
# Column -> the split that is all of it.
_SETS = {"GANs": "", "Deepfakes": "deepfake", "CRN": "crn", "IMLE": "imle", "SITD": "sitd",
         "SAN": "san", "Diffusion": ""}
_DETECTION = {
    "Co-occurrence": (75.17, 59.14, 73.06, 87.21, 68.98, 60.42, 85.53),
    "Freq-spec": (75.28, 45.18, 53.61, 50.98, 47.46, 57.12, 69.00),
    "CNNSpot": (85.29, 53.47, 86.31, 86.26, 66.67, 48.69, 58.63),
    "Patchfor": (69.97, 75.54, 72.33, 55.30, 75.14, 75.28, 72.54),
    "UniFD": (95.25, 66.60, 59.50, 72.00, 63.00, 57.50, 82.02),
    "LDGard": (89.17, 58.00, 50.74, 50.78, 62.50, 50.00, 89.79),
    "FreqNet": (94.23, 97.40, 71.92, 67.35, 88.92, 59.04, 83.34),
    "NPR": (94.16, 76.89, 50.00, 50.00, 66.94, 98.63, 94.54),
    "LEGION": (97.01, 63.37, 90.78, 98.93, 79.44, 57.76, 83.10)}


def _columns(table: dict[str, tuple], start: int, stop: int) -> dict[str, tuple]:
    return {method: values[start:stop] for method, values in table.items()}


_POOLED = (("this run, mean over photos", "", ""), ("this run, pooled", "mean", "pooled"))
_FORCED = (("this run", "", ""),
           ("this run, given the true answer", "detection", "teacher_forced"))
TABLES = (
    Published("synthscars", "SynthScars, by content", LEGION, f"{_MASKS} The released data set "
              "does not tell a photo's category; without a side file nothing can be put here.",
              _masks("object", "animal", "human", "scene"), _columns(_LOCALISATION, 0, 8),
              "LEGION", ours_by=_POOLED),
    Published("synthscars", "SynthScars, all photos", THIRD, "From 0 to 1, of the artifacts.",
              _THIRD_COLUMNS, {"legion_LE": (.223, .321, .242, .389),
                               "retrained": (.196, .287, .200, .334)}, "legion_LE",
              per_cent=False),
    Published("synthscars", "SynthScars, explanations", LEGION, _TEXT, _TEXT_COLUMNS,
              _columns(_EXPLANATION, 0, 2), "LEGION"),
    Published("loki", "LOKI, masks", LEGION, _MASKS, _masks(""), _columns(_LOCALISATION, 8, 10),
              "LEGION", ours_by=_POOLED),
    Published("loki", "LOKI, masks of 229 photos", THIRD, "From 0 to 1, of the artifacts.",
              _THIRD_COLUMNS, {"legion_LE": (.099, .160, .117, .209),
                               "retrained": (.079, .128, .124, .221)}, "legion_LE",
              per_cent=False),
    Published("loki", "LOKI, explanations", LEGION, _TEXT, _TEXT_COLUMNS,
              _columns(_EXPLANATION, 2, 4), "LEGION"),
    Published("loki", "LOKI, verdicts and explanations", FAKEVLM, _VERDICT, _FAKEVLM_COLUMNS,
              _columns(_FAKEVLM, 4, 8), "FakeVLM", per_cent=False),
    Published("richhf", "RichHF-18K, masks", LEGION, f"{_MASKS} The threshold that makes masks "
              "of the published heat maps is not known.", _masks(""),
              _columns(_LOCALISATION, 10, 12), "LEGION", ours_by=_POOLED),
    Published("sid_set", "SID-Set, classes", SIDA, _CLASSES, _CLASS_COLUMNS, _SID_SET, "SIDA-7B",
              ours_by=_FORCED),
    Published("fakeclue", "FakeClue", FAKEVLM, _VERDICT, _FAKEVLM_COLUMNS,
              _columns(_FAKEVLM, 0, 4), "FakeVLM", per_cent=False),
    Published("ufd", "UniversalFakeDetect, accuracy", LEGION,
              "In per cent, of detectors trained on ProGAN. GANs and Diffusion are unweighted "
              "means of six and of eight test sets; this run has them where it has all of those.",
              tuple(Column(name, ("groups", name, "accuracy"), split)
                    for name, split in _SETS.items()),
              _DETECTION, "LEGION"))


@dataclasses.dataclass(frozen=True)
class Standing:
    """Tables with this run's rows first. `reason`: why there is none, what to mind, or ""."""

    tables: list[Table]
    reason: str


def standing(run: Evaluation) -> Standing:
    """The published tables of the run's data set, where its split is the published one.

    That is told by what `DataSet.unlike_published` finds when the data set is prepared.
    """
    data, split = str(run.metrics.get("data") or ""), str(run.metrics.get("split") or "")
    name = dataset_of(data)
    tables = [table for table in TABLES if table.dataset == name]
    if not tables:
        known = ", ".join(dict.fromkeys(table.dataset for table in TABLES))
        return Standing([], f"Not comparable: no published table is of {data or 'unknown data'}; "
                            f"there are some of {known}.")
    parts = split.split("+")
    bases = {re.match(r"\w*", part).group() for part in parts}
    if bases & _TRAINING or "all" in bases and name in WITH_TRAINING:
        return Standing([], f"Not comparable: the published numbers are of test photos alone, "
                            f"these of split {split}.")
    if (unlike := run.metrics.get("unlike_published")) is None:
        return Standing([], f"Not comparable: it was not noted whether this is the published test "
                            f"set of {data}; prepare and evaluate it again.")
    if unlike:
        return Standing([], f"Not comparable: this is not the published test set ({unlike}).")
    reason = "" if set(parts) == bases else (
        f"Not strictly comparable: {split} is a part of the published split.")
    return Standing([_table(run, table, split) for table in tables], reason)


def dataset_of(data: str) -> str:
    """Which data set with published tables a path such as data/loki/regions/2.0.0 is of, or ""."""
    parts = data.lower().replace("://", "/").split("/")
    names = dict.fromkeys(table.dataset for table in TABLES)
    return next((name for part in reversed(parts) for name in names if part == name), "")


def _table(run: Evaluation, table: Published, split: str) -> Table:
    scale, digits = (100, 2) if table.per_cent else (1, 3)

    def text(value: float | None) -> Cell:
        return DASH if value is None else Cell(f"{value:.{digits}f}")

    ours = {name: [_number(run, _moved(column, key, other), split) for column in table.columns]
            for name, key, other in table.ours_by}
    rows = [(Term(name), [text(value if value is None else scale * value) for value in values])
            for name, values in ours.items()]
    rows += [(Term(name), [text(value) for value in values]) for name, values in table.rows.items()]
    columns = [Term(column.name, convention(run, *column.path)) for column in table.columns]
    missing = all(value is None for values in ours.values() for value in values)
    note = "This run has none of these numbers. " if missing else ""
    return Table(table.title, columns, rows, note=f"{note}Published: {table.source}. {table.note}",
                 strong=(*ours, table.ours))


def _moved(column: Column, key: str, other: str) -> Column:
    """The column with `other` in place of `key` in its path."""
    return dataclasses.replace(
        column, path=tuple(other if part == key else part for part in column.path))


def _number(run: Evaluation, column: Column, split: str) -> float | None:
    """The run's number for a column; categories and groups are found whatever their case, classes
    by the label they are of.

    None for a group of test sets that lacks some of them: its mean is not the published one.
    """
    block, name, *rest = column.path
    if column.split and column.split == split.lower():
        return run.number("detection", "accuracy")
    if "by_class" in rest:
        names = list(run.block(block, name, "by_class"))
        index = verdict_classes.class_of(rest[1], names)
        rest[1] = rest[1] if index is None else names[index]
    if block in ("categories", "groups"):
        name = next((known for known in run.block(block) if known.lower() == name.lower()), name)
    return None if run.block(block, name).get("missing") else run.number(block, name, *rest)
