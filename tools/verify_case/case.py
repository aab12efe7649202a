"""What golden cases of all systems have: a folder, arrays, texts, and a model in float32."""

import dataclasses
import functools
import json
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import jax
import numpy as np
from flax import nnx

from input_pipeline.errors import UserError
from input_pipeline.text import conversation
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax.config import LegionConfig
from legion_jax.models import param_tree
from legion_jax.models.layers import numerics
from legion_jax.models.legion import Legion
from legion_jax.models.reading import Reading
from legion_jax.weights.checkpoint import Checkpoint
from tools.verify_case.comparisons import Results, Stored


class CaseError(UserError):
    """A folder that is no golden case, or lacks something; the message says what."""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model.

    Attributes:
        config: architecture in float32 with exact positions.
        params: {path: float32 array}, nested; graph: structure that goes with them.
    """

    config: LegionConfig
    graph: nnx.GraphDef
    params: dict

    @classmethod
    def of(cls, config: LegionConfig, flat: dict) -> "Loaded":
        """A model of parameters {path: array}."""
        graph = param_tree.split_params(param_tree.abstract_model(config),
                                        param_tree.EVERYTHING)[0]
        return cls(config, graph, param_tree.unflatten(flat))


@dataclasses.dataclass(kw_only=True)
class Case:
    """Everything the checks read.

    Attributes:
        meta: what meta.json says.
        reference: what the published code computed.
        noise: {array: largest distance of the reference from its evaluation in float64}.
        left_out_files: files below the folder that the full case has and this one is known to lack.
        load: converts and reads the weights, once a check asks for the model.
    """

    folder: pathlib.Path
    meta: dict
    reference: Stored
    tokenizer: Tokenizer
    load: Callable[[], Loaded]
    noise: Mapping[str, float] = dataclasses.field(default_factory=dict)
    left_out_files: frozenset[str] = frozenset()

    @property
    def stored(self) -> tuple[Stored, ...]:
        """All arrays that a comparison may name."""
        return (self.reference,)

    @functools.cached_property
    def loaded(self) -> Loaded:
        """The model with what it consists of."""
        return self.load()

    @property
    def config(self) -> LegionConfig:
        """See `Loaded`."""
        return self.loaded.config

    @property
    def graph(self) -> nnx.GraphDef:
        """See `Loaded`."""
        return self.loaded.graph

    @property
    def params(self) -> dict:
        """See `Loaded`."""
        return self.loaded.params

    @functools.cached_property
    def model(self) -> Legion:
        """The model with the case's parameters."""
        return param_tree.merge(self.graph, self.params)

    def holding(self, loaded: Loaded) -> Self:
        """The case with another model."""
        return dataclasses.replace(self, load=lambda: loaded)

    def image_index(self, ids: np.ndarray) -> int:
        """Common index of the image placeholder in int[B, T]. Raises CaseError."""
        indices = {conversation.image_index(row) for row in ids}
        if len(indices) > 1:
            raise CaseError(f"{self.folder}: rows hold the image at {sorted(indices)}; "
                            f"a batch needs one place")
        return indices.pop()

    def reading(self, ids: np.ndarray) -> Reading:
        """Where losses find what they look at in these rows of ids."""
        return Reading(self.image_index(ids), self.tokenizer.ids_of(self.config.watched))

    def compute(self, function: Callable, *arguments, **static):
        """`function(model, *arguments, **static)`, compiled once for arguments of one shape."""
        with numerics(self.config):
            return _compiled(self.graph, function, **static)(self.params, *arguments)


@dataclasses.dataclass(frozen=True)
class System:
    """How cases of one system are known, opened and checked.

    Attributes:
        marker: a file that its cases alone have.
        checks: functions of (case, results), in the order of the data; curve: those of a training
            run.
    """

    name: str
    marker: str
    open_case: Callable[[pathlib.Path], Case]
    checks: Sequence[Callable[[Case, Results], None]]
    curve: Sequence[Callable[[Case, Results], None]]


@functools.cache
def _compiled(graph: nnx.GraphDef, function: Callable, **static) -> Callable:
    """`(parameters, *arguments) -> function(model, *arguments, **static)`."""
    return jax.jit(lambda params, *arguments: function(
        param_tree.merge(graph, params), *arguments, **static))


def need(root: pathlib.Path, names: Sequence[str]) -> None:
    """Raises CaseError naming what of `names` the folder lacks."""
    for name in names:
        if not (root / name).exists():
            raise CaseError(f"{root / name}: not there; a case folder has one")


def read_noise(root: pathlib.Path) -> dict[str, float]:
    """`Case.noise` of a case's noise.json."""
    arrays = json.loads((root / "noise.json").read_text())["arrays"]
    return {name: entry["max_abs"] for name, entry in arrays.items()}


def load_converted(convert: Callable[[str], LegionConfig]) -> Loaded:
    """What `convert` writes into a folder, with all numbers in float32. Raises CheckpointError."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = f"{scratch}/model"
        return load_float32(folder, convert(folder))


def load_float32(folder: str, config: LegionConfig) -> Loaded:
    """A converted checkpoint with all numbers in float32. Raises CheckpointError."""
    config = dataclasses.replace(config, dtype="float32", position_dtype="float32")
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {p: jax.ShapeDtypeStruct(a.shape, "float32", sharding=device)
              for p, a in param_tree.abstract_params(config).items()}
    return Loaded.of(config, Checkpoint.open(folder).load(wanted))
