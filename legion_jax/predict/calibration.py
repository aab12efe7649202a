"""The temperature of a checkpoint's verdict, kept beside it in calibration.json."""

import json
import math
from typing import Any

from etils import epath

from input_pipeline import files
from legion_jax.weights import checkpoint
from legion_jax.weights.checkpoint import CheckpointError

FILE = "calibration.json"
FORMAT = 1


def save(folder: epath.PathLike, temperature: float, **facts: Any) -> None:
    """Write calibration.json into a checkpoint or a training run, whole or not at all.

    It holds for the parameters that are there now: of a run, those of its newest step.

    Args:
        facts: what it was fitted on and what it brought, as JSON.
    """
    base = checkpoint.base_of(folder)
    files.write_json(epath.Path(folder) / FILE, {
        "format": FORMAT, "temperature": temperature, "fingerprint": base["fingerprint"],
        "step": base["step"], **facts})


def load(folder: epath.PathLike) -> float | None:
    """The temperature of a checkpoint's verdict head, or None where nobody calibrated it.

    Raises:
        CheckpointError: calibration.json is damaged, or was fitted on other parameters than the
            folder has now.
    """
    path = epath.Path(folder) / FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        format_, temperature = found["format"], float(found["temperature"])
        fitted = {name: found[name] for name in ("fingerprint", "step")}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__}: {error}); remove it or "
                              f"run tools.calibrate again") from error
    if format_ != FORMAT or not (math.isfinite(temperature) and temperature > 0):
        raise CheckpointError(f"{path}: format {format_} and temperature {temperature}, wanted "
                              f"format {FORMAT} and a temperature above 0")
    now = checkpoint.base_of(folder)
    if now["step"] is None and fitted["step"] is not None:
        raise CheckpointError(f"{folder}: no finished checkpoint under checkpoints/")
    for name, words in (("step", "step"), ("fingerprint", "checkpoint with SHA-256")):
        if fitted[name] != now[name]:
            raise CheckpointError(f"{path}: fitted on {words} {fitted[name]}, but here is "
                                  f"{now[name]}; remove it or run tools.calibrate again")
    return temperature
