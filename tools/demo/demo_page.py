"""One HTML file that shows what a training run achieved: aims, scores, curves, examples, failure.

The file needs nothing beside itself: styles are inline, pictures are data URIs, curves are SVG.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import markupsafe
import numpy as np
from etils import epath
from PIL import Image

from input_pipeline import files
from legion_jax.display import overlay, web
from tools.demo import loss_curves
from tools.demo.confusion import Confusion

MAX_WIDTH = 1000  # px; wider pictures are reduced, the report stays small enough to mail
_TEMPLATES = pathlib.Path(__file__).parent / "templates"


@dataclasses.dataclass(frozen=True)
class Aim:
    """A number set as the goal before the run, and the number reached; more is better.

    `reached` is None when it could not be measured, which counts as missed.
    """

    name: str
    wanted: float
    reached: float | None

    @property
    def met(self) -> bool:
        return self.reached is not None and self.reached >= self.wanted

    @property
    def outcome(self) -> str:
        """`met, 0.042 above`, `met exactly`, `missed by 0.013` or `not measured`."""
        if self.reached is None:
            return "not measured"
        gap = abs(self.reached - self.wanted)
        size = f"{gap:.3f}" if gap >= 0.0005 else f"{gap:.1g}"  # never a miss "by 0.000"
        if self.met:
            return f"met, {size} above" if gap else "met exactly"
        return f"missed by {size}"


@dataclasses.dataclass(frozen=True)
class ScoreRow:
    """Scores of one model or baseline, each 0 to 1, or None where it has none.

    f1, miou and fg_iou are means over photos, f1_with_artifacts over those with an artifact,
    pooled_f1 counts the pixels of all photos together (`evaluate.mask_scores`). accuracy and auc
    judge real against fake, of_classes is the share of photos whose very class was said.
    """

    name: str
    f1: float | None
    f1_with_artifacts: float | None
    miou: float | None
    fg_iou: float | None
    pooled_f1: float | None
    accuracy: float | None
    auc: float | None
    rouge_l: float | None
    css: float | None  # -1 to 1, see `evaluate.text_scores`
    of_classes: float | None = None


@dataclasses.dataclass(frozen=True)
class Example:
    """One photo, what is true of it and what the model said.

    image: uint8[H, W, 3]. truth: bool[H, W], all artifacts together, or None where nobody marked
    them. prediction: the photo with the predicted masks and phrases drawn, as an RGB picture or
    uint8[Y, X, 3], or None of a model that draws none. verdict: a class, or None where the model
    gave none. probability: that the photo is not real, 0 to 1, or None. label: what it is; right:
    whether the verdict says so. f1: of the masks, 0 to 1, or None. Raises ValueError when truth
    and image do not fit.
    """

    name: str
    image: np.ndarray
    truth: np.ndarray | None
    prediction: Image.Image | np.ndarray | None
    verdict: str | None
    probability: float | None
    label: str
    right: bool
    explanation: str
    reference: str
    f1: float | None

    def __post_init__(self):
        if self.truth is not None and (
                self.truth.dtype != bool or self.truth.shape != self.image.shape[:2]):
            raise ValueError(f"{self.name}: truth needs bool{self.image.shape[:2]}, got "
                             f"{self.truth.dtype}{self.truth.shape}")

    @property
    def truth_picture(self) -> np.ndarray:
        """The photo with the true artifacts outlined, uint8[H, W, 3]."""
        return np.asarray(overlay.paint_masks(self.image, [self.truth], fill=0.15,
                                              colours=[overlay.UNION]))


# Names of ScoreRow's columns, by the groups they stand in.
MASKS = {"f1": "F1", "f1_with_artifacts": "F1, with artifacts", "miou": "mIoU", "fg_iou": "IoU",
         "pooled_f1": "F1, pooled"}
VERDICT = {"accuracy": "accuracy", "auc": "AUC"}
WORDS = {"rouge_l": "ROUGE-L", "css": "CSS"}
BY_METRIC = {"localisation.mean.f1": "mask F1", "detection.accuracy": "verdict accuracy"}


@dataclasses.dataclass(frozen=True)
class DemoReport:
    """All a report shows.

    facts: (what, value) pairs for the top, such as ("training time", "5 min 12 s"). curve: rows
    of metrics.jsonl, see `loss_curves.charts_of`. compared: checkpoints of the run on photos that
    had no part in choosing one, which went by `metric`, one of BY_METRIC. failure: a photo that
    went wrong, or None. encoder: model of the sentence embeddings behind CSS, '' where it was not
    computed. masks: whether the model draws any. confusion: of a verdict that comes with the
    answer, else None. false_area: mean share of real photos that is masked, or None.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    curve: Sequence[dict]
    scores: Sequence[ScoreRow]
    compared: Sequence[ScoreRow]
    aims: Sequence[Aim]
    examples: Sequence[Example]
    failure: Example | None
    encoder: str = ""
    masks: bool = True
    metric: str = "localisation.mean.f1"
    confusion: Confusion | None = None
    false_area: float | None = None

    @property
    def columns(self) -> dict[str, dict[str, str]]:
        """{group: {field of ScoreRow: name}} of the scores this model can have."""
        classes = {"of_classes": "class"} if self.three_way else {}
        return ({"masks": MASKS} if self.masks else {}) | {
            "verdict": classes | VERDICT, "words": WORDS}

    @property
    def three_way(self) -> bool:
        """Whether a verdict says more than real or fake."""
        return self.confusion is not None and len(self.confusion.classes) > 2

    @property
    def chosen_by(self) -> str:
        """The words for `metric`."""
        return BY_METRIC[self.metric]


def write_report(path: os.PathLike | str, report: DemoReport) -> None:
    """Writes the report as one HTML file: whole, or, if anything goes wrong, not at all."""
    files.write_text(epath.Path(path), render(report))


def render(report: DemoReport) -> str:
    """The report as HTML text; every text in it is escaped."""
    environment = web.environment(_TEMPLATES)
    environment.filters["picture"] = data_uri
    return environment.get_template("demo.html").render(
        report=report, charts=loss_curves.charts_of(report.curve, three_way=report.three_way),
        score_charts=loss_curves.score_charts(report.curve),
        met=sum(aim.met for aim in report.aims))


def data_uri(picture: Image.Image | np.ndarray) -> markupsafe.Markup:
    """RGB picture or uint8[H, W, 3] as the text of a JPEG data URI, at most MAX_WIDTH wide."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = image.convert("RGB")
    if image.width > MAX_WIDTH:
        height = max(1, round(image.height * MAX_WIDTH / image.width))
        image = image.resize((MAX_WIDTH, height), Image.Resampling.LANCZOS)
    # Full colour resolution: halved, thin coloured outlines and phrases would smear.
    return web.data_uri(image, "JPEG", quality=88, subsampling=0, optimize=True)
