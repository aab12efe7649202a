"""Parameters of small checkpoints, written and read whole."""

from typing import Any

import jax
import numpy as np
from etils import epath

from legion_jax.weights import params_files
from legion_jax.weights.checkpoint import Checkpoint


def save_params(folder: epath.PathLike, params: dict[str, Any]) -> None:
    """Write {path: array} as `folder`/params."""
    arrays = {path: np.asarray(value) for path, value in params.items()}
    with params_files.ParamsWriter(
            folder, {path: (a.shape, str(a.dtype)) for path, a in arrays.items()}) as writer:
        for path, array in arrays.items():
            writer.write(path, array)


def read_params(folder: epath.PathLike) -> dict[str, np.ndarray]:
    """{path: array} of all parameters, as they are stored."""
    reader = params_files.Reader(Checkpoint.open(folder))
    return {path: reader.read(path) for path in reader.entries}


def as_stored(folder: epath.PathLike, abstract: dict[str, Any]) -> dict[str, Any]:
    """`abstract` on one device, with every dtype that is on disk."""
    entries = Checkpoint.open(folder).entries
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {path: jax.ShapeDtypeStruct(
        a.shape, entries[path].dtype if path in entries else a.dtype, sharding=device)
        for path, a in abstract.items()}
