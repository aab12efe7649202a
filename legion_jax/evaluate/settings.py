"""What an evaluation was done with, and the sentence that says what each of its numbers means."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from input_pipeline.errors import UserError
from input_pipeline.photos import perturbations, regions
from legion_jax.evaluate import mask_scores, minilm_files, verdict_scores
from legion_jax.evaluate.word_verdicts import FAKEVLM, WORDS

FORMAT = 1  # of rows.jsonl; changes when its numbers would
# What the published evaluation scripts pass to their helpers. The noise was meant for pixels of 0
# to 255 but is added to pixels of 0 to 1.
LEGION_LEVELS = {"noise": (25.5,), "blur": (5,), "jpeg": (50,)}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the row of a photo beside model and data.

    Attributes:
        rasteriser: of true polygons, one of `regions.RASTERISERS`.
        pixel_rule: how empty masks score, one of `mask_scores.RULES`.
        perturbation, level: damage done to photos, '' for none (names and levels as in
            `input_pipeline.photos.perturbations`).
        verdict_rule: how a verdict is read from words, FAKEVLM for the published rule; None: the
            verdict is the system's own, that of its head or our reading of its words.
        teacher_forced: True: photos are read with their true answers, too, see `teacher_forced`.
    """

    rasteriser: str = "coco"
    pixel_rule: str = "exact"
    perturbation: str = ""
    level: float = 0.0
    verdict_rule: str | None = None
    # None rather than False: older evaluations have noted nothing of it, and may go on.
    teacher_forced: bool | None = None

    def __post_init__(self):
        for name, known in (("rasteriser", regions.RASTERISERS), ("pixel_rule", mask_scores.RULES),
                            ("verdict_rule", (FAKEVLM, None))):
            if getattr(self, name) not in known:
                raise UserError(f"{name}: one of {', '.join(map(str, known))}, "
                                f"not {getattr(self, name)!r}")


DEFAULT = Settings()
LEGION, SIDA = "legion", "sida"
# Each published evaluation, and which of its numbers are ours.
COMPAT = {
    LEGION: (Settings(rasteriser="fillpoly", pixel_rule="legion"),
             "its localisation is localisation.mean, its accuracy "
             "detection.mean_accuracy_of_splits"),
    FAKEVLM: (Settings(verdict_rule=FAKEVLM), "its accuracies are in published_accuracy"),
    SIDA: (Settings(teacher_forced=True), "its numbers are in teacher_forced")}


def compatible(name: str) -> Settings:
    """The settings of a published evaluation, '' for the usual ones. Raises UserError."""
    if name and name not in COMPAT:
        raise UserError(f"--compat: one of {', '.join(COMPAT)}, not {name!r}")
    return COMPAT[name][0] if name else DEFAULT


def explain(name: str) -> str:
    """Which switches `--compat` sets, and to what."""
    settings, numbers = COMPAT[name]
    changed = {field: value for field, value in dataclasses.asdict(settings).items()
               if value != getattr(DEFAULT, field)}
    levels = {kind: levels[0] for kind, levels in LEGION_LEVELS.items() if name == LEGION}
    switches = ", ".join(f"{switch} {value}" for switch, value in (changed | levels).items())
    return f"--compat={name} sets {switches}; {numbers}"


def parse_robustness(text: str, *, compat: str = "") -> list[tuple[str, float]]:
    """[(perturbation, level)] of a flag: `all`, or names, each with all its levels or one.

    "jpeg,blur=5" is every quality of the grid and one kernel; `compat` takes the levels from the
    published scripts instead, where these do damage. Raises UserError naming what is no
    perturbation or no level of one.
    """
    grid = LEGION_LEVELS if compat == LEGION else perturbations.GRID
    chosen: list[tuple[str, float]] = []
    for part in filter(None, (list(grid) if text == "all" else text.split(","))):
        name, _, asked = part.strip().partition("=")
        if name not in perturbations.GRID:
            raise UserError(f"--robustness: no perturbation {name!r}; known: all, "
                            f"{', '.join(perturbations.GRID)}")
        try:
            levels = [float(asked)] if asked else grid[name]
        except ValueError as error:
            raise UserError(f"--robustness: {asked!r} is no level of {name}") from error
        except KeyError as error:
            raise UserError(f"--robustness: {name} has no published level; known with --compat: "
                            f"{', '.join(grid)}") from error
        for level in levels:  # tried now: hours may pass until a level has its turn
            perturbations.perturb(np.zeros((8, 8, 3), np.uint8), name, level, record_id="")
        chosen += [(name, float(level)) for level in levels]
    return list(dict.fromkeys(chosen))


def dialogue_of(settings: Mapping) -> str | None:
    """The dialogue in which a model was asked, of what an evaluation was made with: noted beside
    the question or as a part of it; None where it is not.
    """
    question = settings.get("question")
    inside = question.get("dialogue") if isinstance(question, Mapping) else None
    return settings.get("dialogue") or inside


TRUTH = {
    "coco": "polygons by COCO's run lengths (pixel centres inside)",
    "fillpoly": "polygons with points truncated to whole pixels and their border included, pixel "
                "by pixel those of OpenCV's fillPoly"}
EMPTY = {
    "exact": "a class without a pixel in either mask scores 1",
    "legion": "IoU is intersection / (union + 1e-6), so a class without a pixel in either mask "
              "has IoU 0, while its F1 is 1"}
FIXED = {
    "localisation.mean": "Scored photo by photo, then averaged.",
    "localisation.mean_with_artifacts": "The same without photos whose truth is empty.",
    "localisation.pooled": "The pixels of all photos counted together, so large artifacts weigh "
                           "more.",
    "localisation.false_area_on_clean": "Mean share of predicted pixels, photos with empty truth.",
    "localisation.false_area_on_real": "Mean share of predicted pixels, photos labelled real, "
                                       "whether marked or not.",
    "localisation.false_area_on_real_shown": "The same, none where the verdict withholds masks.",
    "matching": "IoU of single regions' masks over photos whose regions are marked one by one; at "
                "most 100 regions a photo. ap50 at IoU 0.5, map the mean over 0.5:0.05:0.95; "
                "precision50 and recall50 by the Hungarian assignment.",
    "matching.hungarian": "Assignment of largest summed IoU in each photo; ranked by score over "
                          "all photos, area under the 101-point interpolated precision-recall "
                          "curve.",
    "matching.coco": "As pycocotools' COCOeval: greedy by falling score at every threshold; the "
                     "same curve.",
    "matching.legion": "As LEGION's helper: share of assigned pairs of connected components of the "
                       "union masks that reach the threshold, averaged over marked photos, 0 "
                       "without a pair; what is left over costs nothing.",
    "detection": f"Fake (synthetic or tampered) is the positive class; a verdict is fake when its "
                 f"most probable class is not the one that means real, and its probability is 1 - "
                 f"that class's. Photos that could not be read count as wrong "
                 f"in accuracies and F1 and are left out of AUC, AP, ECE, Brier score and NLL. ECE "
                 f"has {verdict_scores.BINS} bins of equal width over the probability of the "
                 f"verdict given; NLL is in nats. mean_accuracy_of_splits and _of_categories weigh "
                 f"every split or category alike; the first over the test sets of "
                 f"UniversalFakeDetect is the number of LEGION's tables. by_generator holds the "
                 f"fakes it made.",
    "categories": "The same over the photos of one category each.",
    "groups": "Columns of LEGION's detection table: unweighted mean of the accuracies of their "
              "test sets; 'missing' names sets that were not evaluated.",
    "words": "What the explanation's own words say of real and fake, found by rule; agreement with "
             "the verdict over photos where both say something.",
    "robustness": "Photos damaged before any preprocessing, truth untouched: noise sigma in units "
                  "of full scale, blur kernel in pixels (sigma 0.3((k-1)/2-1)+0.8), JPEG quality "
                  "of libjpeg with 4:2:0, resize factor and back, web: 1280 pixels, JPEG twice."}


# How verdicts are read from words; evaluations by the first rule compare with those of heads.
BY_WORDS = {
    WORDS: {"detection.words": (
        "This system has no verdict head. Its verdict is what the first word for real or fake in "
        "its answer says, as in the block words; an answer without one counts as a wrong verdict "
        "and is in num_unparsed. The probability is of the words for fake and real where the "
        "answer begins; AUC, AP, Brier score and NLL are over all photos that have one, ECE over "
        "those with a verdict.")},
    FAKEVLM: {
        "detection.fakevlm": (
            "Verdicts by the published rule of FakeVLM: of the text behind the last question mark "
            "the letters \"real\" anywhere in the first sentence say real, else \"fake\" fake, "
            "else those of the second sentence; where neither says anything the verdict is drawn, "
            "here by a generator seeded by the photo's id, and is in num_drawn. The block words "
            "holds our reading."),
        "published_accuracy": (
            "The accuracies that FakeVLM's evaluation prints: those of categories rounded to 4 "
            "places, the one of all photos not rounded, 0 of a class without photos.")}}


# Where a verdict may be one of more classes than real and not real.
OF_CLASSES = {
    "detection.classes": (
        "A verdict is right where it is the class of the photo's own label. accuracy is the share "
        "of right ones, macro_f1 the unweighted mean of the F1 of the classes that any photo has "
        "or was given; recall is over the photos of a class, precision over those that were given "
        "it. Photos without a verdict, for want of a readable file or of the [CLS] that the head "
        "reads in the answer, are wrong ones and stand under none in confusion, which counts the "
        "photos of each label by the class they were given.")}


FORCED = {
    "teacher_forced": (
        "As SIDA's published evaluation counts: the true answer, with its class and its [SEG], is "
        "given to the model, the class is the most probable one at its [CLS], and masks are of "
        "tampered photos alone, in the size of the photo as SAM sees it, where of the antialiased "
        "true mask only pixels of 255 count. giou is the mean IoU of masks, 1 where neither has a "
        "pixel; ciou that of all pixels counted together; pixel_accuracy is ciou in per cent; f1 "
        "the harmonic mean of ciou and classes.accuracy; auc the mean precision of the classes "
        "times their mean recall. None of these can be compared with numbers of answers that a "
        "model writes.")}


def conventions(settings: Settings, *, css_model: str = "", resamples: int = 0,
                verdict_by: str | None = None, classes: bool = False) -> dict[str, str]:
    """For each block of metrics.json, how its numbers come about.

    Args:
        verdict_by: the judge, as of `word_verdicts`.
        classes: whether there is a block `detection.classes`.
    """
    encoder = minilm_files.MODEL if css_model == minilm_files.NAME else css_model
    return FIXED | BY_WORDS.get(verdict_by, {}) | (OF_CLASSES if classes else {}) | (
        FORCED if settings.teacher_forced else {}) | {
        "localisation": f"Union of all predicted masks (logit > 0, whatever the verdict) against "
                        f"the union of all marked regions, at the photo's own size; "
                        f"{TRUTH[settings.rasteriser]}. mIoU is the mean of foreground and "
                        f"background IoU, F1 is of foreground pixels; {EMPTY[settings.pixel_rule]}."
                        f" Photos nobody marked are left out; one that could not be read has an "
                        f"empty mask and scores 0 in the means.",
        "text": "ROUGE-L: F-measure of the longest common word sequence, no stemming, 0 to 1, mean "
                "over photos with a reference, tags removed. Words are runs of letters and digits "
                "in lower case, of ASCII those of Google's rouge_score, and single letters in "
                "scripts without spaces; num_wordless explanations have none. " + (
                    f"CSS: cosine of sentence embeddings of {encoder}, -1 to 1, mean over the "
                    f"same photos, 0 for an empty explanation." if css_model else
                    "CSS was not computed: no encoder was named."),
        "intervals": f"95 % percentile intervals of {resamples} bootstrap resamples of photos."
                     if resamples else "Not computed."}
