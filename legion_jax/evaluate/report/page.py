"""The report of an evaluation: one HTML file with tables, curves and every photo."""

import logging
import pathlib

import numpy as np
from etils import epath

from input_pipeline import files
from input_pipeline.errors import UserError
from input_pipeline.records.record import LABELS
from legion_jax.display import gallery, web
from legion_jax.evaluate.report import curves, items, photos, published_results, tables
from legion_jax.evaluate.report.folder import Evaluation, open_evaluation

LOG = logging.getLogger("legion_jax")
MAX_PHOTOS = 1000
_TEMPLATES = pathlib.Path(__file__).parent / "templates"


def write_report(output: epath.PathLike, source: photos.Photos, *,
                 max_photos: int = MAX_PHOTOS) -> epath.Path:
    """Writes OUTPUT/report.html from metrics.json and rows.jsonl, or, on an error, nothing.

    Photos are read one at a time, when they are written.

    Args:
        output: folder of an evaluation.
        source: the encoded photo of each id; where it has none the page says so.
        max_photos: with more rows, the worst so many are shown (`items.WORST`).

    Returns:
        The path of the page.

    Raises:
        UserError: a file is missing or broken, a row needs what it has not, or a photo has
            another size than its row tells.
    """
    if max_photos < 0:
        raise UserError(f"max_photos: at least 0, got {max_photos}")
    run = open_evaluation(output)
    columns = overview(run)
    chosen = worst(columns, max_photos)
    path = run.path / "report.html"
    template = web.environment(_TEMPLATES).get_template("report.html")
    with files.whole_file(path) as file:
        for part in template.generate(view=view(run, columns, len(chosen)), items=items,
                                      config=gallery.config(items.SORTS, items.MARKS)):
            file.write(part)
        gallery.write_items(file, (items.item(row, number) for number, row in enumerate(
            row for row in run.rows() if row["id"] in chosen)))
        gallery.write_pictures(file, (photos.picture_of(source, row) for row in run.rows()
                                      if row["id"] in chosen))
    LOG.info("%s: %.1f MB, %d of %d photos", path, file.num_bytes / 1e6, len(chosen),
             len(columns["id"]))
    return path


def overview(run: Evaluation) -> dict[str, np.ndarray]:
    """What charts and the choice of photos need of all rows: id, label, fake, quality, rouge_l.

    Returns:
        Arrays of one value per row; NaN where a number is not known.

    Raises:
        UserError: as `Evaluation.rows`, or naming a row that has a value of the wrong kind.
    """
    columns = {name: [] for name in ("id", "label", "fake", "quality", "rouge_l")}
    for row in run.rows():
        try:
            values = (row["id"], int(row["label"]), _float(row["fake_probability"]),
                      _float(items.quality(row)), _float(row["rouge_l"]))
            items.item(row, 0)  # what cannot be shown is named before anything is written
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(f"{run.path / 'rows.jsonl'}: row {row['id']!r} is not as evaluations "
                            f"write it: {type(error).__name__}: {error}") from error
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    return {name: np.array(column, object if name == "id" else float)
            for name, column in columns.items()}


def worst(columns: dict[str, np.ndarray], number: int) -> set[str]:
    """Ids of the `number` worst photos of an `overview`; those that cannot be judged come last."""
    order = np.lexsort([np.nan_to_num(columns["rouge_l"]),
                        np.nan_to_num(columns["quality"], nan=2.0)])
    return set(columns["id"][order[:number]].tolist())


def view(run: Evaluation, columns: dict[str, np.ndarray], shown: int) -> dict:
    """Everything the static part of the page shows."""
    judged = (columns["label"] >= 0) & ~np.isnan(columns["fake"])
    fake, truth = columns["fake"][judged], columns["label"][judged] > 0
    verdicts = [*curves.reliability(run), curves.roc(fake, truth, run.number("detection", "auc")),
                curves.histogram(fake, truth)]
    main = [tables.masks(run),
            tables.block(run, "Verdict", "detection", keys=tables.DETECTION),
            *tables.classes(run, "Classes", "detection", "classes"),
            tables.block(run, "Explanation", "text", keys=("rouge_l", "css")),
            tables.block(run, "Words against verdict", "words"),
            tables.block(run, "Artifacts one by one", "matching"),
            tables.block(run, "Given the true answer", "teacher_forced"),
            *tables.classes(run, "Classes, given the true answer", "teacher_forced", "classes")]
    return {
        "metrics": {key: run.metrics.get(key) for key in (
            "data", "split", "checkpoint", "num_failed", "failures", "num_unfinished",
            "intervals")},
        "tiles": tiles(run), "shown": shown,
        "total": len(columns["id"]), "settings": tables.settings(run),
        "tables": [table for table in main if table], "silent": silent(run),
        "slices": tables.slices(run),
        "standing": published_results.standing(run), "robustness": curves.robustness(run),
        "levels": tables.robustness(run), "verdicts": [chart for chart in verdicts if chart],
        "conventions": dict(run.block("conventions")),
        "labels": {name: int((columns["label"] == label).sum()) for label, name in LABELS.items()
                   if (columns["label"] == label).any()}}


def tiles(run: Evaluation) -> list[tuple[tables.Term, tables.Cell, str]]:
    """The numbers at the top, with the words below each."""
    wanted = [(("localisation", "mean"), "f1", "masks, mean over photos"),
              (("localisation", "mean"), "miou", "masks, mean over photos"),
              (("detection",), "accuracy", "verdict"), (("detection",), "auc", "verdict"),
              (("text",), "rouge_l", "explanation"), (("text",), "css", "explanation")]
    return [(tables.term(run, key, *path), tables.cell(run, *path, key), words)
            for path, key, words in wanted]


def silent(run: Evaluation) -> list[str]:
    """Which parts the evaluation has no numbers for, and why, as far as the numbers tell."""
    reasons = []
    if not run.number("localisation", "num_images"):
        reasons.append("Masks are not scored: nobody marked artifacts in these photos, or the "
                       "model answers without masks.")
    if run.number("detection", "accuracy") is None:
        reasons.append("Verdicts are not scored: no photo has both a known label and a verdict; "
                       "a model without a verdict head that is not judged by its words gives "
                       "none.")
    if run.number("text", "rouge_l") is None:
        reasons.append("Explanations are not scored: the data set has no reference texts.")
    elif run.number("text", "css") is None:
        reasons.append("CSS is not scored: no sentence encoder was given; --css_model=minilm is "
                       "one.")
    if not run.metrics.get("robustness"):
        reasons.append("No damaged photos were tried, so there are no robustness curves.")
    return reasons


def _float(value: float | None) -> float:
    return np.nan if value is None else float(value)
