"""predict/quantize.py: int8 kernels are near what they were, and everything else is itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from legion_jax.models import param_tree
from legion_jax.predict.quantize import int8_columns, quantize


def test_columns_are_within_half_a_step():
    kernel = np.random.default_rng(0).normal(size=(3, 20, 7)).astype(np.float32)
    kernel[1, :, 2], kernel[0, :, 4] = 0, 1e-30
    values, scale = int8_columns(kernel)
    assert values.dtype == jnp.int8 and scale.shape == (3, 7)
    assert np.abs(np.asarray(values)).max() == 127
    error = np.abs(np.asarray(values, np.float32) * scale[:, None] - kernel)
    assert (error <= 0.5001 * np.asarray(scale)[:, None]).all()
    assert not np.asarray(values[1, :, 2]).any()


def test_the_language_model_alone_is_converted(config, model):
    tree = param_tree.split_params(model, param_tree.EVERYTHING)[1]
    params = param_tree.flatten(tree)
    converted = quantize(dict(params))
    abstract = param_tree.flatten(param_tree.split_params(
        param_tree.abstract_model(config, int8=True), param_tree.EVERYTHING)[1])
    assert {p: (a.shape, a.dtype) for p, a in converted.items()} == {
        p: (a.shape, a.dtype) for p, a in abstract.items()}
    changed = {path for path, a in converted.items() if a.dtype == jnp.int8}
    assert changed == {f"language/layers/{n}/kernel" for n in (
        "query", "key", "value", "out", "gate", "up", "down")} | {"language/head/kernel"}
    assert all(converted[path] is params[path] for path in params.keys() - changed)


def test_states_and_logits_stay_near(config, model):
    graph, params, _ = param_tree.split_params(model, param_tree.EVERYTHING)
    small = param_tree.split_params(param_tree.abstract_model(config, int8=True),
                                    param_tree.EVERYTHING)[0]
    eight = param_tree.merge(small, param_tree.unflatten(quantize(param_tree.flatten(params))))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 9, config.language.width)),
                    jnp.float32)
    valid = jnp.ones((2, 9), bool)
    wanted, ours = (jax.jit(lambda m=m: m.language.logits(m.read(x, valid)))()
                    for m in (model, eight))
    real = slice(0, config.language.vocab)
    relative = jnp.linalg.norm((ours - wanted)[..., real]) / jnp.linalg.norm(wanted[..., real])
    assert 0 < relative < 0.03
    assert dataclasses.asdict(eight.config) == dataclasses.asdict(model.config)
