"""Parameters of a folder or a run's config, one entry each: sizes and origins, no values.

Only headers and small files are read, so any size is listed in seconds and in little memory.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping

import jax
import ml_collections
import numpy as np
from etils import epath

from experiments import base
from input_pipeline.errors import UserError
from legion_jax import sharding
from legion_jax.config import LegionConfig
from legion_jax.convert import from_torch
from legion_jax.convert.table import Rule, lora_rules, rules
from legion_jax.convert.values import origin_of
from legion_jax.models import param_tree
from legion_jax.train import setup
from legion_jax.train.knobs import RunSettings
from legion_jax.train.setup import vocabulary
from legion_jax.weights import checkpoint, tensor_file

RECIPE = "LOCALISATION of experiments/base.py, the published recipe"


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        source: names of the PyTorch tensors it is made of, numbers gathered by `gather`.
        files: where they lie, "role/file"; empty when there is no record of files.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool
    source: str
    files: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.count * tensor_file.numpy_dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Inventory:
    """Everything there is to say of one folder or config.

    Attributes:
        title: what was inspected.
        rule: where `trainable` comes from.
        absent: towers that are not there.
        carried: {name: bytes} of known tensors that no parameter is made of.
        unknown: the same for tensors of which nothing is known.
        problems: why a conversion would refuse these files.
        notes: sentences for the reader.
    """

    title: str
    parameters: list[Parameter]
    rule: str
    absent: list[str] = dataclasses.field(default_factory=list)
    carried: dict[str, int] = dataclasses.field(default_factory=dict)
    unknown: dict[str, int] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def of_checkpoint(folder: epath.PathLike) -> Inventory:
    """A converted checkpoint or a training run. Raises CheckpointError."""
    meta, found = checkpoint.read_meta(folder), checkpoint.stored(folder)
    title = f"{folder}: converted checkpoint"
    if not (epath.Path(folder) / "params").exists():
        title = f"{folder}: training run, step {checkpoint.latest_step(folder)}"
    if meta["base"]:
        title += f", the rest from {meta['base']['path']}"
    trained, rule = set(meta["trained"]), "legion.json, which names what this run trained"
    if not trained:
        trained, rule = matching(base.LOCALISATION, found), RECIPE
    described = {path: (tuple(a.shape), str(np.dtype(a.dtype))) for path, (_, a) in found.items()}
    return Inventory(
        title, entries(described, trained, _table(meta["config"]), recorded(folder)), rule,
        absent=[tower for tower in meta.get("absent", [])
                if not any(path.startswith(f"{tower}/") for path in found)],
        notes=padding(meta["config"]))


def of_config(config: ml_collections.ConfigDict, *, vocab: int | None = None) -> Inventory:
    """What a run of this config holds; `vocab` where there is no tokenizer to count.

    Raises ConfigError, CheckpointError or PartitionError for what no run could use.
    """
    run = RunSettings.from_config(config, without_data=True)
    run.check_batch(1)
    model = setup.model_config(run, vocabulary(run, vocab))
    _, trained, frozen = param_tree.split_params(param_tree.abstract_model(model), run.trainable)
    trained = param_tree.flatten(param_tree.cast(trained, "float32"))
    frozen = param_tree.flatten(param_tree.cast(frozen, run.frozen_dtype))
    described = {path: (a.shape, str(a.dtype)) for path, a in (trained | frozen).items()}
    where = recorded(run.init_from) if run.init_from else {}
    start = f"from {run.init_from}" if run.init_from else f"{run.model.name} from scratch"
    notes = padding(model)
    if run.init_from and (absent := checkpoint.read_meta(run.init_from).get("absent")):
        notes.append(f"not in {run.init_from}, so the run starts them anew: {', '.join(absent)}")
    if frozen and not run.init_from:
        notes.append("init_from is empty: training needs it for the frozen parameters")
    return Inventory(start, entries(described, trained, _table(model), where),
                     "config.trainable", notes=notes)


def _table(model: LegionConfig) -> list[Rule]:
    return rules(model) + lora_rules(model)


def matching(patterns: Iterable[str], paths: Iterable[str]) -> set[str]:
    """The paths that a pattern fits; unlike in training a pattern may fit none."""
    return {path for path in paths if any(re.search(pattern, path) for pattern in patterns)}


def padding(model: LegionConfig) -> list[str]:
    """A sentence on the rows of the vocabulary that no token uses."""
    c = model.language
    if c.padded_vocab == c.vocab:
        return []
    spare = 2 * (c.padded_vocab - c.vocab) * c.width
    return [f"vocabulary: {c.vocab:,} tokens, padded to {c.padded_vocab:,}; {spare:,} values of "
            f"language/embed and language/head belong to no token"]


def recorded(folder: epath.PathLike) -> dict[str, tuple[str, str]]:
    """{published name: (name in its file, "role/file")} as a conversion recorded it."""
    layout = origin_of(folder) / "source" / from_torch.LAYOUT
    if not layout.exists():
        return {}
    return {t["published"]: (key, f"{role}/{t['file']}")
            for role, described in json.loads(layout.read_text()).items()
            for key, t in described["tensors"].items() if t["published"]}


def entries(described: Mapping[str, tuple[tuple[int, ...], str]], trained: Iterable[str],
            table: list[Rule], where: Mapping[str, tuple[str, str]]) -> list[Parameter]:
    """Parameters in the order of their paths.

    Args:
        described: {path: (shape, dtype name)}.
        trained: paths of the trainable ones.
        table: which tensors they are made of.
        where: as `recorded` gives it; a tensor that is not in it keeps its published name.
    """
    keys, trained, out = {rule.path: rule.keys for rule in table}, set(trained), []
    for path, (shape, dtype) in sorted(described.items()):
        names = keys[path].ravel().tolist() if path in keys else []
        files = dict.fromkeys(where[name][1] for name in names if name in where)
        source = gather([where[name][0] if name in where else name for name in names])
        out.append(Parameter(path, tuple(shape), dtype, path in trained, source,
                             tuple(sorted(files))))
    return out


def gather(names: list[str]) -> str:
    """Names that differ in numbers as one, e.g. `layers.{0..6,8}.weight`; others one by one."""
    alike: dict[tuple[str, ...], list[list[int]]] = {}
    for name in names:
        alike.setdefault(tuple(re.split(r"\d+", name)), []).append(
            [int(number) for number in re.findall(r"\d+", name)])
    return ", ".join(_gathered(words, numbers) for words, numbers in alike.items())


def _gathered(words: tuple[str, ...], numbers: list[list[int]]) -> str:
    places = [sorted(set(column)) for column in zip(*numbers, strict=True)]
    if math.prod(map(len, places)) != len(numbers):  # not every combination is there
        return ", ".join(_gathered(words, [row]) for row in numbers)
    shown = [str(p[0]) if len(p) == 1 else "{" + _ranges(p) + "}" for p in places]
    return "".join(word + number for word, number in zip(words, [*shown, ""], strict=True))


def _ranges(numbers: list[int]) -> str:
    """0, 1, 2, 4 as `0..2,4`; two in a row stay apart."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}..{run[-1]}" if len(run) > 2 else ",".join(map(str, run))
                    for run in runs)


def layout_on(mesh: jax.sharding.AbstractMesh, path: str,
              shape: tuple[int, ...]) -> tuple[tuple, int]:
    """(mesh axes per dimension, values on one device) of a parameter on a mesh.

    Raises UserError for a path that no sharding rule knows.
    """
    try:
        spec = sharding.spec_for(path)
    except ValueError as error:
        raise UserError(str(error)) from error
    sizes, spec = dict(mesh.shape), sharding.fit(spec, shape, mesh)
    names = [(a,) if isinstance(a, str) else a or () for a in spec]
    values = math.prod(dim // math.prod(sizes[n] for n in axes)
                       for dim, axes in zip(shape, names, strict=True))
    return tuple(spec), values
