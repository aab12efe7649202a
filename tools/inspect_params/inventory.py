"""Parameters of a checkpoint, of PyTorch folders or of a config: sizes and origins, no values.

Only headers and small files are read, so any size is listed in seconds and in little memory.
"""

import dataclasses
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
from legion_jax.convert.names import is_known
from legion_jax.convert.origin import Origin
from legion_jax.convert.plan import Options, make_plan
from legion_jax.convert.roles import Sources
from legion_jax.convert.table import Rule, lora_rules, rules
from legion_jax.models import param_tree
from legion_jax.train import setup
from legion_jax.train.knobs import RunSettings
from legion_jax.weights import tensor_file
from legion_jax.weights.checkpoint import Checkpoint
from legion_jax.weights.checkpoint_error import read_json

RECIPE = "LOCALISATION of experiments/base.py, LEGION's published recipe"


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
        """Bytes of all values."""
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
    opened = Checkpoint.open(folder)
    meta, stored = opened.meta, opened.entries
    title = f"{folder}: converted checkpoint"
    if opened.step is not None:
        title = f"{folder}: training run, step {opened.step}"
    if meta.base:
        title += f", the rest from {meta.base.path}"
    trained, rule = set(meta.trained), "legion.json, which names what this run trained"
    if not trained:
        trained, rule = matching(base.LOCALISATION, stored), RECIPE
    described = {path: (tuple(a.shape), str(np.dtype(a.dtype))) for path, a in stored.items()}
    return Inventory(
        title, entries(described, trained, _table(meta.config), recorded(opened)), rule,
        absent=[tower for tower in meta.absent
                if not any(path.startswith(f"{tower}/") for path in stored)],
        notes=padding(meta.config))


def of_sources(sources: Sources) -> Inventory:
    """PyTorch folders, shapes and dtypes as a conversion makes them.

    Unlike a conversion this goes on after a problem, and without config or tokenizer.

    Raises CheckpointError where not even the sizes of the model can be told.
    """
    main = sources.roles["main"]
    sam = main.small_files.get("sam_config.json")
    plan = make_plan(sources, Options(partial=True, sam=read_json(sam) if sam else None),
                     assume=True)
    origins = {name: (sources.roles[role].names[name], f"{role}/{sources.entries[name].file}")
               for name, role in sources.owner.items()}
    nbytes = {name: (origins[name][0], sources.entries[name].nbytes) for name in plan.rest}
    notes = [f"{role}: {source.folder.path} ({source.spelling}, {len(source.folder.entries):,} "
             f"tensors)" for role, source in sources.roles.items()]
    notes += [f"{role}: {name} is not read: {why}" for role, names in sources.ignored.items()
              for name, why in names.items()]
    notes += [f"{role}: {other.name} is not read: {source.chosen} comes first; a conversion "
              f"compares them" for role, source in sources.roles.items() for other in source.others]
    if replaced := sum(len(source.folder.entries) for source in sources.roles.values()) - len(
            sources.entries):
        notes.append(f"{replaced:,} tensors are not used: an adapter's stand in their place, or "
                     f"PEFT keeps them as they were before training")
    notes += plan.notes + ([] if "language" in plan.absent else padding(plan.config))
    return Inventory(
        f"{main.folder.path}: PyTorch weights",
        entries(plan.params, matching(base.LOCALISATION, plan.params), plan.table, origins), RECIPE,
        absent=plan.absent, problems=plan.problems, notes=notes,
        carried=dict(size for name, size in nbytes.items() if is_known(name)),
        unknown=dict(size for name, size in nbytes.items() if not is_known(name)))


def of_config(config: ml_collections.ConfigDict, *, vocab: int | None = None) -> Inventory:
    """What a run of this config holds; `vocab` where there is no tokenizer to count.

    Raises ConfigError, CheckpointError or PartitionError for what no run could use.
    """
    run = RunSettings.from_config(config, without_data=True)
    run.check_batch(1)
    model = setup.model_config(run, setup.vocabulary(run, vocab))
    _, trained, frozen = param_tree.split_params(param_tree.abstract_model(model), run.stored)
    trained = param_tree.flatten(param_tree.cast(trained, "float32"))
    frozen = param_tree.flatten(param_tree.cast(frozen, run.frozen_dtype))
    described = {path: (a.shape, str(a.dtype)) for path, a in (trained | frozen).items()}
    title, origins, notes = f"{run.model.name} from scratch", {}, padding(model)
    if run.init_from:
        opened = Checkpoint.open(run.init_from)
        title, origins = f"from {run.init_from}", recorded(opened)
        if absent := opened.meta.absent:
            notes.append(f"not in {run.init_from}, so the run starts them anew: "
                         f"{', '.join(absent)}")
    elif frozen:
        notes.append("init_from is empty: training needs it for the frozen parameters")
    return Inventory(title, entries(described, trained, _table(model), origins),
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


def recorded(opened: Checkpoint) -> dict[str, tuple[str, str]]:
    """{published name: (name in its file, "role/file")} as a conversion recorded it."""
    return {tensor.published: (key, f"{role}/{tensor.file}")
            for role, folder in Origin.read(opened).roles.items()
            for key, tensor in folder.tensors.items() if tensor.published}


def entries(described: Mapping[str, tuple[tuple[int, ...], str]], trained: Iterable[str],
            table: list[Rule], origins: Mapping[str, tuple[str, str]]) -> list[Parameter]:
    """Parameters in the order of their paths.

    Args:
        described: {path: (shape, dtype name)}.
        trained: paths of the trainable ones.
        table: which tensors they are made of.
        origins: as `recorded` gives it; a tensor that is not in it keeps its published name.
    """
    keys, trained, parameters = {rule.path: rule.keys for rule in table}, set(trained), []
    for path, (shape, dtype) in sorted(described.items()):
        names = keys[path].ravel().tolist() if path in keys else []
        files = dict.fromkeys(origins[name][1] for name in names if name in origins)
        source = gather([origins[name][0] if name in origins else name for name in names])
        parameters.append(Parameter(path, tuple(shape), dtype, path in trained, source,
                                    tuple(sorted(files))))
    return parameters


def gather(names: list[str]) -> str:
    """Names that differ in numbers as one, e.g. `layers.{0..6,8}.weight`; others one by one."""
    alike: dict[tuple[str, ...], list[list[int]]] = {}
    for name in names:
        alike.setdefault(tuple(re.split(r"\d+", name)), []).append(
            [int(number) for number in re.findall(r"\d+", name)])
    return ", ".join(_gathered(words, numbers) for words, numbers in alike.items())


def _gathered(words: tuple[str, ...], numbers: list[list[int]]) -> str:
    columns = [sorted(set(column)) for column in zip(*numbers, strict=True)]
    if math.prod(map(len, columns)) != len(numbers):  # not every combination is there
        return ", ".join(_gathered(words, [row]) for row in numbers)
    shown = [str(p[0]) if len(p) == 1 else "{" + _ranges(p) + "}" for p in columns]
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
