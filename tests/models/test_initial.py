"""legion_jax/models/initial.py: what training from scratch begins with."""

import jax
import numpy as np
import pytest

from legion_jax import sharding
from legion_jax.config import LoraConfig, tiny
from legion_jax.models import initial, param_tree
from legion_jax.models.initial import kaiming_uniform, lecun, normal

CONFIG = tiny(lora=LoraConfig(rank=4))
WANTED = {"a": ((3000, 8), normal(0.5)), "b": ((7,), normal(2.0)), "c": ((40, 90), lecun(40)),
          "d/e": ((2, 64, 64), kaiming_uniform(64))}


def draw(wanted, seed=0):
    return jax.tree.map(np.asarray, jax.jit(lambda key: initial.draw(wanted, key))(
        jax.random.key(seed)))


@pytest.fixture(scope="module")
def params():
    new = jax.jit(lambda key: param_tree.new_params(CONFIG, key))
    return jax.tree.map(np.asarray, new(jax.random.key(0)))


def test_every_parameter_is_random_or_begins_as_published(params):
    constant = {path for path, values in params.items() if len(np.unique(values)) == 1}
    assert {path.rsplit("/", 1)[-1] for path in constant} == {
        "bias", "scale", "lora_b", "relative_rows", "relative_columns"}
    for path in constant:
        assert params[path].flat[0] == path.endswith("scale"), path
    assert {path: (x.shape, x.dtype) for path, x in params.items()} == {
        path: (x.shape, np.float32) for path, x in param_tree.abstract_params(CONFIG).items()}


def test_kernels_keep_the_variance_of_what_they_are_given(params):
    for path, kernel in params.items():
        if path.endswith("kernel") and kernel.size > 3000:
            assert kernel.std() == pytest.approx(kernel.shape[-2] ** -0.5, rel=0.05), path
    assert params["language/embed/embedding"].std() == pytest.approx(0.02, rel=0.05)
    bound = np.abs(params["language/layers/query/lora_a"]).max()
    assert 0.9 < bound * CONFIG.language.width ** 0.5 <= 1


def test_distributions():
    drawn = draw(WANTED)
    assert drawn["a"].std() == pytest.approx(0.5, rel=0.02) and np.abs(drawn["a"]).max() > 1.5
    limit = 2 * 40 ** -0.5 / initial.TRUNCATED_STD
    assert 0.95 * limit < np.abs(drawn["c"]).max() <= limit
    assert drawn["d/e"].std() == pytest.approx(64 ** -0.5 / 3 ** 0.5, rel=0.02)
    for path, values in drawn.items():
        assert len(np.unique(values)) > 0.99 * values.size  # no block is drawn twice
        assert abs(values.mean()) < 4 * values.std() / values.size ** 0.5, path


def test_what_a_parameter_gets_depends_on_key_and_path_alone(monkeypatch):
    drawn = draw(WANTED)
    for path in WANTED:
        alone = draw({path: WANTED[path]})
        np.testing.assert_array_equal(alone[path], drawn[path])
    assert not np.array_equal(draw({"b": WANTED["b"]}, seed=1)["b"], drawn["b"])
    renamed = draw({"another": WANTED["b"]})["another"]
    assert not np.array_equal(renamed, drawn["b"])
    monkeypatch.setattr(initial, "LARGE", 5000)  # "a" and "d/e" are drawn on their own
    apart = draw(WANTED)
    assert [np.array_equal(apart[path], drawn[path]) for path in WANTED] == [0, 1, 1, 0]
    assert apart["a"].std() == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("large", [
    pytest.param(initial.LARGE, marks=pytest.mark.slow), 50_000])
def test_a_mesh_draws_the_same(large, monkeypatch):
    def new(key):
        return param_tree.new_params(CONFIG, key)

    monkeypatch.setattr(initial, "LARGE", large)
    expected = jax.jit(new)(jax.random.key(0))
    mesh = sharding.make_mesh((2, 2, 2))
    layout = {path: x.sharding for path, x in param_tree.flatten(sharding.shard_abstract(
        param_tree.unflatten(param_tree.abstract_params(CONFIG)), mesh)).items()}
    with jax.set_mesh(mesh):
        ours = jax.jit(new, out_shardings=layout)(jax.random.key(0))
    for path, values in ours.items():
        assert values.sharding == layout[path]
        np.testing.assert_array_equal(values, expected[path], err_msg=path)


def test_draws_share_programs():
    """One for each kind of distribution, not for each parameter."""
    text = jax.jit(lambda key: param_tree.new_params(CONFIG, key)).lower(
        jax.random.key(0)).as_text()
    assert text.count("chlo.erf_inv") == 2  # of normal and truncated normal


def test_a_part_of_the_parameters():
    only = {"verdict/up/kernel", "verdict/up/bias"}
    new = jax.jit(lambda key: param_tree.new_params(CONFIG, key, only))(jax.random.key(0))
    assert new.keys() == only
