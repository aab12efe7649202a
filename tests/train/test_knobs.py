"""legion_jax/train/knobs.py: its knobs are those of experiments/base.py; bad values are named."""

import json
import re

import ml_collections
import pytest

from experiments import base, fakevlm_7b, sida_7b_describe, sida_7b_published
from input_pipeline.errors import UserError
from legion_jax.train import knobs, recipes
from legion_jax.train.knobs import ConfigError, RunSettings


def read(**changes) -> RunSettings:
    config = base.get_config()
    config.update_from_flattened_dict(changes)
    return RunSettings.from_config(config, without_data=True)


@pytest.mark.parametrize("recipe", recipes.known())
def test_settings_are_what_a_recipe_says_knob_by_knob(recipe):
    config = recipes.load(recipe).get_config()
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


def test_the_warm_up_of_fakevlm_follows_the_updates():
    config = fakevlm_7b.get_config()
    assert config.optimizer.warmup_steps == 25  # 3 % of 812, rounded up
    config.optimizer.total_steps = 100
    assert RunSettings.from_config(config, without_data=True).optimizer.warmup_steps == 3


def test_the_question_is_the_dialogues_where_none_is_given():
    settings = RunSettings.from_config(sida_7b_describe.get_config(), without_data=True)
    assert settings.data.question.endswith("if it is tampered and answer why.")
    assert read(**{"data.instruction": "Real?"}).data.question == "Real?"
    with pytest.raises(UserError, match="config.data.dialogue: legion, .*, not 'sidda'"):
        assert read(**{"data.dialogue": "sidda"}).data.question


def test_faults_of_sida_change_what_is_trained_and_how_much_it_weighs():
    plain = read()
    assert plain.stored == plain.trainable and plain.loss_weights["bce"] == plain.loss.bce
    assert not plain.is_held("verdict/up/kernel")
    config = sida_7b_published.get_config()
    config.trainable = (r"/lora_[ab]$", r"^(mask_decoder|verdict)/")  # of the second stage
    faulty = RunSettings.from_config(config, without_data=True)
    assert faulty.loss_weights == {"ce": 0.0, "bce": 2.0, "dice": 2.0, "verdict": 1.0}
    trained = [path for path in ("language/layers/norm2/scale", "language/layers/norm1/scale",
                                 "verdict/up/kernel", "fusion/ask/kernel")
               if any(re.search(pattern, path) for pattern in faulty.stored)]
    assert trained == ["language/layers/norm2/scale", "verdict/up/kernel", "fusion/ask/kernel"]
    assert faulty.is_fresh("verdict/up/kernel") and not faulty.is_held("verdict/up/kernel")
    assert faulty.is_held("text_projection/up/bias")
    assert not faulty.is_held("mask_decoder/iou_token")


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
