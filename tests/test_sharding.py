"""legion_jax/sharding.py: the table of rules, meshes, and a train step on many of them."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import relatives
from jax.sharding import PartitionSpec as P
from random_models import QUICK_COMPILE, READING, random_batch, randomized

from experiments import base
from legion_jax import sharding
from legion_jax.config import LAYER_KERNELS, LoraConfig, fakevlm_7b, legion_7b, sida_13b
from legion_jax.models import param_tree
from legion_jax.train import optim
from legion_jax.train.knobs import OptimizerSettings
from legion_jax.train.losses import Objective
from legion_jax.train.setup import abstract_state
from legion_jax.train.step import init_state, make_step

FULL = param_tree.abstract_params(legion_7b(lora=LoraConfig(rank=8)))
ADAPTED = param_tree.abstract_params(fakevlm_7b(lora=LoraConfig(8, targets=LAYER_KERNELS)))
SIDA = param_tree.abstract_params(sida_13b(lora=LoraConfig(rank=8)))


@pytest.mark.parametrize("path", SIDA | ADAPTED | FULL)
def test_every_parameter_of_the_full_models_has_a_rule(path):
    spec, shape = sharding.spec_for(path), (SIDA | ADAPTED | FULL)[path].shape
    assert len(spec) <= len(shape)
    mesh = sharding.make_mesh((2, 2, 2))
    assert tuple(sharding.fit(spec, shape, mesh))[:len(spec)] == tuple(spec)  # divides evenly
    if "layers/" in path:
        assert not spec or spec[0] is None
    if math.prod(shape) > 2 ** 20 and path not in ("sam_encoder/position",):
        copied = path.startswith("mask_decoder/")
        axes = {axis for axis in spec if axis}
        if "/lora_" in path:  # whose other side is the rank
            assert len(axes) == 1
        else:
            assert axes == (set() if copied else {"fsdp", "tensor"})


@pytest.mark.parametrize("path, spec", [
    ("language/embed/embedding", P("tensor", "fsdp")),
    ("language/head/kernel", P("fsdp", "tensor")),
    ("language/layers/query/kernel", P(None, "fsdp", "tensor")),
    ("language/layers/query/lora_a", P(None, "fsdp", None)),
    ("language/layers/value/lora_b", P(None, None, "tensor")),
    ("language/layers/out/kernel", P(None, "tensor", "fsdp")),
    ("language/layers/out/lora_a", P(None, "tensor", None)),
    ("language/layers/down/lora_b", P(None, None, "fsdp")),
    ("language/layers/gate/kernel", P(None, "fsdp", "tensor")),
    ("language/layers/down/kernel", P(None, "tensor", "fsdp")),
    ("language/layers/norm1/scale", P()),
    ("vision/layers/mlp/up/kernel", P(None, "fsdp", "tensor")),
    ("vision/layers/mlp/up/bias", P()),
    ("sam_encoder/window_layers/attention/qkv/kernel", P(None, "fsdp", "tensor")),
    ("sam_encoder/global_layers/mlp/down/kernel", P(None, "tensor", "fsdp")),
    ("sam_encoder/global_layers/attention/relative_rows", P()),
    ("mask_decoder/layers/mlp/up/kernel", P()),
    ("verdict/down/kernel", P("tensor", "fsdp")),
    ("prompt_encoder/frequencies", P()),
])
def test_rule(path, spec):
    assert path in FULL | ADAPTED
    assert sharding.spec_for(path) == spec


@pytest.mark.parametrize("path", ["language/layers/router/kernel", "language/gate", "kernel"])
def test_unknown_parameter(path):
    with pytest.raises(ValueError, match=f"no sharding rule matches parameter {path}"):
        sharding.spec_for(path)


@pytest.mark.parametrize("mesh, spec, shape, fitted", [
    ((1, 4, 2), P("fsdp", "tensor"), (8, 6), P("fsdp", "tensor")),
    ((1, 4, 2), P("fsdp", "tensor"), (6, 6), P(None, "tensor")),
    ((1, 4, 2), P("fsdp", "tensor"), (6, 5), P(None, None)),
    ((1, 4, 2), P(None, "fsdp"), (3, 4, 5), P(None, "fsdp", None)),
    ((2, 2, 2), P(("data", "fsdp"), "tensor"), (8, 3), P(("data", "fsdp"), None)),
    ((2, 2, 2), P(("data", "fsdp"), "tensor"), (6, 4), P("data", "tensor")),
    ((2, 2, 1, 2), P(("data", "fsdp"), ("tensor", "sequence")), (4, 2), P(("data", "fsdp"),
                                                                          ("tensor", "sequence"))),
    ((8, 1, 1), P("fsdp", "tensor"), (7, 5), P("fsdp", "tensor")),
    ((2, 2, 2), P(), (4, 4), P(None, None)),
])
def test_fit_drops_axes_that_do_not_divide(mesh, spec, shape, fitted):
    assert sharding.fit(spec, shape, sharding.make_mesh(mesh)) == fitted


def parameters(**shapes):
    return {path.replace("__", "/"): jax.ShapeDtypeStruct(shape, jnp.bfloat16)
            for path, shape in shapes.items()}


ODD = parameters(
    language__embed__embedding=(32003, 4096),  # 250 MiB, tensor 2 does not divide it
    language__head__kernel=(4095, 32004),  # fsdp 4 does not, tensor 2 does
    language__layers__query__kernel=(2, 4096, 4096),  # divides
    language__layers__gate__kernel=(2, 1023, 1023),  # neither does, but it is small
    mask_decoder__layers__mlp__up__kernel=(4099, 4099))  # meant to be copied


def test_large_parameters_that_the_mesh_cannot_divide_are_found():
    mesh = sharding.make_mesh((1, 4, 2))
    # The one that costs most comes first.
    head, embedding = sharding.undivided(ODD, mesh, least=2**24)
    assert (head.path, embedding.path) == ("language/head/kernel", "language/embed/embedding")
    assert embedding.described == "bfloat16[32003, 4096]"
    assert embedding.reasons == ("32003 does not divide over tensor 2",)
    assert (embedding.total, embedding.held, embedding.wanted) == tuple(
        32003 * 4096 * 2 // parts for parts in (1, 4, 8))
    assert head.reasons == ("4095 does not divide over fsdp 4",)
    assert sharding.undivided(ODD, sharding.make_mesh((8, 1, 1)), least=2**24) == []
    assert "language/layers/gate/kernel" in [
        each.path for each in sharding.undivided(ODD, mesh, least=2**20)]


def test_what_a_device_is_said_to_hold_is_what_it_holds():
    mesh = sharding.make_mesh((1, 4, 2))
    params = parameters(language__embed__embedding=(4099, 2048))
    (found,) = sharding.undivided(params, mesh, least=2**24)
    (laid,) = jax.tree.leaves(sharding.shard_abstract(params, mesh))
    array = jax.device_put(np.zeros(laid.shape, laid.dtype), laid.sharding)
    assert {shard.data.nbytes for shard in array.addressable_shards} == {found.held}


def test_copies_are_said_once_by_the_first_host(caplog, monkeypatch):
    mesh = sharding.make_mesh((1, 4, 2))
    sharding.warn_of_copies(ODD, mesh)
    (line,) = [record.getMessage() for record in caplog.records]
    assert ("language/embed/embedding bfloat16[32003, 4096], 250.0 MiB (32003 does not divide over "
            "tensor 2: 62.5 MiB on each device, not 31.3 MiB)") in line
    assert "fsdp 4, tensor 2" in line and line.endswith(
        "together 125.0 MiB more on each device than if they were divided")
    caplog.clear()
    monkeypatch.setattr(sharding, "MOST_NAMED", 1)
    sharding.warn_of_copies(ODD, mesh)
    assert "; and 1 more; together 125.0 MiB" in caplog.records[0].getMessage()
    caplog.clear()
    sharding.warn_of_copies(ODD, sharding.make_mesh((8, 1, 1)))
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    sharding.warn_of_copies(ODD, mesh)
    assert not caplog.records


@pytest.mark.parametrize("shape, sizes", [
    ((1, -1, 1), (1, 8, 1)), ((2, -1, 2), (2, 2, 2)), ((-1, 4, 2), (1, 4, 2)),
    ((1, 1, 8), (1, 1, 8)), ((1, 2, 1, -1), (1, 2, 1, 4)),
])
def test_mesh_takes_the_devices_that_are_left(shape, sizes):
    assert dict(sharding.make_mesh(shape).shape) == dict(
        zip(("data", "fsdp", "tensor", "sequence"), (*sizes, 1)[:4], strict=True))


@pytest.mark.parametrize("shape, message", [
    ((8, 1), r"4 sizes .* got \[8, 1\]"),
    ((-1, -1, 1), r"at most one of them -1; got \[-1, -1, 1\]"),
    ((2, 2, 1), r"\[2, 2, 1, 1\] needs 4 devices, this run has 8"),
    ((3, -1, 1), r"\[3, 2, 1, 1\] needs 6 devices, this run has 8"),
    ((16, -1, 1), r"\[16, 1, 1, 1\] needs 16 devices, this run has 8"),
    ((0, -1, 1), "mesh"),
    ((-2, -4, 1), "mesh"),
])
def test_mesh_that_does_not_fit(shape, message):
    with pytest.raises(sharding.MeshError, match=message):
        sharding.make_mesh(shape)


def test_mesh_of_given_devices():
    mesh = sharding.make_mesh((1, -1, 2), jax.devices()[4:])
    assert set(mesh.devices.ravel()) == set(jax.devices()[4:])


class FakeDevice:
    """Eight of them form two slices."""

    platform = device_kind = "cpu"

    def __init__(self, number):
        self.id, self.process_index, self.slice_index = number, number // 4, number // 4


@pytest.mark.parametrize("shape", [(2, 4, 1), (4, 1, 2), (2, 1, 2, 2)])
def test_slices_divide_the_data_axis(shape):
    mesh = sharding.make_mesh(shape, [FakeDevice(n) for n in (0, 4, 1, 5, 2, 6, 3, 7)])
    assert mesh.devices.shape == (*shape, 1)[:4]
    first, second = np.split(mesh.devices, 2)
    assert {d.slice_index for d in first.ravel()} == {0}
    assert {d.slice_index for d in second.ravel()} == {1}
    with pytest.raises(sharding.MeshError, match="2 slices divide the data axis, whose size is 1"):
        sharding.make_mesh((1, 8, 1), [FakeDevice(n) for n in range(8)])


@pytest.mark.parametrize("shape", [(2, 4, 1), (1, 1, 8), (4, 1, 2)])
def test_one_host_holds_every_row(shape):
    mesh = sharding.make_mesh(shape)
    assert sharding.local_rows(mesh, 8).tolist() == list(range(8))
    rows = np.arange(24).reshape(8, 3)
    gathered = sharding.from_local_rows(mesh, {"rows": rows}, 8)["rows"]
    np.testing.assert_array_equal(gathered, rows)


def test_rows_that_do_not_divide():
    with pytest.raises(sharding.MeshError, match="batch_size: 6 rows .* over 4 parts"):
        sharding.local_rows(sharding.make_mesh((2, 2, 2)), 6)


def test_constrain_does_nothing_without_a_mesh():
    x = jnp.ones((8, 4))
    assert sharding.constrain(x, sharding.BATCH, "tensor") is x


def test_constrain_pins_the_layout_on_a_mesh():
    with jax.set_mesh(sharding.make_mesh((2, 2, 2))):
        x = jax.jit(lambda: sharding.constrain(jnp.ones((8, 3, 4)), sharding.BATCH, "tensor",
                                               "tensor"))()
    assert x.sharding.shard_shape(x.shape) == (2, 3, 2)


# A large epsilon: Adam would blow up the last bits of gradients that are nearly zero.
OPTIMIZER = OptimizerSettings(
    learning_rate=0.02, schedule="constant", warmup="above_zero", warmup_steps=0, total_steps=9,
    beta1=0.9, beta2=0.95, epsilon=1e-2, weight_decay=0.1, clip_norm=1.0)
TRAINABLE = (*base.LOCALISATION, *base.VERDICT_ONLY)
WEIGHTS = {"ce": 1.0, "bce": 0.4, "dice": 0.2, "verdict": 0.7}
CLS_ID = 91
SEGS = [[8, 11], [], [7, 9, 10], [9], [], [6, 12], [5], [10]]


@pytest.fixture(scope="module")
def updates(config):
    """As of `updates_of`, of LEGION."""
    config = dataclasses.replace(config, lora=dataclasses.replace(config.lora, dropout=0.2))
    return updates_of(config, TRAINABLE, Objective(WEIGHTS, READING), [
        random_batch(config, SEGS, seed=seed) for seed in range(3)])


def updates_of(config, trainable, objective, batches):
    """`mesh, parts -> (metrics of an update per batch, final state, size of the step's cache)`."""
    graph, params, frozen = param_tree.split_params(
        randomized(param_tree.abstract_model(config)), trainable)
    optimizer, rate = optim.make(OPTIMIZER), optim.schedule(OPTIMIZER)

    def run(state, frozen, batches, *, parts, **options):
        step = make_step(graph, optimizer, rate, objective=objective, accumulation=parts)
        jitted = jax.jit(step, compiler_options=QUICK_COMPILE, **options)
        metrics = []
        for batch in batches:
            state, values = jitted(state, frozen, batch)
            metrics.append(jax.device_get(values))
        return metrics, state, jitted._cache_size()

    @functools.cache
    def on(shape, parts=1):
        if shape is None:
            return run(init_state(params, optimizer), frozen, batches, parts=parts)
        mesh = sharding.make_mesh(shape)
        with jax.set_mesh(mesh):
            _, abstract, abstract_frozen = abstract_state(
                config, optimizer, mesh, trainable=trainable, frozen_dtype="float32")
            layout = jax.tree.map(lambda x: x.sharding, abstract)
            state = jax.device_put(init_state(params, optimizer), layout)
            placed = jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), frozen,
                                  abstract_frozen)
            return run(state, placed, jax.device_put(batches, sharding.batch_sharding(mesh)),
                       parts=parts, out_shardings=(layout, None))

    return on


def test_one_device_compiles_once(updates):
    assert updates(None)[2] == 1


# One mesh divides parameters and sequences; each of the others takes as long again.
@pytest.mark.parametrize("mesh", [
    (1, 2, 2, 2), *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in (
        (2, 2, 2), (1, 8, 1), (1, 1, 8), (8, 1, 1), (1, 2, 1, 4)))])
def test_updates_on_a_mesh_are_those_of_one_device(updates, mesh):
    assert_same(updates(mesh), updates(None))


def assert_same(on_mesh, alone):
    (metrics, state, compiled), (expected_metrics, expected, _) = on_mesh, alone
    assert compiled == 1
    for values, wanted in zip(metrics, expected_metrics, strict=True):
        for name in wanted:
            np.testing.assert_allclose(values[name], wanted[name], rtol=1e-5, err_msg=name)
    ours, wanted = (param_tree.flatten(jax.device_get(s.params)) for s in (state, expected))
    assert ours.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_allclose(ours[path], value, atol=1e-5 * np.abs(value).max(),
                                   err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["fakevlm", "sida"])
def test_updates_of_the_relatives_on_a_mesh_in_two_parts_are_those_of_one_device(config, system):
    """Soft masks, a row without [CLS] and one without a label among them."""
    config, weights = getattr(relatives, system)(config), WEIGHTS
    batches = [random_batch(config, SEGS, slots=1, seed=seed) for seed in range(3)]
    for number, batch in enumerate(batches):
        rows, slots, side, _ = batch["masks"].shape
        batch["masks"] = np.random.default_rng(number).integers(0, 256, (rows, slots, side, side),
                                                                np.uint8)
        batch["ids"][number != np.arange(rows), 6] = CLS_ID
    if system == "fakevlm":
        weights = dict.fromkeys(WEIGHTS, 0.0) | {"ce": 1.0}
    reading = dataclasses.replace(READING, watched=READING.watched | {"[CLS]": CLS_ID})
    on = updates_of(config, param_tree.EVERYTHING, Objective(weights, reading), batches)
    assert_same(on((1, 2, 2, 2), 2), on(None))


def test_state_stays_split_over_the_mesh(updates):
    _, state, _ = updates((1, 2, 2, 2))
    for leaf in (state.params["language"]["head"]["kernel"],
                 optax.tree_utils.tree_get(state.optimizer, "mu")["language"]["head"]["kernel"]):
        assert leaf.shape == (48, 128) and leaf.sharding.shard_shape(leaf.shape) == (24, 64)
