"""legion_jax/models/flash_attention.py: the folded bias is the bias, on one device and on eight."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu import flash_attention as pallas

from legion_jax import sharding
from legion_jax.models import attention, flash_attention

SIDE, HEADS, WIDTH = 16, 2, 24


def inputs(batch=2, dtype=jnp.bfloat16):
    keys = jax.random.split(jax.random.key(0), 5)
    T, bias = SIDE * SIDE, (batch, HEADS, SIDE, SIDE, SIDE)
    return (*(jax.random.normal(k, (batch, T, HEADS, WIDTH), dtype) for k in keys[:3]),
            *(jax.random.normal(k, bias, dtype) for k in keys[3:]))


def by_hand(q, k, v, rows, columns):
    """In float64, query by query."""
    q, k, v, rows, columns = (np.asarray(x, np.float64) for x in (q, k, v, rows, columns))
    logits = np.einsum("btnh,bsnh->bnts", q, k) / WIDTH ** 0.5
    B = len(q)
    logits += (rows[..., :, None] + columns[..., None, :]).reshape(B, HEADS, SIDE ** 2, SIDE ** 2)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), v)


def assert_close(ours, wanted):
    np.testing.assert_allclose(np.asarray(ours, np.float64), wanted, rtol=0, atol=0.03)


def test_folded_bias_on_one_device():
    values = inputs()
    with pltpu.force_tpu_interpret_mode():
        attended = jax.jit(flash_attention.grid_on_tpu)(*values)
    assert attended.dtype == jnp.bfloat16
    assert_close(attended, by_hand(*values))
    assert_close(attention.grid_with_bias(*values), by_hand(*values))


def plain(q, k, v, *, segment_ids, causal, sm_scale, block_sizes):
    """What the kernel computes, [B, N, T, H]."""
    logits = jnp.einsum("bnth,bnsh->bnts", q, k).astype(jnp.float32) * sm_scale
    return jnp.einsum("bnts,bnsh->bnth", jax.nn.softmax(logits).astype(v.dtype), v)


@pytest.mark.parametrize("shape", [
    (2, 2, 2), pytest.param((1, 8, 1), marks=pytest.mark.slow)])
def test_every_device_computes_its_part(shape, monkeypatch):
    """Where batch or heads do not divide, each computes all of them."""
    monkeypatch.setattr(pallas, "flash_attention", plain)
    values = inputs(batch=4)
    with jax.set_mesh(sharding.make_mesh(shape)):
        attended = jax.jit(flash_attention.grid_on_tpu)(*values)
    assert_close(attended, by_hand(*values))


def test_gradients_pass_through_the_fold():
    values = inputs(batch=1)

    def total(f, *values):
        return (f(*values).astype(jnp.float32) ** 2).sum()

    with pltpu.force_tpu_interpret_mode():
        gradients = jax.grad(total, argnums=(1, 2, 3, 4, 5))(flash_attention.grid_on_tpu, *values)
    wanted = jax.grad(total, argnums=(1, 2, 3, 4, 5))(attention.grid_with_bias, *values)
    for ours, theirs in zip(gradients, wanted, strict=True):
        ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
        assert np.abs(ours - theirs).max() < 0.03 * np.abs(theirs).max()


def lowered(platform, side, dtype=jnp.bfloat16) -> str:
    """The program of grid attention on side x side positions."""
    shapes = [(1, side * side, HEADS, WIDTH)] * 3 + [(1, HEADS, side, side, side)] * 2
    values = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    traced = jax.jit(attention.grid_attention).trace(*values)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_the_kernel_is_for_tpus_alone():
    assert "tpu_custom_call" in lowered("tpu", 32)  # 1024 positions: long enough
    assert "tpu_custom_call" not in lowered("cpu", 32)


def test_what_is_short_or_exact_needs_no_kernel():
    assert "tpu_custom_call" not in lowered("tpu", 16)
    assert "tpu_custom_call" not in lowered("tpu", 32, jnp.float32)


def test_machines_without_long_sequences_never_import_the_tpus_kernel():
    code = f"import sys, legion_jax.models.legion; print({pallas.__name__!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def causal_inputs(length=256, batch=2):
    q, k, v = (jax.random.normal(key, (batch, length, HEADS, WIDTH), jnp.bfloat16)
               for key in jax.random.split(jax.random.key(1), 3))
    return q, k, v, jnp.arange(length) < jnp.array([length, length - 100])[:batch, None]


def test_causal_kernel_sees_what_the_mask_lets_see():
    *qkv, valid = causal_inputs()
    with pltpu.force_tpu_interpret_mode():
        attended = jax.jit(flash_attention.causal_on_tpu)(*qkv, valid)
    wanted = attention.causal_by_mask(*(x.astype(jnp.float32) for x in qkv), valid)
    used = np.asarray(valid)
    assert_close(np.asarray(attended, np.float32)[used], np.asarray(wanted)[used])


def test_gradients_pass_through_the_causal_kernel():
    *qkv, valid = causal_inputs(batch=1)

    def total(f, *values):
        return (jnp.where(valid[..., None, None], f(*values, valid), 0).astype(jnp.float32)
                ** 2).sum()

    with pltpu.force_tpu_interpret_mode():
        gradients = jax.grad(total, argnums=(1, 2, 3))(flash_attention.causal_on_tpu, *qkv)
    wanted = jax.grad(total, argnums=(1, 2, 3))(attention.causal_by_mask, *qkv)
    for ours, theirs in zip(gradients, wanted, strict=True):
        ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
        assert np.abs(ours - theirs).max() < 0.03 * np.abs(theirs).max()


def plain_causal(q, k, v, *, segment_ids, causal, sm_scale, block_sizes):
    """What the causal kernel computes, [B, N, T, H]."""
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    same = segment_ids.q[:, :, None] == segment_ids.kv[:, None, :]
    place = jnp.arange(q.shape[1])
    mask = (same & (place <= place[:, None]))[:, None] if causal else same[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=sm_scale).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("shape", [
    (2, 2, 2), *(pytest.param(shape, marks=pytest.mark.slow) for shape in (
        (1, 2, 2, 2), (1, 1, 8)))])
def test_every_device_has_its_rows_and_heads(shape, monkeypatch):
    monkeypatch.setattr(pallas, "flash_attention", plain_causal)
    *qkv, valid = causal_inputs()
    with jax.set_mesh(sharding.make_mesh(shape)):
        attended = jax.jit(flash_attention.causal_on_tpu)(*qkv, valid)
    used = np.asarray(valid)
    assert_close(np.asarray(attended, np.float32)[used],
                 np.asarray(attention.causal_by_mask(*qkv, valid), np.float32)[used])


def test_the_causal_kernel_is_for_tpus_alone():
    shapes = [jax.ShapeDtypeStruct((1, 1024, HEADS, 128), jnp.bfloat16)] * 3
    traced = jax.jit(attention.causal_attention).trace(
        *shapes, jax.ShapeDtypeStruct((1, 1024), bool))
    assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "tpu_custom_call" not in traced.lower(lowering_platforms=("cpu",)).as_text()


@pytest.fixture
def cudnn(monkeypatch):
    """An NVIDIA GPU is said to be here; what was asked of its cuDNN is computed by XLA."""
    attend, asked = jax.nn.dot_product_attention, []

    def pretend(q, *args, implementation=None, **options):
        asked.append((implementation, q.shape[-1]))
        return attend(q, *args, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", pretend)
    monkeypatch.setattr(flash_attention, "has_cudnn", lambda width: width <= 256)
    return asked


def test_cudnn_is_for_its_gpus_alone():
    assert not flash_attention.has_cudnn(64)  # on this CPU


@pytest.mark.parametrize("capability, width, has", [
    ("7.5", 64, False), ("8.0", 128, True), ("8.9", 208, False), ("9.0", 208, True),
    ("10.0", 264, False)])
def test_how_wide_heads_may_be(capability, width, has, monkeypatch):
    client = type("Client", (), {"platform_version": "cuda 13000"})
    device = type("Device", (), {"client": client, "compute_capability": capability})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert flash_attention.has_cudnn(width) == has


@pytest.mark.parametrize("length", [1024, 1023])
def test_cudnn_is_told_of_padding(cudnn, length):
    *qkv, valid = causal_inputs(length=length)
    jax.jit(lambda *inputs: attention.causal_attention(*inputs)).trace(*qkv, valid)
    assert cudnn[-1][0] == "cudnn"
    used = np.asarray(valid)
    assert_close(np.asarray(flash_attention.causal_by_cudnn(*qkv, valid), np.float32)[used],
                 np.asarray(attention.causal_by_mask(*qkv, valid), np.float32)[used])


@pytest.mark.parametrize("side, width", [(14, 16 + 28 + 4), (16, 16 + 32)])
def test_cudnn_knows_the_positions_of_a_grid(cudnn, side, width):
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, side * side, 2, 16), jnp.bfloat16)
    rows, columns = jax.random.normal(jax.random.key(1), (2, 2, 2, side, side, side),
                                      jnp.bfloat16)
    jax.jit(lambda *inputs: attention.grid_attention(*inputs)).trace(q, k, v, rows, columns)
    assert cudnn[-1] == ("cudnn", width)
    assert_close(flash_attention.grid_by_cudnn(q, k, v, rows, columns),
                 attention.grid_with_bias(q, k, v, rows, columns))


def test_cudnn_sees_no_padding_of_an_odd_length(cudnn):
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 197, 2, 16), jnp.bfloat16)
    assert_close(flash_attention.full_by_cudnn(q, k, v), jax.nn.dot_product_attention(q, k, v))


@pytest.mark.parametrize("platform, has", [("cuda", True), ("cpu", False), ("tpu", False)])
def test_what_a_machine_with_a_gpu_compiles_for_others_asks_no_cudnn(cudnn, platform, has,
                                                                    monkeypatch):
    monkeypatch.setattr(flash_attention, "_cudnn", lambda q, *_, **__: jax.lax.cbrt(q))
    # JAX keeps what it has traced by shapes, which no other test has.
    q, k, v = jnp.zeros((3, 2, 196, 5, 24), jnp.bfloat16)
    bias = jnp.zeros((2, 5, 14, 14, 14), jnp.bfloat16)
    for attend, more in ((attention.full_attention, ()), (attention.grid_attention, (bias, bias)),
                         (attention.causal_attention, (jnp.ones((2, 196), bool),))):
        traced = jax.jit(lambda *inputs, attend=attend: attend(*inputs)).trace(q, k, v, *more)
        assert ("cbrt" in traced.lower(lowering_platforms=(platform,)).as_text()) == has


def test_short_and_exact_sequences_are_left_to_xla(cudnn):
    for length, dtype, asked in ((100, jnp.bfloat16, False), (1024, jnp.float32, False),
                                 (577, jnp.bfloat16, True)):
        cudnn.clear()
        q, k, v = jnp.zeros((3, 1, length, 2, 16), dtype)
        jax.jit(attention.full_attention).trace(q, k, v)
        assert ("cudnn" in dict(cudnn)) == asked
