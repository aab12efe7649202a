"""A whole evaluation: every record predicted once, its row kept, and the numbers made of all rows.

Texts are decoded greedily from the photo alone, never teacher-forced, and masks are compared at the
photo's original size.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from input_pipeline import files
from input_pipeline.photos import images
from input_pipeline.records import manifest, prepared
from input_pipeline.records.record import DataError, Record
from legion_jax.evaluate import (
    bootstrap,
    chunks,
    settings as settings_lib,
    summary as summary_lib,
)
from legion_jax.evaluate.photo_rows import Source, predicted
from legion_jax.evaluate.report import write_report
from legion_jax.evaluate.report.photos import RecordPhotos
from legion_jax.evaluate.settings import Settings
from legion_jax.evaluate.summary import summary
from legion_jax.predict import calibration
from legion_jax.predict.predictor import Predictor
from legion_jax.weights import checkpoint


def truth_of(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Photo uint8[H, W, 3] and union of its regions bool[H, W] at the original size."""
    image = images.read_image(record.image, name=record.id)
    truth = record.marked(image.shape[:2])
    if truth is None:
        raise DataError(f"record {record.id}: nobody marked its artifacts, so masks "
                        f"cannot be scored")
    return image, truth


def open_source(data_dir: epath.PathLike, split: str) -> Source:
    """The records of `split`: one, several joined by +, or `all`. Raises DataError."""
    place = prepared.find_version(data_dir)
    names = list(manifest.read_summary(place)["splits"]) if split == "all" else split.split("+")
    return Source([(re.match(r"\w*", name).group(), prepared.open_split(place, name))
                   for name in names])


def evaluate(predictor: Predictor, source: Sequence, *, progress: bool = True,
             settings: Settings = settings_lib.DEFAULT) -> tuple[dict, list[dict]]:
    """Predict every record once, in memory.

    Returns:
        (summary, rows in the order of the records), see `scoring.summary` and `rows`.
    """
    source = source if isinstance(source, Source) else Source([("", source)])
    found = dict(tqdm(predicted(predictor, source, range(len(source)), settings=settings),
                      total=len(source), desc="evaluating", unit="photo", disable=not progress))
    rows = [found[number] for number in range(len(source))]
    return summary(rows, rule=settings.pixel_rule), rows


def write(output: epath.PathLike, result: dict, rows: Sequence[dict]) -> None:
    """Write metrics.json and rows.jsonl."""
    output = epath.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    files.write_text(output / chunks.ROWS, "".join(map(chunks.line, rows)))
    files.write_json(output / "metrics.json", result)


@dataclasses.dataclass(frozen=True)
class Task:
    """What is evaluated.

    Attributes:
        facts: what identifies model and data; rows are only ever added to rows with the same.
        predictor: makes the predictor; called once, and only when a photo is still to be seen.
    """

    source: Source
    facts: dict
    predictor: Callable[[], Predictor]

    def rows(self, output: epath.Path, settings: Settings) -> list[dict] | None:
        """Rows of every record, predicted as far as they are not in `output` yet.

        None on all hosts but the first.
        """
        store = chunks.Chunks(output, len(self.source), host=jax.process_index(),
                              hosts=jax.process_count())
        store.begin(self.facts | dataclasses.asdict(settings))
        missing = store.missing()
        if missing:
            for item in tqdm(predicted(self.predictor(), self.source, missing, settings=settings),
                             total=len(missing), desc=output.name, unit="photo"):
                store.add(*item)
        store.wait()
        return list(store.rows()) if jax.process_index() == 0 else None


def facts_of(folder: str, data_dir: str, split: str, source: Source, *,
             int8: bool = False) -> dict:
    """What rows depend on beside the settings: parameters, question, calibration, records."""
    meta, base = checkpoint.read_meta(folder), checkpoint.base_of(folder)
    data = manifest.read_summary(prepared.find_version(data_dir))
    return {"format": settings_lib.FORMAT, "checkpoint": base["fingerprint"], "step": base["step"],
            "temperature": calibration.load(folder), "question": meta.get("question", {}),
            "data": f"{data['dataset']}/{data['config']}", "content": data["content"],
            "split": split, "records": len(source), "int8": int8}


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How rows become numbers; may change between two runs on the same rows."""

    settings: Settings
    encode: Callable[[list[str]], np.ndarray] | None = None
    css_model: str = ""
    resamples: int = bootstrap.RESAMPLES
    seed: int = 0

    def result(self, rows: list[dict], facts: dict, folder: str) -> dict:
        """metrics.json but for robustness; sets `css` of the rows where there is an encoder."""
        if self.encode:
            summary_lib.add_css(rows, self.encode)
        rule = self.settings.pixel_rule
        return {"checkpoint": folder, "data": facts["data"], "split": facts["split"],
                "settings": facts | dataclasses.asdict(self.settings) | {
                    "css_model": self.css_model or None, "resamples": self.resamples,
                    "bootstrap_seed": self.seed},
                "conventions": settings_lib.conventions(
                    self.settings, css_model=self.css_model, resamples=self.resamples),
                **summary(rows, rule=rule),
                "intervals": bootstrap.intervals(rows, resamples=self.resamples, seed=self.seed,
                                                 rule=rule)}


def run(task: Task, output: epath.Path, how: Scoring, *, folder: str,
        damage: Sequence[tuple[str, float]] = ()) -> dict | None:
    """Evaluate into `output`, then every kind of damage into output/robustness/NAME_LEVEL.

    Returns metrics.json; None on all hosts but the first.
    """
    rows, result = task.rows(output, how.settings), None
    if rows is not None:
        result = how.result(rows, task.facts, folder)
    curves = []
    for name, level in damage:
        damaged = dataclasses.replace(how.settings, perturbation=name, level=level)
        place = output / "robustness" / f"{name}_{level:g}"
        found = task.rows(place, damaged)
        if found is not None:
            scores = dataclasses.replace(how, settings=damaged).result(found, task.facts, folder)
            finish(place, scores, found)
            curves.append({"name": name, "level": level} | {
                block: scores[block] for block in ("localisation", "detection", "text",
                                                   "matching", "intervals")})
    if result is not None:
        result["robustness"] = curves
        finish(output, result, rows)
        write_report(output, RecordPhotos(*(records for _, records in task.source.parts)))
    return result


def finish(output: epath.Path, result: dict, rows: Sequence[dict]) -> None:
    """Write both files and remove the chunks they were gathered in."""
    write(output, result, rows)
    chunks.Chunks(output, len(rows)).remove()
