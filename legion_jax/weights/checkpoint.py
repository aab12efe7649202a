"""Everything on disk that holds parameters.

Orbax reads and writes them here and in `run_checkpoints` only; elsewhere nothing of it is used but
the barrier of `distributed`.

Two kinds of folder can be loaded, and both carry `legion.json` (architecture and origin) and
`tokenizer/`:

* a converted checkpoint: `params/TOWER.safetensors`, every parameter under its path, in the dtype
  of its source. Orbax reads the byte ranges that a host's shards need; a file of this kind can be
  written a layer at a time, which its own format cannot;
* a training run: `checkpoints/STEP/` with the trainable parameters and the optimizer state. What
  the run kept frozen stays in the folder it started from, of either kind, which `legion.json`
  names together with its fingerprint.
"""

import contextlib
import hashlib
import json
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from input_pipeline import files
from input_pipeline.errors import UserError
from legion_jax import config as config_lib
from legion_jax.config import LegionConfig
from legion_jax.models import param_tree

META = "legion.json"
FORMAT = 3


class CheckpointError(UserError):
    """A folder that cannot be loaded; the message names it and the parameter at fault."""


def absolute(folder: epath.PathLike) -> epath.Path:
    """Orbax takes absolute paths only."""
    return epath.Path(folder).resolve()


@contextlib.contextmanager
def reading(place: epath.Path):
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
    files.write_json(epath.Path(folder) / META,
                     {"format": FORMAT, "config": config_lib.to_dict(config)} | extra)


def read_meta(folder: epath.PathLike) -> dict:
    """legion.json with `config` as a LegionConfig. Raises CheckpointError."""
    path = epath.Path(folder) / META
    if not path.exists():
        raise CheckpointError(f"{folder}: no {META} here; this is neither a converted checkpoint "
                              f"nor a training run")
    try:
        meta = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else None
        raise CheckpointError(f"{path}: format {found}, this version reads {FORMAT}; what another "
                              f"version made must be converted or trained again")
    if "config" not in meta:
        raise CheckpointError(f"{path}: config is missing")
    meta.setdefault("base", None)
    try:
        meta["config"] = config_lib.from_dict(meta["config"], where=f"{path}: config")
    except UserError as error:
        raise CheckpointError(str(error)) from error
    except (TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: config: {error}") from error
    return meta


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
    return {"path": str(absolute(folder)), "fingerprint": fingerprint(folder),
            "step": step}


def stored(folder: epath.PathLike, *, step: int | None = None) -> dict[str, tuple[epath.Path, Any]]:
    """{path: (place that holds it, its shape and dtype)} of a folder and its bases.

    Raises CheckpointError when the folder, or a base it names, is not there or has changed.
    """
    folder = absolute(folder)
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
    return found | {path: (place, a) for path, a in _described(place).items()}


def _described(place: epath.Path) -> dict[str, Any]:
    """{path: shape and dtype} of one place: a step of a run, or params/."""
    with reading(place), _context(place):
        if place.name == "params":
            return dict(ocp.metadata(place).metadata)
        return param_tree.flatten(ocp.checkpointables_metadata(place).metadata["params"])


def _context(place: epath.Path, *, alone: bool = False) -> ocp.Context:
    """`alone`: this process loads for its own devices, whatever the others do meanwhile."""
    context = ocp.Context()
    if alone and jax.process_count() > 1:
        host = jax.process_index()
        context.multiprocessing.primary_host = host
        context.multiprocessing.active_processes = {host}
        context.multiprocessing.barrier_sync_key_prefix = f"host{host}"
    if place.name == "params":
        context.checkpoint_layout = ocp.options.CheckpointLayout.SAFETENSORS
        if "://" not in str(place):
            # Many small reads cost little on a file system; on object storage Orbax weighs them
            # against reading what lies between.
            context.safetensors.max_over_read_ratio = 1.0
    else:
        context.pytree.loading.partial_load = True
    return context


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
    return load_from(found, abstract)


def load_from(found: dict[str, tuple[epath.Path, Any]], abstract: dict[str, Any]) -> dict[str, Any]:
    """As `load_some`, from the places that `stored` found."""
    params = {}
    for place in {found[path][0] for path in abstract}:
        part = {p: a for p, a in abstract.items() if found[p][0] == place}
        alone = all(a.sharding.is_fully_addressable for a in part.values())
        with reading(place), _context(place, alone=alone):
            if place.name == "params":
                params |= ocp.load(place, part)
            else:
                params |= param_tree.flatten(ocp.load_checkpointables(
                    place, {"params": param_tree.unflatten(part)})["params"])
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
