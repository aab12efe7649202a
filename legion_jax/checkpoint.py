"""Everything on disk that holds parameters. Orbax is used in this file only.

Two kinds of folder can be loaded, and both carry `legion.json` (architecture and origin) and
`tokenizer/`:

* a converted checkpoint: `params/`, every parameter under its path, in the dtype of its source;
* a training run: `checkpoints/STEP/` with the trainable parameters and the optimizer state. What
  the run kept frozen stays in the folder it started from, of either kind, which `legion.json`
  names together with its fingerprint.
"""

import contextlib
import hashlib
import json
import logging
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from input_pipeline.errors import UserError
from legion_jax import config as config_lib
from legion_jax import partition, report
from legion_jax.config import LegionConfig

LOG = logging.getLogger("legion_jax")

META = "legion.json"
FORMAT = 1


class CheckpointError(UserError):
    """A folder that cannot be loaded; the message names it and the parameter at fault."""


def _absolute(folder: epath.PathLike) -> epath.Path:
    """Orbax takes absolute paths only."""
    return epath.Path(folder).resolve()


@contextlib.contextmanager
def _reading(place: epath.Path):
    """Name the folder when Orbax cannot read it, whatever its own error is."""
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise CheckpointError(f"{place}: damaged or incomplete checkpoint "
                              f"({type(error).__name__}: {reason})") from error


def fingerprint(folder: epath.PathLike) -> str:
    """SHA-256 of a folder's legion.json, which itself records the hashes of its sources."""
    return hashlib.sha256((epath.Path(folder) / META).read_bytes()).hexdigest()


def write_meta(folder: epath.PathLike, config: LegionConfig, **extra: Any) -> None:
    """Write legion.json."""
    report.write_json(epath.Path(folder) / META,
                      {"format": FORMAT, "config": config_lib.to_dict(config)} | extra)


def read_meta(folder: epath.PathLike) -> dict:
    """legion.json with `config` as a LegionConfig. Raises CheckpointError."""
    path = epath.Path(folder) / META
    if not path.exists():
        raise CheckpointError(f"{folder}: no {META} here; this is neither a converted checkpoint "
                              f"nor a training run")
    try:
        meta = json.loads(path.read_text())
        if meta["format"] != FORMAT:
            raise CheckpointError(f"{path}: format {meta['format']}, this version reads {FORMAT}")
        meta["config"] = config_lib.from_dict(meta["config"], where=str(path))
    except (json.JSONDecodeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return meta


def save_params(folder: epath.PathLike, params: dict[str, Any]) -> None:
    """Write {path: array} as `folder`/params."""
    ocp.save_checkpointables(_absolute(folder) / "params",
                             {"params": partition.unflatten(params)})


def check_shapes(where: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Compare {path: shape holder}. Raises CheckpointError naming each path and both shapes."""
    problems = [f"{path}: not in the checkpoint, model {tuple(wanted[path].shape)}"
                for path in sorted(wanted.keys() - found.keys())]
    problems += [f"{path}: checkpoint {tuple(found[path].shape)}, not in the model"
                 for path in sorted(found.keys() - wanted.keys())]
    problems += [f"{path}: checkpoint {tuple(found[path].shape)}, model {tuple(wanted[path].shape)}"
                 for path in sorted(found.keys() & wanted.keys())
                 if tuple(found[path].shape) != tuple(wanted[path].shape)]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckpointError(f"{where}: " + "; ".join(problems[:5]) + more)


class RunCheckpoints:
    """Asynchronous checkpoints of a training run, and the way back to the newest one."""

    def __init__(self, workdir: epath.PathLike, *, every: int, keep: int):
        self.directory = _absolute(workdir) / "checkpoints"
        policies = ocp.training
        self._orbax = policies.Checkpointer(
            self.directory,
            save_decision_policy=policies.save_decision_policies.FixedIntervalPolicy(every),
            preservation_policy=policies.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True)

    def save(self, step: int, params: dict, optimizer: Any, *, force: bool = False) -> None:
        """Start writing when `step` (updates done) is due; the arrays may be donated afterwards."""
        if force and latest_step(self.directory.parent) == step:
            return
        self._orbax.save_checkpointables_async(
            step, {"params": params, "optimizer": optimizer}, force=force)

    def restore(self, params: dict, optimizer: Any) -> tuple[int, dict, Any] | None:
        """(step, params, optimizer) of the newest checkpoint, laid out like the abstract trees."""
        step = latest_step(self.directory.parent)
        if step is None:
            return None
        path = step_folder(self.directory.parent, step)
        with _reading(path):
            arrays = ocp.checkpointables_metadata(path).metadata["params"]
        check_shapes(str(path), partition.flatten(arrays), partition.flatten(params))
        with _reading(path):
            loaded = self._orbax.load_checkpointables(
                step, {"params": params, "optimizer": optimizer})
        LOG.info("resumed from step %d (%s)", step, path)
        return step, loaded["params"], loaded["optimizer"]

    def close(self) -> None:
        """Wait for the write in flight."""
        self._orbax.close()


def step_folder(run: epath.PathLike, step: int) -> epath.Path:
    return epath.Path(run) / "checkpoints" / str(step)


def latest_step(run: epath.PathLike) -> int | None:
    """Newest complete checkpoint of a training run, or None."""
    folder = epath.Path(run) / "checkpoints"
    if not folder.exists():
        return None
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit()]
    return max(steps, default=None)


def base_of(folder: epath.PathLike) -> dict:
    """How a run names the folder it starts from: where, which, and which step of a run."""
    step = None if (epath.Path(folder) / "params").exists() else latest_step(folder)
    return {"path": str(_absolute(folder)), "fingerprint": fingerprint(folder),
            "step": step}


def stored(folder: epath.PathLike, *, step: int | None = None) -> dict[str, tuple[epath.Path, Any]]:
    """{path: (Orbax folder that holds it, its shape and dtype)} of a folder and its bases.

    Raises CheckpointError when the folder, or a base it names, is not there or has changed.
    """
    folder = _absolute(folder)
    meta = read_meta(folder)
    place = folder / "params"
    if not place.exists():
        step = latest_step(folder) if step is None else step
        if step is None or not step_folder(folder, step).exists():
            raise CheckpointError(f"{folder}: no params/ and no finished checkpoint "
                                  f"{'under checkpoints/' if step is None else step}")
        place = step_folder(folder, step)
    found = {}
    if base := meta["base"]:
        if not (epath.Path(base["path"]) / META).exists():
            raise CheckpointError(f"{base['path']}: not there; {folder} takes its frozen "
                                  f"parameters from it")
        if fingerprint(base["path"]) != base["fingerprint"]:
            raise CheckpointError(f"{base['path']}: not the checkpoint this run started from "
                                  f"({META} has another SHA-256)")
        found = stored(base["path"], step=base["step"])
    with _reading(place):
        arrays = ocp.checkpointables_metadata(place).metadata["params"]
    return found | {path: (place, a) for path, a in partition.flatten(arrays).items()}


def load_params(folder: epath.PathLike, abstract: dict[str, Any]) -> dict[str, Any]:
    """All parameters of a converted checkpoint or a training run.

    Args:
        folder: either kind of folder.
        abstract: {path: ShapeDtypeStruct} of the whole model; dtype and sharding are obeyed.

    Returns:
        {path: array}.

    Raises:
        CheckpointError: naming folder, parameter path and both shapes, or a base that changed.
    """
    found = {path: a for path, (_, a) in stored(folder).items()}
    check_shapes(str(folder), found, abstract)
    return load_some(folder, abstract)


def load_some(folder: epath.PathLike, abstract: dict[str, Any]) -> dict[str, Any]:
    """The parameters in `abstract`, and nothing else is read. As `load_params` otherwise."""
    found = stored(folder)
    check_shapes(str(folder), {p: found[p][1] for p in abstract if p in found}, abstract)
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    params = {}
    for place in {found[path][0] for path in abstract}:
        part = {p: a for p, a in abstract.items() if found[p][0] == place}
        with context, _reading(place):
            params |= partition.flatten(ocp.load_checkpointables(
                place, {"params": partition.unflatten(part)})["params"])
    return params


def as_stored(folder: epath.PathLike, abstract: dict[str, Any]) -> dict[str, Any]:
    """`abstract` on one device, with every dtype that is on disk, for bit-exact export."""
    found = stored(folder)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {path: jax.ShapeDtypeStruct(
        a.shape, found[path][1].dtype if path in found else a.dtype, sharding=device)
        for path, a in abstract.items()}


def to_host(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Device arrays as numpy."""
    return {path: np.asarray(jax.device_get(x)) for path, x in params.items()}
