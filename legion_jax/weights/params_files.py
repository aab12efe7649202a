"""Parameters on disk a piece at a time, so that memory never holds a model of full size."""

import pathlib
import threading

import jax
import numpy as np
from etils import epath

from legion_jax.weights import checkpoint, tensor_file
from legion_jax.weights.checkpoint import Checkpoint


class ParamsWriter:
    """Writes `folder`/params: parameters, or slices of their leading axes, in any order."""

    def __init__(self, folder: epath.PathLike, params: dict[str, tuple[tuple[int, ...], str]]):
        """Make room for `params`, {path: (shape, dtype name)}; `folder` is a local one."""
        folder = pathlib.Path(folder) / "params"
        folder.mkdir(parents=True)
        towers: dict[str, dict] = {}
        for path, described in params.items():
            towers.setdefault(path.split("/")[0], {})[path] = described
        self._files = {tower: tensor_file.SafetensorsWriter(folder / f"{tower}.safetensors", part)
                       for tower, part in towers.items()}

    def write(self, path: str, array: np.ndarray, index: tuple[int, ...] = ()) -> None:
        """See `SafetensorsWriter.write`."""
        self._files[path.split("/")[0]].write(path, array, index)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for file in self._files.values():
            file.close()


class Reader:
    """Parameters of a checkpoint one at a time, or one layer at a time, bit for bit as stored.

    Attributes:
        entries: {path: shape and dtype} of all of them.
    """

    def __init__(self, opened: Checkpoint):
        self._opened, self.entries = opened, opened.entries
        self._last, self._lock = (None, None), threading.Lock()
        self._files: dict[epath.Path, tensor_file.SafetensorsReader] = {}

    def read(self, path: str, index: tuple[int, ...] = ()) -> np.ndarray:
        """The parameter at `index` of its leading axes.

        Slices of a converted checkpoint are read alone; of a training run the whole parameter is,
        and kept until another one is asked for.
        """
        folder = self._opened.stored[path][0]
        if folder.name == "params":
            with self._lock:
                file = self._file(folder, path.split("/")[0])
            return file.read(path, index)
        with self._lock:
            if self._last[0] != path:
                self._last = (None, None)  # before the next one is there
                entry = self.entries[path]
                device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
                loaded = self._opened.load_some({path: jax.ShapeDtypeStruct(
                    entry.shape, entry.dtype, sharding=device)})
                self._last = (path, np.asarray(jax.device_get(loaded[path])))
            return self._last[1][index]

    def _file(self, folder: epath.Path, tower: str) -> tensor_file.SafetensorsReader:
        path = folder / f"{tower}.safetensors"
        if path not in self._files:
            with checkpoint.reading(folder):
                self._files[path] = tensor_file.SafetensorsReader(path)
        return self._files[path]
