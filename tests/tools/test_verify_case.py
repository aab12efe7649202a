"""The golden cases, where they are at hand."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from tools.verify_case import __main__ as verify_case
from tools.verify_case.comparisons import Results


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Where both ways of running the tool find their programs; the second need not compile them."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", folder)
    yield folder
    jax.config.update("jax_compilation_cache_dir", before)


def test_golden_case(golden, compiled):
    results = verify_case.verify(str(golden))
    assert not results.failures, "\n".join(str(row) for row in results.failures)
    assert len(results.rows) > 300


@pytest.mark.slow
def test_golden_training_curve(golden):
    results = verify_case.verify(str(golden), curve=True)
    assert not results.failures, "\n".join(str(row) for row in results.failures)


def test_a_wrong_reference_fails_by_name(golden, compiled, tmp_path):
    case = tmp_path / "case"
    shutil.copytree(golden, case)
    outputs = dict(np.load(case / "outputs.npz"))
    outputs["projector_s16"] = outputs["projector_s16"] + 0.01
    outputs["a_quantity_nobody_checks"] = np.zeros(1)
    np.savez(case / "outputs.npz", **outputs)
    (case / "report.json").unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "tools.verify_case", str(case), "--json", str(tmp_path / "r.json")],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": compiled}, capture_output=True, text=True,
        check=False)
    assert done.returncode == 1
    report = json.loads((tmp_path / "r.json").read_text())
    failed = {row["quantity"] for row in report["quantities"] if not row["passed"]}
    assert failed == {"projector_s16", "a_quantity_nobody_checks (not compared)"}


def test_a_folder_that_is_no_case(tmp_path):
    done = subprocess.run([sys.executable, "-m", "tools.verify_case", str(tmp_path)],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "meta.json: not there" in done.stderr
    assert "Traceback" not in done.stderr


def test_rules_of_comparison():
    results = Results()
    results.equal("equal", [1, 2], [1, 2])
    results.equal("shape", [1, 2], [1, 2, 3])
    results.scaled("scaled", np.array([100.0, 1]), np.array([100.005, 1]))
    results.scaled("small", np.array([0.0]), np.array([2e-4]))
    results.relative("relative", 1.0, 1.0 + 2e-5, 1e-5)
    results.within("nan", np.array([np.nan]), np.array([0.0]), 1.0)
    results.signs("signs", np.array([True] * 9999 + [False]), np.ones(10000, bool))
    results.signs("two in ten thousand", np.arange(10000) > 1, np.ones(10000, bool))
    results.stats("stats", np.array([[1.0, -3.0]]), np.array([[-2, 4, 10, -3, 1]]), axes=1)
    results.stats("wrong stats", np.array([[1.0, -3.0]]), np.array([[-2, 4, 11, -3, 1]]), axes=1)
    assert {row.quantity for row in results.failures} == {
        "shape", "small", "relative", "nan", "two in ten thousand", "wrong stats"}
    assert json.dumps(results.as_json(), allow_nan=False)
