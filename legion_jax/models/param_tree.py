"""Which parameters are trained: path patterns split a model into a trainable and a frozen tree."""

import functools
import math
import re
from collections.abc import Collection, Sequence
from typing import Any

import jax
from flax import nnx

from input_pipeline.errors import UserError
from legion_jax.config import LegionConfig
from legion_jax.models import initial
from legion_jax.models.legion import Legion
from legion_jax.sharding import path_name


class PartitionError(UserError):
    """A pattern that selects nothing."""


EVERYTHING = (r".*",)


def split_params(model: Legion, trainable: Sequence[str]) -> tuple[nnx.GraphDef, dict, dict]:
    """Split a model (or its `nnx.eval_shape`) into (graph, trainable, frozen) plain dicts.

    Raises PartitionError when a pattern matches no parameter: it would silently freeze what its
    author meant to train.
    """
    for pattern in trainable:
        try:
            re.compile(pattern)
        except re.error as error:
            raise PartitionError(f"trainable: {pattern!r} is no pattern ({error})") from error
    hit = set()

    def is_trainable(path, _):
        name = "/".join(map(str, path))
        matching = [p for p in trainable if re.search(p, name)]
        hit.update(matching)
        return bool(matching)

    graph, train, frozen = nnx.split(model, is_trainable, ...)
    if unused := [p for p in trainable if p not in hit]:
        raise PartitionError(f"trainable: pattern {', '.join(unused)} matches no parameter")
    return graph, nnx.to_pure_dict(train), nnx.to_pure_dict(frozen)


def abstract_model(config: LegionConfig, *, int8: bool = False) -> Legion:
    """The model with shapes in place of arrays; costs no memory at any size.

    `int8`: with what `quantize.quantize` makes of the language model's kernels.
    """
    return nnx.merge(*_abstract_parts(config, int8))


@functools.lru_cache(maxsize=8)
def _abstract_parts(config: LegionConfig, int8: bool) -> tuple[nnx.GraphDef, nnx.State]:
    return nnx.split(nnx.eval_shape(lambda: Legion(config, int8=int8)))  # a command asks often


def new_params(config: LegionConfig, key: jax.Array,
               paths: Collection[str] | None = None) -> dict[str, jax.Array]:
    """{path: values} that training from scratch begins with, float32; to be called under jit.

    `paths`: which parameters, by default all. The values of one depend on the key and its path.
    """
    params = {path: variable for path, variable in _variables(Legion(config)).items()
              if paths is None or path in paths}
    drawn = initial.draw({path: (variable.shape, variable.initial) for path, variable in
                          params.items() if hasattr(variable, "initial")}, key)
    return {path: drawn.get(path, variable[...]) for path, variable in params.items()}


def _variables(model: Legion) -> dict[str, nnx.Variable]:
    return {"/".join(map(str, path)): variable for path, variable in
            nnx.to_flat_state(nnx.state(model))}


def abstract_params(config: LegionConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """{path: shape and dtype} of every parameter."""
    return flatten(nnx.to_pure_dict(nnx.split(abstract_model(config))[1]))


def merge(graph: nnx.GraphDef, *trees: dict) -> Legion:
    """The model again, from the trees of `split_params`."""
    return nnx.merge(graph, *trees)


def cast(tree: dict, dtype: Any) -> dict:
    """Every array of a tree in `dtype`; works on abstract trees too."""
    def cast_leaf(x):
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)
        return x.astype(dtype)
    return jax.tree.map(cast_leaf, tree)


def flatten(tree: dict) -> dict[str, Any]:
    """{parameter path: leaf}."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def unflatten(flat: dict[str, Any]) -> dict:
    """Inverse of `flatten`."""
    tree: dict = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def count(tree: dict) -> int:
    """Number of values in a tree, concrete or abstract."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
