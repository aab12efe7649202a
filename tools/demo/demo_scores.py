"""The scores of a demo on its held-out photos, beside those of models that know nothing."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath

from input_pipeline.records import verdict_classes
from legion_jax.config import VISION
from legion_jax.evaluate import (
    chunks,
    mask_scores,
    minilm_files,
    run as evaluation,
    settings,
    text_scores,
    weighted,
)
from legion_jax.evaluate.summary import summary
from legion_jax.evaluate.terminal import show
from legion_jax.predict.predictor import Predictor
from legion_jax.weights.checkpoint import Checkpoint, find_step
from tools.demo.confusion import Confusion, class_of, confusion_of
from tools.demo.demo_page import ScoreRow

Encoder = Callable[[list[str]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of a demo.

    Attributes:
        table: the trained model's, then those of models that know nothing.
        result: of the trained model, as of `evaluate.summary`; rows: of all held-out photos.
        predictor: of the trained model.
    """

    table: list[ScoreRow]
    result: dict
    rows: list[dict]
    predictor: Predictor

    @property
    def classes(self) -> tuple[str, ...]:
        """Of its verdict."""
        return self.predictor.config.classes

    @property
    def confusion(self) -> Confusion:
        """Of the trained model."""
        return confusion_of(self.rows, self.classes)


def score_row(name: str, result: dict, *, judged: bool = True,
              confusion: Confusion | None = None) -> ScoreRow:
    """The demo's scores among those of an evaluation; of masks alone where nothing is `judged`.

    `confusion`: of a verdict of more classes than real and fake.
    """
    masks, verdicts = result["localisation"], result.get("detection", {}) if judged else {}
    artifacts = masks["mean_with_artifacts"] or {}
    return ScoreRow(
        name=name, f1=masks["mean"]["f1"], f1_with_artifacts=artifacts.get("f1"),
        miou=masks["mean"]["miou"], fg_iou=masks["mean"]["fg_iou"],
        pooled_f1=masks["pooled"]["f1"], accuracy=verdicts.get("accuracy"), auc=verdicts.get("auc"),
        rouge_l=result["text"]["rouge_l"] if judged else None,
        css=result["text"]["css"] if judged else None,
        of_classes=confusion.accuracy if confusion and judged else None)


def constant_mask(name: str, counts: np.ndarray) -> ScoreRow:
    """Score of a mask that does not look at the photo."""
    scores = weighted.values(mask_scores.localisation(counts), len(counts))
    return score_row(name, {"localisation": scores}, judged=False)


def constant_verdict(rows: Sequence[dict], classes: Sequence[str]) -> ScoreRow:
    """Score of the one verdict that is right most often, without a look at the photo."""
    truths = [class_of(row, classes) for row in rows]
    most = classes[collections.Counter(truths).most_common(1)[0][0]]
    real = verdict_classes.means_real(most)
    return ScoreRow(
        f"“{most}” of every photo", *[None] * 5,
        accuracy=float(np.mean([(row["label"] == 0) == real for row in rows])),
        auc=None, rouge_l=None, css=None,
        of_classes=float(np.mean([classes[truth] == most for truth in truths])))


def css_encoder() -> tuple[Encoder | None, str]:
    """The sentence encoder and its name after --css_model=; None and '' if it is not installed."""
    if missing := minilm_files.missing():
        print(f"CSS is not computed: {missing} is not installed: {minilm_files.HINT}")
        return None, ""
    return text_scores.encoder(minilm_files.NAME), minilm_files.NAME


def score(root: pathlib.Path, config, source, css: tuple[Encoder | None, str]) -> Scores:
    """Trained and untrained model, and models that say and mark the same whatever they see.

    `css`: of `css_encoder`.
    """
    size, run = config.eval.batch_size, str(root / "run")
    checkpoint = Checkpoint.open(run)
    trained = Predictor.from_checkpoint(checkpoint, batch_size=size)
    data = evaluation.open_data(root / "data", "test")
    task = evaluation.Task(data.source, evaluation.facts_of(checkpoint, data), lambda: trained,
                           data.unlike_published)
    result = evaluation.run(task, epath.Path(root / "evaluation"),
                            evaluation.Scoring(settings.DEFAULT, *css), folder=run)
    rows = list(chunks.read(root / "evaluation" / chunks.ROWS))
    show(result)
    untrained = Predictor.untrained(trained.config, trained.tokenizer, question=trained.question,
                                    batch_size=size)
    baseline, untrained_rows = evaluation.evaluate(untrained, source, encode=css[0])
    classes = trained.config.classes
    table = [score_row("trained model", result, confusion=confusion_of(rows, classes)),
             score_row("untrained model", baseline,
                       confusion=confusion_of(untrained_rows, classes))]
    return Scores([*table, *_constants(trained, rows)], result, rows, trained)


def _constants(predictor: Predictor, rows: Sequence[dict]) -> list[ScoreRow]:
    """Of verdicts that come with the answer, of masks where any are drawn."""
    config, constants = predictor.config, []
    if config.verdict_source != VISION:
        constants.append(constant_verdict(rows, config.classes))
    if config.sam is not None:
        counts = np.array([row["counts"] for row in rows if row["counts"] is not None])
        constants += [constant_mask("all-ones mask", mask_scores.all_ones_counts(counts)),
                      constant_mask("empty mask", mask_scores.empty_counts(counts))]
    return constants


def best_and_last(root: pathlib.Path, config, source, rows: list[dict], *, deciding: int,
                  encode: Encoder | None, classes: Sequence[str]) -> list[ScoreRow]:
    """The best checkpoint and the last on the held-out photos that did not decide which is best.

    Args:
        rows: of all held-out photos, by the last one; the first `deciding` of them decided.
        encode: of `css_encoder`.
    """
    last, best = (find_step(root / "run", wanted) for wanted in ("newest", "best"))
    others = rows[deciding:]
    scores = [score_row(f"last, after {last} updates", summary(others),
                        confusion=confusion_of(others, classes))]
    if best != last:
        predictor = Predictor.from_checkpoint(Checkpoint.open(root / "run", step=best),
                                              batch_size=config.eval.batch_size)
        result, others = evaluation.evaluate(
            predictor, [source[number] for number in range(deciding, len(source))], encode=encode)
        scores.insert(0, score_row(f"best, after {best} updates", result,
                                   confusion=confusion_of(others, classes)))
    return scores
