"""predict/programs.py: what is decided before anything is compiled."""

import types

import jax
import numpy as np
import pytest

from legion_jax import sharding
from legion_jax.models import param_tree
from legion_jax.predict import programs


def mesh_of(platform: str, limits: list[int | None]):
    """As much of a mesh as is asked, on devices of that many bytes; None: they do not say."""
    devices = [types.SimpleNamespace(
        platform=platform, memory_stats=lambda limit=limit: limit and {"bytes_limit": limit})
        for limit in limits]
    return types.SimpleNamespace(devices=np.array(devices), local_devices=devices)


@pytest.mark.parametrize("tensor", [1, 2])
def test_layers_are_copied_where_three_of_them_fit(config, tensor):
    mesh = sharding.make_mesh((1, 1, tensor), jax.devices()[:tensor])
    params = programs.abstract_params(config, mesh)
    layers = sum(
        int(np.prod(a.sharding.shard_shape(a.shape))) * a.dtype.itemsize
        for path, a in param_tree.flatten(params).items() if path.startswith("language/layers/"))
    assert layers > 0

    def is_copied(platform, *limits):
        return programs._has_room_for_copy(params, mesh_of(platform, list(limits)))

    assert is_copied("gpu", 3 * layers) and is_copied("gpu", 3 * layers, 4 * layers)
    assert not is_copied("gpu", 3 * layers - 1)
    assert not is_copied("gpu", 4 * layers, 2 * layers)  # on all of them, or on none
    assert not is_copied("gpu", None)
    assert not is_copied("tpu", 9 * layers) and not is_copied("cpu", None)
