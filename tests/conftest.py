"""What all tests share."""

import os
import pathlib

import pytest


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """Folder of one case of reference vectors; tests that need them are skipped without it."""
    default = pathlib.Path(__file__).resolve().parents[1] / ".." / "shared" / "golden" / "A"
    folder = pathlib.Path(os.environ.get("LEGION_GOLDEN", default))
    if not folder.is_dir():
        pytest.skip(
            "golden vectors not found: set LEGION_GOLDEN or place them at ../shared/golden/A"
        )
    return folder
