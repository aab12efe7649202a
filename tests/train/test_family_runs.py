"""Runs of FakeVLM and SIDA on eight devices: compiled once, gone on with, and on two hosts."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
import relatives
import several_hosts
import stored_params
from watched_runs import watch

from input_pipeline.batches.examples import ExampleSpec, text_length
from input_pipeline.photos.views import CropView
from input_pipeline.records import prepared
from legion_jax.config import LoraConfig, from_dict, to_dict
from legion_jax.models import param_tree
from legion_jax.train import recipes
from legion_jax.train.knobs import RunSettings
from legion_jax.weights.checkpoint import Checkpoint

STEPS = 6
MODELS = {"tiny_fakevlm": relatives.fakevlm, "tiny_sida": relatives.sida}
LENGTH = 260  # ids of the longest texts


def make_config(root, recipe):
    config = recipes.load(recipe).get_config()
    config.data.data_dir, config.data.tokenizer = str(root / "data"), str(root / "tokenizer")
    config.data.text_length, config.data.text_buckets = LENGTH, (middle_length(config),)
    config.data.mask_canvas, config.batch_size, config.mesh = 64, 8, (2, 2, 2)
    config.compile_cache, config.log_every, config.checkpoint_every = False, 3, 2
    config.log_images_every = 5 * bool(config.log_images_every)
    config.optimizer.total_steps, config.optimizer.warmup_steps = STEPS, 2
    return config


def middle_length(config) -> int:
    """The length of a text, than which half of them are longer."""
    data = RunSettings.from_config(config).data
    spec = ExampleSpec(CropView(28), None, LENGTH, 1, 8, data.question, data.spoken)
    tokenizer, source = spec.dialogue.open_tokenizer(data.tokenizer), prepared.open_split(
        data.data_dir, "train")
    return sorted(text_length(source[i], tokenizer, spec) for i in range(len(source)))[12]


def small(config, recipe):
    """A model that compiles in seconds, in place of the recipe's."""
    def model(_, vocab):
        return MODELS[recipe](dataclasses.replace(
            config, lora=LoraConfig(rank=0), language=dataclasses.replace(
                config.language, vocab=vocab, max_positions=512)))
    return model


def lines(workdir) -> list[dict]:
    return [json.loads(line) for line in (pathlib.Path(workdir) / "metrics.jsonl").open()]


# The gate has the updates of SIDA in test_family_losses.
@pytest.fixture(scope="module", params=[
    "tiny_fakevlm", pytest.param("tiny_sida", marks=pytest.mark.slow)])
def run(request, config, tmp_path_factory):
    """(root, recipe, watched run) of each."""
    root, recipe = tmp_path_factory.mktemp(request.param), request.param
    relatives.make_data(root, recipe, train=24, test=4)
    return root, recipe, watch(make_config(root, recipe), root / "run", small(config, recipe))


def test_a_run_learns_from_every_row_and_compiles_once(run):
    _, recipe, watched = run
    rows = lines(watched.workdir)
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert set(watched.lengths) == {LENGTH, middle_length(watched.config)} and watched.programs == 2
    assert set(watched.compiled) <= watched.allowed(0), dict(watched.compiled)
    assert rows[0]["learning_rate"] == 0 < rows[1]["learning_rate"] < rows[2]["learning_rate"]
    for row in rows:
        assert np.isfinite(list(row.values())).all()
        assert row["bad"] == row["dropped"] == 0 < row["ce"]
        if recipe == "tiny_sida":
            assert row["unjudged"] == 0 < row["verdict"]
            assert bool(row["masks"]) == bool(row["bce"]) == bool(row["dice"])
        else:
            assert row["masks"] == row["bce"] == row["dice"] == row["verdict"] == 0
    if recipe == "tiny_sida":
        assert any(row["masks"] for row in rows)


def test_a_run_that_lost_its_last_updates_makes_them_again(run, config):
    root, recipe, watched = run
    before = lines(watched.workdir)
    for folder in (watched.workdir / "checkpoints").iterdir():
        if folder.name == str(STEPS):
            folder.rename(root / "away")
    again = watch(watched.config, watched.workdir, small(config, recipe))
    assert len(again.lengths) == 2 and lines(watched.workdir) == before


def train_as_one_of_two(root, recipe, workdir, architecture):
    """Four devices of the same mesh; returns nothing that matters."""
    config = from_dict(architecture)
    watch(make_config(pathlib.Path(root), recipe), pathlib.Path(workdir), small(config, recipe))
    return jax.process_index()


@pytest.mark.slow
def test_two_hosts_train_as_one_does(run, config, tmp_path):
    root, recipe, watched = run
    assert sorted(several_hosts.run(train_as_one_of_two, str(root), recipe, str(tmp_path / "two"),
                                    json.loads(json.dumps(to_dict(config))))) == [0, 1]
    for ours, wanted in zip(lines(tmp_path / "two"), lines(watched.workdir), strict=True):
        for name, value in wanted.items():
            np.testing.assert_allclose(ours[name], value, rtol=2e-4, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_heads_that_are_drawn_anew_stay_where_they_are_not_trained(run, config):
    """SIDA's second stage, as published: what the first one taught its heads is gone."""
    root, recipe, watched = run
    if recipe != "tiny_sida":
        pytest.skip("has no heads")
    second = make_config(root, recipe)
    second.init_from, second.frozen_dtype = str(watched.workdir), "float32"
    second.trainable = (r"^language/head/", r"^(mask_decoder|verdict)/")
    second.seed, second.compat.fresh_heads, second.optimizer.weight_decay = 5, True, 0.1
    second.checkpoint_every = second.checkpoint_keep_every = 1
    second.optimizer.total_steps, second.optimizer.warmup = 2, "above_zero"
    second.optimizer.warmup_steps = second.log_images_every = 0
    watch(second, root / "second", small(config, recipe))
    abstract = param_tree.abstract_params(Checkpoint.open(root / "second").meta.config)
    first, one, two = (
        Checkpoint.open(folder, step=step).load(stored_params.as_stored(folder, abstract))
        for folder, step in ((watched.workdir, None), (root / "second", 1), (root / "second", 2)))
    for path in abstract:
        drawn = path.startswith(("text_projection/", "verdict/", "fusion/"))
        trained = path.startswith(("language/head/", "mask_decoder/", "verdict/"))
        if not (drawn or trained):
            np.testing.assert_array_equal(one[path], first[path], err_msg=path)
        if drawn and path.endswith("kernel"):
            assert np.abs(one[path] - first[path]).max() > 0.01, path
        if not trained:
            np.testing.assert_array_equal(two[path], one[path], err_msg=path)
    assert np.abs(two["verdict/up/kernel"] - one["verdict/up/kernel"]).max() > 1e-5
