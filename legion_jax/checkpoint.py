"""Everything on disk that holds parameters. Orbax is used in this file only.

Two kinds of folder can be loaded, and both carry `legion.json` (architecture and origin) and
`tokenizer/`:

* a converted checkpoint: `params/`, every parameter under its path, in the dtype of its source;
* a training run: `checkpoints/STEP/` with the trainable parameters and the optimizer state. What
  the run kept frozen stays in the converted checkpoint it started from, which `legion.json` names
  together with its fingerprint.
"""

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
    ocp.save_checkpointables(epath.Path(folder) / "params",
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


def load_tree(path: epath.Path, abstract: dict) -> dict:
    """Load the parameters saved at `path` after comparing their shapes with `abstract`.

    `abstract` is nested and decides the dtype and the sharding of every array.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: not found")
    check_shapes(str(path), _stored(path), partition.flatten(abstract))
    return ocp.load_checkpointables(path, {"params": abstract})["params"]


class RunCheckpoints:
    """Asynchronous checkpoints of a training run, and the way back to the newest one."""

    def __init__(self, workdir: epath.PathLike, *, every: int, keep: int):
        self.directory = epath.Path(workdir) / "checkpoints"
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
        check_shapes(str(path), _stored(path), partition.flatten(params))
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
    folder = epath.Path(folder)
    if (folder / "params").exists():
        return partition.flatten(load_tree(folder / "params", partition.unflatten(abstract)))
    step = latest_step(folder)
    if step is None:
        raise CheckpointError(f"{folder}: no params/ and no finished checkpoint under checkpoints/")
    meta = read_meta(folder)
    trained = {p: a for p, a in abstract.items() if p in set(meta["trained"])}
    if missing := sorted(set(meta["trained"]) - abstract.keys()):
        raise CheckpointError(f"{folder}: {missing[0]}: trained by this run, not in the model")
    params = partition.flatten(load_tree(step_folder(folder, step),
                                         partition.unflatten(trained)))
    frozen = {p: a for p, a in abstract.items() if p not in params}
    return params | (load_base(meta["base"], frozen) if frozen else {})


def as_stored(folder: epath.PathLike, abstract: dict[str, Any]) -> dict[str, Any]:
    """`abstract` with every dtype replaced by the one on disk, for bit-exact export."""
    folder = epath.Path(folder)
    meta = read_meta(folder)
    stored = {}
    if meta["base"]:
        stored |= _stored(epath.Path(meta["base"]["path"]) / "params")
    if (folder / "params").exists():
        stored |= _stored(folder / "params")
    elif (step := latest_step(folder)) is not None:
        stored |= _stored(step_folder(folder, step))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {path: jax.ShapeDtypeStruct(a.shape, stored[path].dtype if path in stored else a.dtype,
                                       sharding=device)
            for path, a in abstract.items()}


def _stored(path: epath.Path) -> dict[str, Any]:
    return partition.flatten(ocp.checkpointables_metadata(path).metadata["params"])


def load_base(base: dict | None, abstract: dict[str, Any]) -> dict[str, Any]:
    """The frozen parameters of a run, from the converted checkpoint it started from."""
    if not base:
        raise CheckpointError(f"{next(iter(abstract))}: frozen, but the run names no base "
                              f"checkpoint to take it from")
    if fingerprint(base["path"]) != base["fingerprint"]:
        raise CheckpointError(f"{base['path']}: not the checkpoint this run started from "
                              f"({META} has another SHA-256)")
    return load_some(base["path"], abstract)


def param_paths(folder: epath.PathLike) -> set[str]:
    """Paths of all parameters of a converted checkpoint."""
    path = epath.Path(folder) / "params"
    if not path.exists():
        raise CheckpointError(f"{folder}: no params/ here; this is not a converted checkpoint")
    return set(_stored(path))


def load_some(folder: epath.PathLike, abstract: dict[str, Any]) -> dict[str, Any]:
    """Part of a converted checkpoint: the paths of `abstract`, and nothing else is read."""
    path = epath.Path(folder) / "params"
    found = _stored(path)
    check_shapes(str(path), {p: found[p] for p in abstract if p in found}, abstract)
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        return partition.flatten(ocp.load_checkpointables(
            path, {"params": partition.unflatten(abstract)})["params"])


def to_host(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Device arrays as numpy."""
    return {path: np.asarray(jax.device_get(x)) for path, x in params.items()}
