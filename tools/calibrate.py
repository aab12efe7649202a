"""Fit the temperature of a checkpoint's verdict head on held-out photos.

    python -m tools.calibrate --checkpoint DIR --data_dir DIR --split validation

Writes calibration.json into the checkpoint; predictions from it are calibrated from then on. Use
photos that neither trained the model nor will score it.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags
from tqdm import tqdm

from input_pipeline.photos import images
from input_pipeline.records import manifest, prepared, verdict_classes
from input_pipeline.records.record import UNKNOWN, Record, RecordError
from legion_jax import command
from legion_jax.evaluate import calibration_fit
from legion_jax.evaluate.calibration_fit import CalibrationError
from legion_jax.predict import calibration
from legion_jax.predict.detector import Detector, open_detector
from legion_jax.weights.checkpoint import NEWEST, Checkpoint, define_step_flag, find_step


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


def judged(predictor: Detector, source: Sequence[Record],
           failures: list[str]) -> tuple[np.ndarray, list[int]]:
    """Verdict logits float32[N, classes] before calibration, and labels, of all labelled photos."""
    logits, labels = [], []
    items = iter(tqdm(labelled(source, failures), desc="judging", unit="photo", total=len(source)))
    while group := list(itertools.islice(items, predictor.batch_size)):
        logits.append(predictor.verdict_logits([photo for photo, _ in group]))
        labels += [label for _, label in group]
    return np.concatenate(logits) if logits else np.zeros((0, 2), np.float32), labels


def calibrate(folder: str, data_dir: str, split: str, *, batch_size: int,
              step: str = NEWEST) -> dict:
    """Fit and save; returns what is saved beside the temperature, and the temperature.

    `step`: of a run, as of `find_step`.
    """
    checkpoint = Checkpoint.open(folder, step=find_step(folder, step))
    config = checkpoint.meta.config
    if not config.classes:
        raise CalibrationError(f"{folder}: the checkpoint has no verdict to calibrate")
    classes = config.classes
    version = prepared.find_version(data_dir)
    source, data_set = prepared.open_split(version, split), manifest.read_summary(version)
    verdict_classes.check_labels(manifest.known_labels(version, split), classes,
                                 f"{version}, split {split}")
    failures: list[str] = []
    logits, labels = judged(open_detector(checkpoint, batch_size=batch_size), source,
                            failures)
    try:
        truth = calibration_fit.class_indices(labels, classes)
        temperature = calibration_fit.fit(logits, truth)
    except CalibrationError as error:
        raise CalibrationError(f"{version}, split {split}: {error}") from error
    facts = {
        "data": f"{data_set['dataset']}/{data_set['config']}", "content": data_set["content"],
        "split": split, "num_photos": len(labels), "num_failed": len(failures),
        "before": calibration_fit.quality(logits, truth),
        "after": calibration_fit.quality(logits, truth, temperature)}
    calibration.save(checkpoint, temperature, **facts)
    return facts | {"temperature": temperature}


def show(facts: dict) -> None:
    """Print what was fitted."""
    before, after = facts["before"], facts["after"]
    print(f"temperature {facts['temperature']:.4f} from {facts['num_photos']:,} photos of "
          f"{facts['data']}, {facts['split']} ({facts['num_failed']} unreadable): NLL "
          f"{before['nll']:.4f} -> {after['nll']:.4f}, calibration error {before['ece']:.4f} -> "
          f"{after['ece']:.4f}")


def main() -> None:
    """Calibrate as the command line says."""
    flags.DEFINE_string("checkpoint", None, "Converted checkpoint or training run.")
    define_step_flag()
    flags.DEFINE_string("data_dir", None, "Folder written by tools.prepare_data.")
    flags.DEFINE_string("split", "validation", "Split, or a slice such as train[-500:].")
    flags.DEFINE_integer("batch_size", 8, "Photos per compiled call.", lower_bound=1)
    flags.mark_flags_as_required(["checkpoint", "data_dir"])
    asked = flags.FLAGS
    command.run(lambda: show(calibrate(asked.checkpoint, asked.data_dir, asked.split,
                                       batch_size=asked.batch_size, step=asked.step)))


if __name__ == "__main__":
    main()
