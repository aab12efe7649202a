"""Damaged checkpoint folders: refused by name, or converted and exported as what they hold.

Every seed runs in a process of its own: a crash of the interpreter fails that seed alone.
"""

import os
import pathlib
import subprocess
import sys

import pytest
from repository import ROOT, SUPPORT

SEEDS, DAMAGED = 6, 42
RUN = SUPPORT / "damage_run.py"


def run(*arguments) -> subprocess.CompletedProcess:
    # A script's own folder is on its path, and the packages installed; `tools` is neither.
    return subprocess.run([sys.executable, RUN, *map(str, arguments)], cwd=ROOT,
                          env=os.environ | {"PYTHONPATH": str(ROOT)},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
                          encoding="utf-8", errors="replace")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> pathlib.Path:
    """An undamaged folder for each of `damage_run.CASES`."""
    folder = tmp_path_factory.mktemp("folders")
    done = run(folder, "build")
    assert done.returncode == 0, done.stdout[-3000:]
    return folder


@pytest.mark.parametrize("seed", range(SEEDS))
def test_damage_is_refused_or_does_no_harm(folders, seed):
    done = run(folders, seed, DAMAGED)
    results = [line for line in done.stdout.splitlines() if line.startswith("    -> ")]
    assert done.returncode == 0 and len(results) == DAMAGED, done.stdout[-6000:]
    refused = sum(result != "    -> 'done'" for result in results)
    assert 5 < refused < DAMAGED - 5, "the damage is all of a kind"
