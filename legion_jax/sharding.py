"""Where parameters and activations live on the device mesh.

One table of path patterns decides for every parameter; the first pattern that matches wins, and a
path that matches none is an error. The mesh axes are `data` (replicated parameters), `fsdp`
(sharded parameters; both split the batch), `tensor` (split inside a layer) and `sequence`, for few
photos per chip: between layers each device holds a part of every sequence, of a photo's rows, and
inside attention a part of the heads (Jacobs et al., 2023, DeepSpeed-Ulysses).
"""

import dataclasses
import logging
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from input_pipeline.errors import UserError

LOG = logging.getLogger("legion_jax")

P = PartitionSpec
AXES = ("data", "fsdp", "tensor", "sequence")
BATCH = ("data", "fsdp")
SEQUENCE = "sequence"
HEADS = ("tensor", "sequence")
LARGE_BYTES = 16 << 20  # of a parameter whose copies are worth a word
MOST_NAMED = 5

# Stacked layers have a leading layer axis, which is never split.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    # The mask decoder and fusion are small and run once per mask: a copy on every device.
    (r"^(prompt_encoder|mask_decoder|fusion)/", P()),
    (r"layers/(attention/)?(query|key|value|gate|up|qkv)/kernel$", P(None, "fsdp", "tensor")),
    (r"layers/(attention/)?(out|down)/kernel$", P(None, "tensor", "fsdp")),
    (r"layers/mlp/up/kernel$", P(None, "fsdp", "tensor")),
    (r"layers/mlp/down/kernel$", P(None, "tensor", "fsdp")),
    (r"(out|down)/lora_a$", P(None, "tensor", None)),
    (r"(out|down)/lora_b$", P(None, None, "fsdp")),
    (r"lora_a$", P(None, "fsdp", None)),
    (r"lora_b$", P(None, None, "tensor")),
    (r"^language/embed/embedding$", P("tensor", "fsdp")),
    (r"^language/head/kernel$", P("fsdp", "tensor")),
    (r"^(projector|((projector|text_projection|verdict)/up))/kernel$", P("fsdp", "tensor")),
    (r"^(projector|text_projection|verdict)/down/kernel$", P("tensor", "fsdp")),
    (r"^(vision|sam_encoder)/patch/kernel$", P(None, "fsdp")),
    (r"^sam_encoder/neck_conv[12]/kernel$", P()),
    # Norms, biases, factors of int8 kernels and positions are copied to every device.
    (r"/(scale|bias|kernel_scale)$", P()),
    (r"^(vision|sam_encoder)/(position|cls)$", P()),
    (r"layers/attention/relative_(rows|columns)$", P()),
)


class MeshError(UserError):
    """A mesh that does not fit the devices."""


def path_name(path: Sequence) -> str:
    """Key path of a pytree leaf as the public parameter path, e.g. `language/head/kernel`."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path)


def spec_for(path: str) -> PartitionSpec:
    """PartitionSpec of a parameter path. Raises ValueError when no rule matches."""
    for pattern, spec in RULES:
        if re.search(pattern, path):
            return spec
    raise ValueError(f"no sharding rule matches parameter {path}")


def fit(spec: PartitionSpec, shape: Sequence[int], mesh) -> PartitionSpec:
    """Drop from `spec` the mesh axes that do not divide their dimension of `shape`.

    Small models on many devices need this: a 96-wide layer cannot be split 256 ways. Of several
    axes on one dimension the last go first.
    """
    sizes = dict(mesh.shape)
    fitted = []
    for dim, axes in zip(shape, tuple(spec) + (None,) * (len(shape) - len(spec)), strict=True):
        names = _names(axes)
        while dim % math.prod(sizes[n] for n in names):
            names = names[:-1]
        fitted.append((names if len(names) > 1 else names[0]) if names else None)
    return P(*fitted)


def tree_shardings(tree, mesh: Mesh):
    """NamedSharding for every leaf of a parameter tree, by `RULES`."""
    def sharding_of(path, leaf):
        return NamedSharding(mesh, fit(spec_for(path_name(path)), leaf.shape, mesh))
    return jax.tree_util.tree_map_with_path(sharding_of, tree)


def shard_abstract(tree, mesh: Mesh):
    """The abstract tree with a sharding on every leaf."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree,
                        tree_shardings(tree, mesh))


@dataclasses.dataclass(frozen=True)
class Undivided:
    """A parameter that lies on more devices than its rule says.

    Attributes:
        described: dtype and shape, e.g. bfloat16[32003, 4096].
        reasons: e.g. "32003 does not divide over tensor 4".
        total, held, wanted: bytes of all of it, of what a device holds, and of what it would hold
            if the mesh divided it.
    """

    path: str
    described: str
    reasons: tuple[str, ...]
    total: int
    held: int
    wanted: int

    def __str__(self) -> str:
        return (f"{self.path} {self.described}, {_mebibytes(self.total)} ("
                f"{', '.join(self.reasons)}: {_mebibytes(self.held)} on each device, not "
                f"{_mebibytes(self.wanted)})")


def undivided(params: dict[str, Any], mesh: Mesh, *, least: int) -> list[Undivided]:
    """What `fit` leaves whole of {path: shape and dtype}, most bytes per device first.

    `least`: bytes from which on a parameter counts. What a rule itself wants copied is not in it.
    """
    found = (_undivided(path, leaf, mesh) for path, leaf in params.items()
             if math.prod(leaf.shape) * leaf.dtype.itemsize >= least)
    return sorted((each for each in found if each.reasons),
                  key=lambda each: (each.wanted - each.held, each.path))


def warn_of_copies(params: dict[str, Any], mesh: Mesh) -> None:
    """Log once, on the first host, which large parameters are copied; as `undivided`."""
    if jax.process_index() or not (copies := undivided(params, mesh, least=LARGE_BYTES)):
        return
    sizes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    named = "; ".join(map(str, copies[:MOST_NAMED]))
    more = f"; and {len(copies) - MOST_NAMED} more" if len(copies) > MOST_NAMED else ""
    LOG.warning("large parameters that this mesh (%s) cannot divide are copied: %s%s; together "
                "%s more on each device than if they were divided", sizes, named, more,
                _mebibytes(sum(each.held - each.wanted for each in copies)))


def _undivided(path: str, leaf, mesh: Mesh) -> Undivided:
    spec = spec_for(path)
    total = math.prod(leaf.shape) * leaf.dtype.itemsize
    reasons = tuple(
        f"{dim} does not divide over {' and '.join(f'{n} {mesh.shape[n]}' for n in lost)}"
        for dim, lost in zip(leaf.shape, _lost(spec, leaf.shape, mesh), strict=True) if lost)
    held, wanted = (total // math.prod(mesh.shape[name] for axes in s for name in _names(axes))
                    for s in (fit(spec, leaf.shape, mesh), spec))
    shape = ", ".join(map(str, leaf.shape))
    return Undivided(path, f"{leaf.dtype}[{shape}]", reasons, total, held, wanted)


def _lost(spec: PartitionSpec, shape: Sequence[int], mesh: Mesh) -> Iterator[list[str]]:
    """Per dimension the mesh axes of `spec` that `fit` drops."""
    kept = fit(spec, shape, mesh)
    for asked, given in zip(tuple(spec) + (None,) * (len(shape) - len(spec)), kept, strict=True):
        yield [name for name in _names(asked) if name not in _names(given)]


def _names(axes: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of anything whose leading axis is the global batch."""
    return NamedSharding(mesh, P(BATCH))


def constrain(x: jax.Array, *axes) -> jax.Array:
    """Pin the layout of an activation, or of a buffer made inside jit, on the current mesh.

    `axes` are mesh axis names (or None) per dimension. Without a mesh this does nothing, so model
    code reads the same on one device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, fit(P(*axes), x.shape, mesh))


def from_local_rows(mesh: Mesh, batch: dict, size: int) -> dict[str, jax.Array]:
    """Global arrays [size, ...] from the rows of this host (see `local_rows`)."""
    layout = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(layout, rows, (size, *rows.shape[1:]))
            for name, rows in batch.items()}


def local_rows(mesh: Mesh, size: int) -> np.ndarray:
    """Which rows of a global batch this host's devices hold, int[N] ascending.

    Hosts that the mesh's tensor or sequence axis joins hold the same rows. Raises MeshError when
    the batch does not divide.
    """
    shards = math.prod(mesh.shape[axis] for axis in BATCH)
    if size % shards:
        raise MeshError(f"batch_size: {size} rows do not divide over {shards} parts of the mesh "
                        f"axes {' and '.join(BATCH)}")
    held = batch_sharding(mesh).addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in held]))


def mesh_sizes(shape: Sequence[int], devices: int) -> tuple[int, ...]:
    """Sizes of `AXES`; `shape` may leave sequence out, and one -1 takes the remaining devices.

    Raises MeshError when the shape does not use every device.
    """
    sizes = [*shape, *(1,) * (len(shape) == len(AXES) - 1)]
    if len(sizes) != len(AXES) or sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
        raise MeshError(f"mesh: {len(AXES)} sizes for {AXES}, the last one optional, each at least "
                        f"1 and at most one of them -1; got {list(shape)}")
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(devices // math.prod(s for s in sizes if s != -1), 1)
    if math.prod(sizes) != devices:
        raise MeshError(f"mesh: {sizes} needs {math.prod(sizes)} devices, this run has {devices}")
    return tuple(sizes)


def make_mesh(shape: Sequence[int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh over `AXES` of the given sizes (see `mesh_sizes`).

    Slices of TPUs, which a slower network joins, divide the data axis: only gradients go between
    them, once per update. Raises MeshError when sizes and devices do not fit.
    """
    devices = list(jax.devices() if devices is None else np.ravel(devices))
    sizes = mesh_sizes(shape, len(devices))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    data, *others = sizes
    if data % slices:
        raise MeshError(f"mesh: {slices} slices divide the data axis, whose size is {data}")
    if slices > 1:
        placed = mesh_utils.create_hybrid_device_mesh(
            (data // slices, *others), (slices, *(1 for _ in others)), devices)
    else:
        placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))
