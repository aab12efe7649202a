"""Where parameters and activations live on the device mesh.

One table of path patterns decides for every parameter; the first pattern that matches wins, and a
path that matches none is an error. The mesh axes are `data` (replicated parameters), `fsdp`
(sharded parameters; both split the batch) and `tensor` (split inside a layer).
"""

import math
import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from input_pipeline.errors import UserError

P = PartitionSpec
AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")

# Stacked layers have a leading layer axis, which is never split.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    # The mask decoder is small and runs once per mask: a copy on every device.
    (r"^(prompt_encoder|mask_decoder)/", P()),
    (r"layers/(attention/)?(query|key|value|gate|up|qkv)/kernel$", P(None, "fsdp", "tensor")),
    (r"layers/(attention/)?(out|down)/kernel$", P(None, "tensor", "fsdp")),
    (r"layers/mlp/up/kernel$", P(None, "fsdp", "tensor")),
    (r"layers/mlp/down/kernel$", P(None, "tensor", "fsdp")),
    (r"lora_a$", P(None, "fsdp", None)),
    (r"lora_b$", P(None, None, "tensor")),
    (r"^language/embed/embedding$", P("tensor", "fsdp")),
    (r"^language/head/kernel$", P("fsdp", "tensor")),
    (r"^(projector|text_projection|verdict)/up/kernel$", P("fsdp", "tensor")),
    (r"^(projector|text_projection|verdict)/down/kernel$", P("tensor", "fsdp")),
    (r"^(clip|sam_encoder)/patch/kernel$", P(None, "fsdp")),
    (r"^sam_encoder/neck_conv[12]/kernel$", P()),
    # Norms, biases and positions are copied to every device.
    (r"/(scale|bias)$", P()),
    (r"^(clip|sam_encoder)/(position|cls)$", P()),
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
    """Drop from `spec` every mesh axis that does not divide its dimension of `shape`.

    Small models on many devices need this: a 96-wide layer cannot be split 256 ways.
    """
    sizes = dict(mesh.shape)
    fitted = []
    for dim, axes in zip(shape, tuple(spec) + (None,) * (len(shape) - len(spec)), strict=True):
        names = () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
        fitted.append(axes if dim % math.prod(sizes[n] for n in names) == 0 else None)
    return P(*fitted)


def tree_shardings(tree, mesh: Mesh):
    """NamedSharding for every leaf of a parameter tree, by `RULES`."""
    def one(path, leaf):
        return NamedSharding(mesh, fit(spec_for(path_name(path)), leaf.shape, mesh))
    return jax.tree_util.tree_map_with_path(one, tree)


def shard_abstract(tree, mesh: Mesh):
    """The abstract tree with a sharding on every leaf."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree,
                        tree_shardings(tree, mesh))


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


def make_mesh(shape: Sequence[int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh over (data, fsdp, tensor); one entry may be -1 and takes the remaining devices.

    Raises MeshError when the shape does not use every device.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = list(shape)
    if len(shape) != len(AXES) or shape.count(-1) > 1 or any(s < 1 and s != -1 for s in shape):
        raise MeshError(f"mesh: {len(AXES)} sizes for {AXES}, each at least 1 and at most one of "
                        f"them -1; got {shape}")
    if -1 in shape:
        shape[shape.index(-1)] = max(len(devices) // math.prod(s for s in shape if s != -1), 1)
    if math.prod(shape) != len(devices):
        raise MeshError(f"mesh: {shape} needs {math.prod(shape)} devices, "
                         f"this run has {len(devices)}")
    return jax.make_mesh(shape, AXES, devices=np.asarray(devices).ravel().tolist(),
                         axis_types=(AxisType.Auto,) * len(AXES))
