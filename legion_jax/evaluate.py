"""Score a checkpoint on a prepared data set.

    python -m legion_jax.evaluate --checkpoint DIR --data_dir DIR --split test --output DIR

Writes OUTPUT/metrics.json, every number with its convention in the name, and OUTPUT/rows.jsonl
with one line per photo. Texts are decoded greedily from the photo alone, never teacher-forced, and
masks are compared at the photo's original size, the union of all [SEG]s against all regions.
"""

import json
from collections.abc import Sequence

import numpy as np
from absl import flags
from etils import epath
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from input_pipeline import batches, examples, images, prepared
from input_pipeline.record import DataError
from legion_jax import command, metrics, report
from legion_jax.inference import Predictor
from legion_jax.predictions import Prediction


def truth_of(record) -> tuple[np.ndarray, np.ndarray]:
    """Photo uint8[H, W, 3] and union of its regions bool[H, W] at the original size."""
    name = examples.record_id(record)
    image = images.read_image(record["image"], name=name)
    truth = examples.union_mask(record, image.shape[:2])
    if truth is None:
        raise DataError(f"record {name}: nobody marked its artifacts, so masks cannot be scored")
    return image, truth


def row_of(record, prediction: Prediction, truth: np.ndarray) -> dict:
    """Everything that is known of one photo, as JSON."""
    counts = metrics.pixel_counts(prediction.mask, truth)
    reference = _text(record["caption"])
    return {
        "id": examples.record_id(record), "label": int(record["label"]),
        "verdict": prediction.verdict, "fake_probability": prediction.fake_probability,
        "counts": [int(c) for c in counts], **metrics.pixel_scores(counts),
        "num_regions": len(record["regions"]["polygons"]),
        "num_masks": sum(r.mask is not None for r in prediction.regions),
        "finished": prediction.finished, "explanation": prediction.explanation,
        "reference": reference, "rouge_l": metrics.rouge_l(prediction.explanation, reference)}


def summary(rows: Sequence[dict]) -> dict:
    """The metric block of a set of rows."""
    result = {
        "num_photos": len(rows), "num_unfinished": sum(not r["finished"] for r in rows),
        "localisation": metrics.localisation(np.array([r["counts"] for r in rows])),
        "text": metrics.text([r["explanation"] for r in rows], [r["reference"] for r in rows])}
    judged = [r for r in rows if r["fake_probability"] is not None and r["label"] >= 0]
    if judged:
        result["detection"] = metrics.detection(
            np.array([r["fake_probability"] for r in judged]),
            np.array([r["label"] > 0 for r in judged]),
            np.array([r["verdict"] != "real" for r in judged]))
    return result


def evaluate(predictor: Predictor, source: Sequence, *, progress: bool = True):
    """Predict every record once.

    Returns:
        (summary, rows), see `summary` and `row_of`.
    """
    rows = []
    bar = tqdm(total=len(source), desc="evaluating", unit="photo", disable=not progress)
    for group, real in batches.padded_batches(source, predictor.batch_size):
        photos, truths = zip(*(truth_of(record) for record in group), strict=True)
        predictions = predictor(photos, explain="always")
        rows += [row_of(*item) for item in
                 list(zip(group, predictions, truths, strict=True))[:real]]
        bar.update(real)
    bar.close()
    return summary(rows), rows


def write(output: epath.PathLike, result: dict, rows: Sequence[dict]) -> None:
    """Write metrics.json and rows.jsonl."""
    output = epath.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    report.write_text(output / "rows.jsonl",
                      "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    report.write_json(output / "metrics.json", result)


def show(result: dict) -> None:
    """Print the metric block."""
    table = Table("localisation", "fg IoU", "bg IoU", "mIoU", "F1", "photos")
    places = result["localisation"]
    for name, count in (("mean", "num_images"), ("mean_with_artifacts", "num_with_artifacts"),
                        ("pooled", "num_images")):
        values = places[name] or {}
        table.add_row(name.replace("_", " "), *(
            "-" if values.get(k) is None else f"{values[k]:.3f}"
            for k in ("fg_iou", "bg_iou", "miou", "f1")), str(places[count]))
    console = Console()
    console.print(table)
    if "detection" in result:
        found = result["detection"]
        auc = "-" if found["auc"] is None else f"{found['auc']:.3f}"
        console.print(f"verdict: accuracy {found['accuracy']:.3f}, AUC {auc}, "
                      f"{found['num']} photos")
    console.print(f"explanation: ROUGE-L {result['text']['rouge_l']:.3f}; "
                  f"{result['num_unfinished']} answers cut at the length limit")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


if __name__ == "__main__":
    CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Converted checkpoint or training run.")
    DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder written by tools.prepare_data.")
    SPLIT = flags.DEFINE_string("split", "test", "Split, or a slice such as test[:100].")
    OUTPUT = flags.DEFINE_string("output", None, "Folder for metrics.json and rows.jsonl.")
    BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Photos per compiled call.", lower_bound=1)
    flags.mark_flags_as_required(["checkpoint", "data_dir", "output"])

    def main():
        source = prepared.open_split(DATA_DIR.value, SPLIT.value)
        epath.Path(OUTPUT.value).mkdir(parents=True, exist_ok=True)
        predictor = Predictor.from_folder(CHECKPOINT.value, batch_size=BATCH_SIZE.value)
        result, rows = evaluate(predictor, source)
        write(OUTPUT.value, result, rows)
        show(result)

    command.run(main)
