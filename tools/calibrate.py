"""Fit the temperature of a checkpoint's verdict head on held-out photos.

    python -m tools.calibrate --checkpoint DIR --data_dir DIR --split validation

Writes calibration.json into the checkpoint; predictions from it are calibrated from then on. Use
photos that neither trained the model nor will score it.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags
from tqdm import tqdm

from input_pipeline.photos import images
from input_pipeline.records import manifest, prepared
from input_pipeline.records.record import UNKNOWN, Record, RecordError
from legion_jax import command
from legion_jax.evaluate import calibration_fit
from legion_jax.evaluate.calibration_fit import CalibrationError
from legion_jax.predict import calibration
from legion_jax.predict.predictor import Predictor
from legion_jax.weights import checkpoint


def labelled(source: Sequence[Record], failures: list[str]) -> Iterator[tuple[np.ndarray, int]]:
    """(photo uint8[H, W, 3], label) of every record whose label is known.

    Why a photo could not be read is added to `failures`.
    """
    for number in range(len(source)):
        try:
            record = source[number]
            if record.label != UNKNOWN:
                yield images.read_image(record.image, name=record.id), record.label
        except (images.ImageError, RecordError) as error:
            failures.append(str(error))


def judged(predictor: Predictor, source: Sequence[Record],
           failures: list[str]) -> tuple[np.ndarray, list[int]]:
    """Verdict logits float32[N, classes] before calibration, and labels, of all labelled photos."""
    logits, labels, group = [], [], []

    def flush():
        if group:
            logits.append(predictor.verdict_logits([photo for photo, _ in group]))
            labels.extend(label for _, label in group)
            group.clear()

    for item in tqdm(labelled(source, failures), desc="judging", unit="photo", total=len(source)):
        group.append(item)
        if len(group) == predictor.batch_size:
            flush()
    flush()
    return np.concatenate(logits) if logits else np.zeros((0, 2), np.float32), labels


def calibrate(folder: str, data_dir: str, split: str, *, batch_size: int) -> dict:
    """Fit and save; returns what is saved beside the temperature, and the temperature."""
    classes = checkpoint.read_meta(folder)["config"].verdict_classes
    if not classes:
        raise CalibrationError(f"{folder}: the checkpoint has no verdict head to calibrate")
    place = prepared.find_version(data_dir)
    source, summary = prepared.open_split(place, split), manifest.read_summary(place)
    failures: list[str] = []
    logits, labels = judged(Predictor.from_folder(folder, batch_size=batch_size), source, failures)
    try:
        truth = calibration_fit.class_indices(labels, classes)
        temperature = calibration_fit.fit(logits, truth)
    except CalibrationError as error:
        raise CalibrationError(f"{place}, split {split}: {error}") from error
    facts = {
        "data": f"{summary['dataset']}/{summary['config']}", "content": summary["content"],
        "split": split, "num_photos": len(labels), "num_failed": len(failures),
        "before": calibration_fit.quality(logits, truth),
        "after": calibration_fit.quality(logits, truth, temperature)}
    calibration.save(folder, temperature, **facts)
    return facts | {"temperature": temperature}


def show(facts: dict) -> None:
    """Print what was fitted."""
    before, after = facts["before"], facts["after"]
    print(f"temperature {facts['temperature']:.4f} from {facts['num_photos']:,} photos of "
          f"{facts['data']}, {facts['split']} ({facts['num_failed']} unreadable): NLL "
          f"{before['nll']:.4f} -> {after['nll']:.4f}, calibration error {before['ece']:.4f} -> "
          f"{after['ece']:.4f}")


if __name__ == "__main__":
    CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Converted checkpoint or training run.")
    DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder written by tools.prepare_data.")
    SPLIT = flags.DEFINE_string("split", "validation", "Split, or a slice such as train[-500:].")
    BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Photos per compiled call.", lower_bound=1)
    flags.mark_flags_as_required(["checkpoint", "data_dir"])
    command.run(lambda: show(calibrate(CHECKPOINT.value, DATA_DIR.value, SPLIT.value,
                                       batch_size=BATCH_SIZE.value)))
