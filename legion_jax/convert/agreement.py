"""Whether weights that lie in several places are the same, compared tensor by tensor."""

import dataclasses
import importlib.util
import re
from collections.abc import Iterable

import numpy as np

from legion_jax.convert import streaming
from legion_jax.convert.roles import Source, Sources
from legion_jax.convert.tensor_folder import TensorFolder
from legion_jax.convert.weight_sets import WeightSet
from legion_jax.weights import tensor_file
from legion_jax.weights.checkpoint_error import CheckpointError

# What transformers has saved in some releases and left out in others; it computes them anew.
BUFFERS = re.compile(r"(^|\.)(position_ids|rotary_emb\.inv_freq|attn\.bias|masked_bias)$")
CHOOSE = "move what is not meant to another folder"


def check(sources: Sources, *, progress: bool = True) -> dict[str, dict[str, str]]:
    """Compare everything that the sources hold twice.

    Returns:
        {role: {name: why it is not read}} of sets that are equal to those that are read, or that
        nobody can read.

    Raises CheckpointError naming both places and the first tensor in which they differ, or a file
    that cannot be compared here.
    """
    unread: dict[str, dict[str, str]] = {}
    for role, source in sources.roles.items():
        for other in source.others:
            unread.setdefault(role, {})[other.name] = _check_set(source, other, progress)
    for left, right, names in sources.twice():
        if key := _first_difference(left, right, names, progress):
            raise CheckpointError(f"{left.folder.path} and {right.folder.path} hold different "
                                  f"weights: {key} differs; {CHOOSE}")
    return unread


def _check_set(source: Source, other: WeightSet, progress: bool) -> str:
    """Why a set beside the chosen one is not read."""
    path, chosen = source.folder.path, source.chosen
    bare = [name for name in other.files if not name.endswith(".safetensors")]
    if bare and importlib.util.find_spec("torch") is None:
        raise CheckpointError(f"{path / bare[0]}: lies beside {chosen}, and comparing them needs "
                              f"PyTorch: pip install torch==2.13.0; or {CHOOSE}")
    try:
        folder = TensorFolder(path, dataclasses.replace(
            other, index=None if other.lacks else other.index))
    except CheckpointError as error:
        return f"cannot be read ({error})"
    try:
        second = Source.of(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {chosen} and {other.name} hold different weights "
                              f"({error}); {CHOOSE}") from error
    names = [name for name in source.names if name in second.names]
    key = (_first_alone(second, names) or (None if other.lacks else _first_alone(source, names))
           or _first_difference(source, second, names, progress))
    if key:
        raise CheckpointError(f"{path}: {chosen} and {other.name} hold different weights: {key} "
                              f"differs. {chosen} comes first, as for transformers; {CHOOSE}")
    same = f"has the values of {chosen}, which comes first"
    return f"{other.lacks} is not there; what is there {same}" if other.lacks else same


def _first_alone(source: Source, shared: Iterable[str]) -> str | None:
    """The first tensor that is not among the shared ones and means something by itself.

    A buffer does not, nor does a second name of a shared tensor, which safetensors leaves out.
    """
    shared = set(shared)
    entries = {name: source.folder.entries[key] for name, key in source.names.items()}
    for name in source.names:
        if name in shared or BUFFERS.search(name):
            continue
        like = [other for other in shared if (entries[other].shape, entries[other].dtype) == (
            entries[name].shape, entries[name].dtype)]
        if not any(_are_equal(source.read(name), source.read(other)) for other in like):
            return name
    return None


def _first_difference(left: Source, right: Source, names: list[str],
                      progress: bool) -> str | None:
    """The first of the names whose values differ in the two; None where all agree."""
    different = []

    def compare(name):
        if not different and not _are_equal(left.read(name), right.read(name)):
            different.append(name)

    streaming.run(compare, names, beside={}, description="comparing", progress=progress,
                  sizes=[left.folder.entries[left.names[name]].nbytes for name in names])
    return min(different, key=names.index, default=None)


def _are_equal(left: np.ndarray, right: np.ndarray) -> bool:
    """Bit for bit, or, of different dtypes, after rounding one to that of the other."""
    if left.shape != right.shape:
        return False
    if left.dtype == right.dtype:
        return tensor_file.raw_bytes(left) == tensor_file.raw_bytes(right)
    if not {left.dtype.kind, right.dtype.kind} <= {"f", "V"}:  # numpy's kind of bfloat16 is V
        return False
    pairs = [(left, right), (right, left)]
    return any(tensor_file.raw_bytes(streaming.cast(wide, str(narrow.dtype))) ==
               tensor_file.raw_bytes(narrow)
               for wide, narrow in pairs if wide.itemsize >= narrow.itemsize)
