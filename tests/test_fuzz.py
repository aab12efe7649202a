"""Every parser of what strangers hand over, against mutated files, in a process with limits."""

import os

import commands
import fuzz_run
import fuzz_sources
import pytest
from repository import ROOT, SUPPORT

FEW = {"richhf": 4}  # half a second each
TAKEN = ("answer", "photo list")  # any text is one
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}:{SUPPORT}"}


def fuzz(target: str, seed: int, number: int) -> str:
    done = commands.run_tool("fuzz_run", target, seed, number, env=ENVIRONMENT)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


@pytest.mark.parametrize("target", fuzz_run.TARGETS)
def test_mutated_files(target):
    if target == "pickle":
        pytest.importorskip("torch")
    printed = fuzz(target, 0, FEW.get(target, 20 if target in fuzz_sources.TARGETS else 60))
    assert printed.startswith(f"{target}: ") and ("Error" in printed) == (target not in TAKEN)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("target", fuzz_run.TARGETS)
def test_many_mutated_files(target, seed, capsys):
    printed = fuzz(target, seed, 100 if target in FEW else 1500)
    with capsys.disabled():
        print(printed, end="")
