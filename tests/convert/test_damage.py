"""Damaged checkpoint folders: refused by name, or converted and exported as what they hold.

Every seed runs in a process of its own: a crash of the interpreter fails that seed alone.
"""

import os
import pathlib
import subprocess

import commands
import pytest
from repository import ROOT, SUPPORT

pytest.importorskip("torch")

SEEDS, DAMAGED = 6, 42


def run(*arguments) -> subprocess.CompletedProcess[str]:
    return commands.run_tool("damage_run", *arguments, timeout=300,
                             env=os.environ | {"PYTHONPATH": f"{ROOT}:{SUPPORT}"})


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> pathlib.Path:
    """An undamaged folder for each of `damage_run.CASES`."""
    folder = tmp_path_factory.mktemp("folders")
    done = run(folder, "build")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return folder


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.slow) if seed else seed
                                  for seed in range(SEEDS)])
def test_damage_is_refused_or_does_no_harm(folders, seed):
    done = run(folders, seed, DAMAGED)
    results = [line for line in done.stdout.splitlines() if line.startswith("    -> ")]
    assert done.returncode == 0 and len(results) == DAMAGED, (done.stdout + done.stderr)[-6000:]
    refused = sum(result != "    -> 'done'" for result in results)
    assert 5 < refused < DAMAGED - 5, "the damage is all of a kind"
