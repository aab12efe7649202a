"""legion_jax/train/optim.py: schedules by value, AdamW and clipping against PyTorch."""

import family_golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from legion_jax.train import optim
from legion_jax.train.knobs import OptimizerSettings


def settings(**changes) -> OptimizerSettings:
    return OptimizerSettings(**dict(
        learning_rate=8.0, schedule="linear", warmup="above_zero", warmup_steps=4, total_steps=12,
        beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.0, clip_norm=1.0) | changes)


WARMUP = [2, 4, 6, 8]  # the first update already has a rate


@pytest.mark.parametrize("kind, after", [
    ("linear", [8, 7, 6, 5, 4, 3, 2, 1, 0, 0]),
    ("constant", [8] * 10),
    ("cosine", [4 * (1 + np.cos(np.pi * t / 8)) for t in range(8)] + [0, 0]),
])
def test_schedule(kind, after):
    rate = jax.jit(optim.schedule(settings(schedule=kind)))
    np.testing.assert_allclose([rate(t) for t in range(14)], WARMUP + after, rtol=1e-6, atol=1e-6)


def test_schedule_without_warmup():
    rate = optim.schedule(settings(warmup_steps=0, total_steps=4))
    np.testing.assert_allclose(rate(jnp.arange(5)), [8, 6, 4, 2, 0])


def test_published_schedule():
    """Peak at update 99; the last of the 703 updates that were run has 70 % of it."""
    rate = optim.schedule(settings(learning_rate=1e-4, warmup_steps=100, total_steps=2109))
    np.testing.assert_allclose(rate(jnp.array([0, 49, 99, 702])),
                               [1e-6, 5e-5, 1e-4, 1e-4 * (2109 - 702) / 2009], rtol=1e-6)


def test_the_end_of_a_cosine_keeps_its_digits():
    rate = jax.jit(optim.schedule(settings(schedule="cosine", warmup_steps=0, total_steps=4000)))
    steps = np.array([3990, 3998, 3999])
    np.testing.assert_allclose(rate(steps), 4 * (1 + np.cos(np.pi * steps / 4000)), rtol=1e-6)


@pytest.mark.parametrize("warmup, rates", [
    ("from_zero", [0, 2, 4, 6, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
    ("peak_first", [8, 0, 2, 4, 6, 8, 7, 6, 5, 4, 3, 2, 1])])
def test_other_warmups(warmup, rates):
    rate = jax.jit(optim.schedule(settings(warmup=warmup)))
    np.testing.assert_allclose([rate(t) for t in range(13)], rates, rtol=1e-6)
    none = optim.schedule(settings(warmup=warmup, warmup_steps=0, total_steps=4))
    begin = [8] * (warmup == "peak_first")
    np.testing.assert_allclose(none(jnp.arange(5)), [*begin, 8, 6, 4, 2, 0][:5])


@pytest.mark.parametrize("case, schedule, warmup, steps, total", [
    ("F", "cosine", "from_zero", 2, 40), ("S", "linear", "peak_first", 100, 5000)])
def test_golden_schedules(case, schedule, warmup, steps, total):
    """FakeVLM's and SIDA's; of the second only a part of the warm-up."""
    rates = family_golden.outputs(family_golden.folder(case))["curve_lr"]
    peak = rates.max()
    rate = optim.schedule(settings(learning_rate=peak, schedule=schedule, warmup=warmup,
                                   warmup_steps=steps, total_steps=total))
    np.testing.assert_allclose(rate(jnp.arange(len(rates))), rates, rtol=1e-6, atol=1e-7 * peak)


@pytest.mark.parametrize("changes, message", [
    (dict(schedule="step"), "optimizer.schedule: linear, cosine or constant, not 'step'"),
    (dict(warmup="sida"), "optimizer.warmup: above_zero, from_zero, peak_first, not 'sida'"),
    (dict(warmup_steps=12), "0 <= warmup_steps < total_steps, got 12 and 12"),
    (dict(warmup_steps=-1), "got -1 and 12"),
    (dict(warmup_steps=0, total_steps=0), "got 0 and 0"),
])
def test_impossible_schedules(changes, message):
    with pytest.raises(ValueError, match=message):
        optim.schedule(settings(**changes))
    with pytest.raises(ValueError, match=message):
        optim.make(settings(**changes))


SHAPES = {"a": {"kernel": (3, 4), "bias": (4,)}, "norm": {"scale": (4,)},
          "b": {"lora_a": (3, 2), "lora_b": (2, 4)}, "embed": {"embedding": (5, 3)}}


def trees(seed: int, size: float = 1.0) -> dict:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda shape: jnp.asarray(size * rng.normal(size=shape), jnp.float32),
                        SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def decays(path) -> bool:
    return path[-1].key in ("kernel", "lora_a", "lora_b")


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("epsilon", [1e-8, 0.1])
def test_five_updates_are_those_of_torch(weight_decay, epsilon):
    """Gradients above and below the clipping norm; decay on matrices only."""
    config = settings(learning_rate=0.05, weight_decay=weight_decay, epsilon=epsilon,
                      clip_norm=2.0)
    params, optimizer = trees(0), optim.make(config)
    state = optimizer.init(params)
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    theirs = [torch.nn.Parameter(torch.from_numpy(np.array(x))) for _, x in leaves]
    groups = [dict(params=[p for p, (path, _) in zip(theirs, leaves, strict=True)
                           if decays(path) == decayed], weight_decay=weight_decay * decayed)
              for decayed in (False, True)]
    reference = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=epsilon)
    rate, update = optim.schedule(config), jax.jit(optimizer.update)
    for t, size in enumerate((3.0, 0.01, 1.0, 0.1, 5.0)):
        gradients = trees(t + 1, size)
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        for parameter, gradient in zip(theirs, jax.tree.leaves(gradients), strict=True):
            parameter.grad = torch.from_numpy(np.array(gradient))
        torch.nn.utils.clip_grad_norm_(theirs, 2.0)
        for group in reference.param_groups:
            group["lr"] = float(rate(t))
        reference.step()
        for ours, expected in zip(jax.tree.leaves(params), theirs, strict=True):
            np.testing.assert_allclose(ours, expected.detach(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.0, 0.0)])
def test_updates_by_one_gradient_are_as_long_as_the_rate(betas):
    """Bias corrections in float32 would make the first ones of beta2 0.999 too long by 6e-6."""
    optimizer = optim.make(settings(learning_rate=0.5, schedule="constant", warmup_steps=0,
                                    beta1=betas[0], beta2=betas[1], epsilon=0.0, clip_norm=1e9))
    params = {"x": jnp.zeros(3)}
    state = optimizer.init(params)
    for _ in range(5):
        updates, state = optimizer.update({"x": jnp.array([1e-3, 1.0, -4.0])}, state, params)
        np.testing.assert_allclose(updates["x"], [-0.5, -0.5, 0.5], rtol=1e-6)


def test_decay_alone_shrinks_matrices_only():
    optimizer = optim.make(settings(learning_rate=0.5, schedule="constant", warmup_steps=0,
                                    weight_decay=0.1))
    params = trees(0)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params),
                                  params)
    expected = jax.tree_util.tree_map_with_path(
        lambda path, x: -0.05 * x if decays(path) else 0 * x, params)
    for ours, wanted in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-6)
