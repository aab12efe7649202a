"""A training run's folder without any parameter."""

import pytest

from legion_jax.weights import legion_json


@pytest.fixture
def run(config, tmp_path):
    """A training run with two finished checkpoints, 3 and 7, as far as calibration looks at it."""
    legion_json.write_meta(tmp_path, config, base=None)
    for step in (3, 7):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    return tmp_path
