"""legion_jax/train/knobs.py: its knobs are those of experiments/base.py; bad values are named."""

import json

import ml_collections
import pytest

from experiments import base, detect_tiny, pretrain_7b, tiny
from legion_jax.train import knobs
from legion_jax.train.knobs import ConfigError, RunSettings


def read(**changes) -> RunSettings:
    config = base.get_config()
    config.update_from_flattened_dict(changes)
    return RunSettings.from_config(config, without_data=True)


@pytest.mark.parametrize("recipe", [base, tiny, detect_tiny, pretrain_7b])
def test_settings_are_what_a_recipe_says_knob_by_knob(recipe):
    config = recipe.get_config()
    settings = RunSettings.from_config(config, without_data=True)
    assert json.dumps(settings.as_dict()) == config.to_json()  # the order is that of config.json
    hash(settings)


def flat(config: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
    return [knob for name, value in config.items() for knob in (
        flat(value, f"{prefix}{name}.") if isinstance(value, ml_collections.ConfigDict)
        else [prefix + name])]


def test_the_knobs_are_exactly_those_of_the_base_recipe():
    assert sorted(knobs.names()) == sorted(flat(base.get_config()))


def test_missing_and_unknown_knobs_are_named():
    config = base.get_config()
    with config.unlocked():
        del config.loss.ce
    with pytest.raises(ConfigError, match="config.loss.ce: this knob is missing; see experiments"):
        RunSettings.from_config(config)
    with config.unlocked():
        config.loss.ce, config.loss.ec = 1.0, 1.0
    with pytest.raises(ConfigError, match="config.loss.ec: no such knob; see experiments/base.py"):
        RunSettings.from_config(config)
    with config.unlocked(), config.ignore_type():
        config.loss = 1.0
    with pytest.raises(ConfigError, match="config.loss: a group of knobs, not 1.0"):
        RunSettings.from_config(config)


@pytest.mark.parametrize("knob, value, message", [
    ("seed", "x", "a whole number, not 'x'"), ("seed", True, "a whole number, not True"),
    ("seed", 1.5, "a whole number, not 1.5"), ("stop_above", None, "a number, not None"),
    ("compile_cache", 1, "True or False, not 1"),
    ("trainable", "^head/", "a tuple, not '.head/'"), ("trainable", (1,), "a text, not 1"),
    ("mesh", (1, "x", 1), "a whole number, not 'x'"), ("init_from", 3, "a text, not 3")])
def test_values_of_another_kind_are_named(knob, value, message):
    config = base.get_config().copy_and_resolve_references()
    with config.ignore_type(), config.unlocked():
        config[knob] = value
    with pytest.raises(ConfigError, match=f"config.{knob}: {message}"):
        RunSettings.from_config(config)


def test_numbers_and_lists_become_what_the_knob_is():
    config = base.get_config()
    with config.ignore_type(), config.unlocked():
        config.stop_above, config.trainable, config.data.text_buckets = 3, ["a", "b"], [100, 200]
    settings = RunSettings.from_config(config, without_data=True)
    assert isinstance(settings.stop_above, float) and settings.trainable == ("a", "b")
    assert settings.data.text_buckets == (100, 200)


@pytest.mark.parametrize("changes, message", [
    ({"seed": -1}, "config.seed: at least 0, got -1"),
    ({"data.buffer": 0}, "config.data.buffer: at least 1, got 0"),
    ({"optimizer.clip_norm": 0.0}, "config.optimizer.clip_norm: above 0, got 0"),
    ({"model.lora_dropout": 1.0}, "config.model.lora_dropout: 0 to below 1, got 1"),
    ({"frozen_dtype": "int7"}, "config.frozen_dtype: float32 or bfloat16, not 'int7'"),
    (dict.fromkeys(("loss.ce", "loss.bce", "loss.dice", "loss.verdict"), 0.0),
     "config.loss: every weight is 0")])
def test_values_no_run_could_use(changes, message):
    with pytest.raises(ConfigError, match=message):
        read(**changes)


def test_a_run_needs_data_and_a_batch_that_divides():
    with pytest.raises(ConfigError, match="config.data.data_dir: name the folder"):
        RunSettings.from_config(base.get_config())
    config = base.get_config()
    config.data.mixture = (("a", "train", 1.0),)
    RunSettings.from_config(config).check_batch(16)
    with pytest.raises(ConfigError, match="batch_size: 16 rows do not divide into accumulation 2 "
                                          "x 16 devices"):
        read(accumulation=2).check_batch(16)


def test_free_knobs_are_knobs():
    assert set(knobs.names()) >= knobs.FREE


@pytest.mark.parametrize("changes", [
    {"mesh": (1, 1, 1, -1)}, {"data.workers": 3, "log_every": 1, "log_images_every": 0}])
def test_where_a_run_runs_may_change(changes):
    old, new = knobs.lasting(read().as_dict()), knobs.lasting(read(**changes).as_dict())
    assert knobs.differences(old, new) == ""


def test_what_a_run_computes_may_not():
    old = read().as_dict()
    new = read(**{"mesh": (8, 1, 1), "accumulation": 4, "loss.ce": 2.0}).as_dict()
    assert knobs.differences(knobs.lasting(old), knobs.lasting(new)) == (
        "accumulation was 1, now 4; loss.ce was 1.0, now 2.0")
