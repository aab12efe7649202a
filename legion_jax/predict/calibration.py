"""The temperature of a checkpoint's verdict, kept beside it in calibration.json."""

import math
from typing import Any

from etils import epath

from input_pipeline import files, strict_json
from legion_jax.weights.checkpoint import Checkpoint
from legion_jax.weights.checkpoint_error import CheckpointError

FILE = "calibration.json"
FORMAT = 1


def save(checkpoint: Checkpoint, temperature: float, **facts: Any) -> None:
    """Write calibration.json into the folder of a checkpoint or training run, whole or not at all.

    It holds for the parameters of the opened checkpoint: of a run, those of its step.

    Args:
        facts: what it was fitted on and what it brought, as JSON.
    """
    files.write_json(epath.Path(checkpoint.folder) / FILE, {
        "format": FORMAT, "temperature": temperature, "fingerprint": checkpoint.fingerprint,
        "step": checkpoint.step, **facts})


def load(checkpoint: Checkpoint) -> float | None:
    """The temperature of a checkpoint's verdict head, or None where nobody calibrated it.

    Raises:
        CheckpointError: calibration.json is damaged, or was fitted on other parameters than the
            checkpoint has.
    """
    path = epath.Path(checkpoint.folder) / FILE
    if not path.exists():
        return None
    try:
        content = strict_json.read(path)
        file_format, temperature = content["format"], float(content["temperature"])
        fitted = {name: content[name] for name in ("fingerprint", "step")}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__}: {error}); remove it or "
                              f"run tools.calibrate again") from error
    if file_format != FORMAT or not (math.isfinite(temperature) and temperature > 0):
        raise CheckpointError(f"{path}: format {file_format} and temperature {temperature}, wanted "
                              f"format {FORMAT} and a temperature above 0")
    if checkpoint.step is None and fitted["step"] is not None:
        raise CheckpointError(f"{checkpoint.folder}: no finished checkpoint under checkpoints/")
    for name, words in (("step", "step"), ("fingerprint", "checkpoint with SHA-256")):
        if fitted[name] != getattr(checkpoint, name):
            raise CheckpointError(f"{path}: fitted on {words} {fitted[name]}, but here is "
                                  f"{getattr(checkpoint, name)}; remove it or run tools.calibrate "
                                  f"again")
    return temperature
