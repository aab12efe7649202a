"""Names and grids of sweeps; every sweep of experiments/sweeps makes configs that train."""

import dataclasses
import functools

import pytest
from repository import ROOT

from legion_jax.config import LoraConfig, legion_7b, tiny
from legion_jax.models import param_tree
from legion_jax.train.sweep_plan import grid, run_name
from tools.sweep import runs


def test_names_say_what_a_run_changes():
    assert run_name({"model.lora_rank": 4, "loss.bce": 0.4}) == "lora_rank=4,bce=0.4"
    assert run_name({"data.batch_size": 1, "eval.batch_size": 2}) == (
        "data.batch_size=1,eval.batch_size=2")
    assert run_name({"trainable": ("/lora_[ab]$", "^head/"), "data.features": ""}) == (
        "trainable=lora_-ab+head,features=none")
    assert run_name({}) == "base"
    assert grid({"a": (1, 2), "b": "xy".split()}) == [
        {"a": 1, "b": "xy"}, {"a": 2, "b": "xy"}]


@functools.cache
def abstract(size, has_lora):
    model = tiny() if size else legion_7b()
    return param_tree.abstract_model(dataclasses.replace(model, lora=LoraConfig(int(has_lora))))


@pytest.mark.parametrize("size", ["", "tiny"])
@pytest.mark.parametrize("name", [
    "lora_rank", "loss_weights", "trainable_modules", "sam_resolution", "mask_slots"])
def test_every_sweep_here_makes_configs_that_train(name, size, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = runs.read_sweep(f"experiments/sweeps/{name}.py:{size}")
    for run in runs.make_runs(sweep, tmp_path, [] if size else ["data.data_dir=data"]):
        param_tree.split_params(  # raises when a pattern matches nothing
            abstract(size, run.settings.model.lora_rank > 0), run.settings.trainable)
