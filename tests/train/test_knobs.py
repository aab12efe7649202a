"""legion_jax/train/knobs.py: every knob it names is one of experiments/base.py."""

import json

import pytest

from experiments import base
from legion_jax.train import knobs as knobs_lib


def knobs(config: dict, prefix: str = "") -> set[str]:
    return set().union(*(knobs(value, f"{prefix}{name}.") if isinstance(value, dict) else
                         {f"{prefix}{name}"} for name, value in config.items()))


def as_dict(**changes) -> dict:
    config = base.get_config()
    config.update_from_flattened_dict(changes)
    return json.loads(config.to_json())


def test_free_knobs_are_knobs():
    assert knobs(as_dict()) >= knobs_lib.FREE


@pytest.mark.parametrize("changes", [
    {"mesh": (1, 1, 1, -1)}, {"data.workers": 3, "log_every": 1, "log_images_every": 0}])
def test_where_a_run_runs_may_change(changes):
    old, new = knobs_lib.lasting(as_dict()), knobs_lib.lasting(as_dict(**changes))
    assert knobs_lib.differences(old, new) == ""


def test_what_a_run_computes_may_not():
    old, new = as_dict(), as_dict(**{"mesh": (8, 1, 1), "accumulation": 4, "loss.ce": 2.0})
    assert knobs_lib.differences(knobs_lib.lasting(old), knobs_lib.lasting(new)) == (
        "accumulation was 1, now 4; loss.ce was 1.0, now 2.0")
