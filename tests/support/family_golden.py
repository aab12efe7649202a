"""Reference vectors of the other systems of the family, of those who have them."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from repository import SHARED


def folder(name: str) -> pathlib.Path:
    """The case `name`; the test is skipped where it is not at hand."""
    case = SHARED / "golden" / name
    if not case.is_dir():
        pytest.skip(f"the reference vectors are not here: place them at ../shared/golden/{name}")
    return case


def read(case: pathlib.Path, name: str) -> Any:
    """The content of a JSON file of a case."""
    return json.loads((case / name).read_text())


def outputs(case: pathlib.Path) -> np.lib.npyio.NpzFile:
    """What the published code computed."""
    return np.load(case / "outputs.npz")
