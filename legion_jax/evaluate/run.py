"""A whole evaluation: every record predicted once, its row kept, and the numbers made of all rows.

Texts are decoded greedily from the photo alone, never teacher-forced, and masks are compared at the
photo's original size.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from input_pipeline import files
from input_pipeline.errors import UserError
from input_pipeline.records import manifest, prepared, verdict_classes
from input_pipeline.records.record import DataError
from legion_jax.config import WORDS
from legion_jax.evaluate import chunks, class_scores, text_scores, word_verdicts
from legion_jax.evaluate.intervals import RESAMPLES, bootstrap_intervals
from legion_jax.evaluate.photo_rows import Source, predicted
from legion_jax.evaluate.report import write_report
from legion_jax.evaluate.report.photos import RecordPhotos
from legion_jax.evaluate.settings import DEFAULT, FORMAT, Settings, conventions
from legion_jax.evaluate.summary import summary
from legion_jax.evaluate.teacher_forced import TeacherForced
from legion_jax.predict import calibration
from legion_jax.predict.detector import Detector
from legion_jax.predict.prediction import Question
from legion_jax.weights.checkpoint import Checkpoint


@dataclasses.dataclass(frozen=True)
class Data:
    """Splits of a prepared data set, opened.

    Attributes:
        source: their records.
        name: of data set and config, such as "synthscars/photos".
        content: SHA-256 of what the data set holds, in hexadecimal digits.
        split: as it was asked for.
        labels: names of those that photos of these splits have, without "unknown".
        unlike_published: as of `DataSet.unlike_published`, over the splits; None: not known.
    """

    source: Source
    name: str
    content: str
    split: str
    labels: Sequence[str]
    unlike_published: str | None = None


def open_data(data_dir: epath.PathLike, split: str) -> Data:
    """Open `split`: one, several joined by +, or `all`. Raises DataError."""
    version = prepared.find_version(data_dir)
    data_set = manifest.read_summary(version)
    names = list(data_set["splits"]) if split == "all" else split.split("+")
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(f"split {split!r} holds {', '.join(sorted(twice))} more than once")
    source = Source([(re.match(r"\w*", name).group(), prepared.open_split(version, name))
                     for name in names])
    unlike = [data_set["splits"][name].get("unlike_published") for name, _ in source.parts]
    return Data(source, f"{data_set['dataset']}/{data_set['config']}", data_set["content"], split,
                manifest.known_labels(version, split),
                None if None in unlike else next(filter(None, unlike), ""))


def check_classes(checkpoint: Checkpoint, data: Data) -> None:
    """Raise ClassError where no class of a verdict head means real; scores need no more than that.
    """
    labels = ", ".join(data.labels) or "nothing"
    verdict_classes.real_class(
        checkpoint.meta.config.classes,
        f"{checkpoint.folder}, for photos labelled {labels} in {data.name}, split {data.split}")


def check_rule(checkpoint: Checkpoint, settings: Settings) -> None:
    """Raise UserError where verdicts are to be read from words that do not judge."""
    source = checkpoint.meta.config.verdict_source
    if settings.verdict_rule is not None and source != WORDS:
        judged = "does not judge photos" if source is None else (
            f"judges photos by a head (config.verdict.source is {source!r})")
        raise UserError(f"--compat={settings.verdict_rule}: reads verdicts from the words of "
                        f"answers, but {checkpoint.folder} {judged}")


def evaluate(predictor: Detector, records: Sequence, *,
             encode: Callable[[list[str]], np.ndarray] | None = None) -> tuple[dict, list[dict]]:
    """Predict every record of one split once, in memory, by the usual settings.

    Args:
        encode: the sentence encoder for CSS, which is not scored without.

    Returns:
        (`summary.summary` of the rows, rows in the order of the records as of `photo_rows`).
    """
    source = Source([("", records)])
    by_number = dict(tqdm(predicted(predictor, source, range(len(source)), settings=DEFAULT),
                          total=len(source), desc="evaluating", unit="photo"))
    rows = [by_number[number] for number in range(len(source))]
    if encode:
        text_scores.add_css(rows, encode)
    return summary(rows, rule=DEFAULT.pixel_rule), rows


@dataclasses.dataclass(frozen=True)
class Task:
    """What is evaluated.

    Attributes:
        facts: what identifies model and data; rows are only ever added to rows with the same.
        load: makes the predictor; called once, and only when a photo is still to be seen.
        unlike_published: of `Data`.
    """

    source: Source
    facts: dict
    load: Callable[[], Detector]
    unlike_published: str | None = None

    @functools.cached_property
    def predictor(self) -> Detector:
        """The predictor, loaded when it is first asked for."""
        return self.load()

    @functools.cached_property
    def forced(self) -> TeacherForced:
        """The same model with true answers given, where it is a predictor of this family."""
        return TeacherForced(self.predictor)

    def rows(self, output: epath.Path, settings: Settings) -> list[dict] | None:
        """Rows of every record, predicted as far as they are not in `output` yet.

        None on all hosts but the first.
        """
        store = chunks.Chunks(output, len(self.source), host=jax.process_index(),
                              hosts=jax.process_count())
        store.begin(self.facts | dataclasses.asdict(settings))
        question = self.facts["question"]["instruction"] if settings.verdict_rule else ""
        missing = store.missing()
        if missing:
            answered = predicted(self.predictor, self.source, missing, settings=settings,
                                 question=question)
            if settings.teacher_forced:
                answered = self.forced.added(answered, self.source, settings)
            for number, row in tqdm(answered, total=len(missing), desc=output.name, unit="photo"):
                store.add(number, row)
        store.wait()
        return list(store.rows()) if jax.process_index() == 0 else None


def facts_of(checkpoint: Checkpoint, data: Data, *, question: Question | None = None,
             int8: bool = False) -> dict:
    """What rows depend on beside the settings: parameters, question, calibration, records.

    `question`: the checkpoint's own by default.
    """
    return {"format": FORMAT, "checkpoint": checkpoint.fingerprint, "step": checkpoint.step,
            "temperature": calibration.load(checkpoint),
            "question": dataclasses.asdict(question or Question.of(checkpoint.meta)),
            "data": data.name, "content": data.content, "split": data.split,
            "records": len(data.source), "int8": int8}


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How rows become numbers; may change between two runs on the same rows."""

    settings: Settings
    encode: Callable[[list[str]], np.ndarray] | None = None
    css_model: str = ""
    resamples: int = RESAMPLES
    seed: int = 0

    def result(self, rows: list[dict], facts: dict, folder: str) -> dict:
        """metrics.json but for robustness; sets `css` of the rows where there is an encoder."""
        if self.encode:
            text_scores.add_css(rows, self.encode)
        rule = self.settings.pixel_rule
        return {"checkpoint": folder, "data": facts["data"], "split": facts["split"],
                "settings": facts | dataclasses.asdict(self.settings) | {
                    "css_model": self.css_model or None, "resamples": self.resamples,
                    "bootstrap_seed": self.seed},
                "conventions": conventions(self.settings, css_model=self.css_model,
                                           resamples=self.resamples,
                                           verdict_by=word_verdicts.source_of(rows),
                                           classes=bool(class_scores.classes_of(rows))),
                **summary(rows, rule=rule),
                "intervals": bootstrap_intervals(rows, resamples=self.resamples, seed=self.seed,
                                                 rule=rule)}


def run(task: Task, output: epath.Path, scoring: Scoring, *, folder: str,
        damage: Sequence[tuple[str, float]] = ()) -> dict | None:
    """Evaluate into `output`, then every kind of damage into output/robustness/NAME_LEVEL.

    Args:
        folder: of the checkpoint, as metrics.json names it.
        damage: perturbations and their levels.

    Returns:
        The content of metrics.json; None on all hosts but the first.
    """
    rows, result = task.rows(output, scoring.settings), None
    if rows is not None:
        result = scoring.result(rows, task.facts, folder)
    curves = []
    for name, level in damage:
        settings = dataclasses.replace(scoring.settings, perturbation=name, level=level)
        damaged_output = output / "robustness" / f"{name}_{level:g}"
        damaged_rows = task.rows(damaged_output, settings)
        if damaged_rows is not None:
            damaged = dataclasses.replace(scoring, settings=settings).result(
                damaged_rows, task.facts, folder)
            finish(damaged_output, damaged, damaged_rows)
            curves.append({"name": name, "level": level} | {
                block: damaged[block] for block in ("localisation", "detection", "text",
                                                    "matching", "intervals")})
    if result is not None:
        result |= {"robustness": curves, "unlike_published": task.unlike_published}
        finish(output, result, rows)
        write_report(output, RecordPhotos(*(records for _, records in task.source.parts)))
    return result


def finish(output: epath.PathLike, result: dict, rows: Sequence[dict]) -> None:
    """Write metrics.json and rows.jsonl, and remove the chunks the rows were gathered in."""
    output = epath.Path(output)
    files.write_text(output / chunks.ROWS, "".join(map(chunks.line, rows)))
    files.write_json(output / "metrics.json", result)
    chunks.Chunks(output, len(rows)).remove()
