"""The golden cases: the slim one of every clone, and the full one where it is at hand."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from commands import run_tool
from repository import SLIM_GOLDEN

from input_pipeline.errors import UserError
from tools.verify_case import __main__ as verify_case, slim, systems
from tools.verify_case.comparisons import Results, Stored
from tools.verify_case.legion.legion_case import open_case
from tools.verify_case.legion.legion_forward import check_sight


def test_the_slim_case(torch_files):
    results = verify_case.verify(str(SLIM_GOLDEN))
    assert not results.failures, "\n".join(str(row) for row in results.failures)
    assert len(results.rows) > 450
    assert set(results.left_out) == {*slim.LEFT_OUT_ARRAYS, "train_sam_resized_0.png",
                                     "train_sam_resized_1.png"}


@pytest.mark.slow
def test_the_full_case_and_its_training_curve(full_golden):
    results = verify_case.verify(str(full_golden), curve=True)
    assert not results.failures, "\n".join(str(row) for row in results.failures)
    assert len(results.rows) > 640 and not results.left_out


def test_a_wrong_reference_fails_by_name(torch_files, slim_golden):
    case = open_case(slim_golden)
    outputs = dict(np.load(slim_golden / "outputs.npz"))
    outputs["projector_s16"] = outputs["projector_s16"] + 0.01
    case = dataclasses.replace(case, reference=Stored(outputs))
    results = Results(case.reference, case.inputs)
    check_sight(case, results)
    assert [row.quantity for row in results.failures] == ["projector_s16"]


def test_what_no_check_reads_is_a_failure(torch_files, slim_golden, monkeypatch):
    unchecked = dataclasses.replace(systems.LEGION, checks=())
    monkeypatch.setattr(verify_case, "system_of", lambda root: unchecked)
    results = verify_case.verify(str(slim_golden))
    names = np.load(slim_golden / "outputs.npz").files
    assert {row.quantity for row in results.failures} == {f"{n} (not compared)" for n in names}


def test_the_report_and_the_exit_code(tmp_path, capsys):
    results = Results(Stored({"a": np.ones(2)}, left_out=["b"]))
    results.equal("a", [1, 1])
    results.equal("b", [1, 1])
    assert verify_case.report("case", results, None) == 0
    results.equal("c", 1, 2)
    assert verify_case.report("case", results, str(tmp_path / "r.json")) == 1
    shown = capsys.readouterr().out
    assert "1 of 2 quantities pass" in shown and "1 are left out of this slim case: b" in shown
    written = json.loads((tmp_path / "r.json").read_text())
    assert [row["quantity"] for row in written["quantities"] if not row["passed"]] == ["c"]
    assert written["left_out"] == ["b"] and not written["passed"]


def test_an_array_that_is_missing_without_a_word_is_an_error():
    with pytest.raises(UserError, match="a: the case has no such array"):
        Results(Stored({}, left_out=["b"])).equal("a", 1)


def test_what_a_slim_case_says_it_has_must_be_there(slim_golden, tmp_path):
    shutil.copytree(slim_golden, tmp_path / "case")
    outputs = dict(np.load(tmp_path / "case" / "outputs.npz"))
    del outputs["cls_logits"]
    np.savez(tmp_path / "case" / "outputs.npz", **outputs)
    with pytest.raises(slim.SlimError, match="says that cls_logits was kept"):
        slim.left_out(tmp_path / "case")
    (tmp_path / "case" / "outputs.npz").write_bytes((slim_golden / "outputs.npz").read_bytes())
    assert slim.left_out(tmp_path / "case")["outputs.npz"]
    (tmp_path / "case" / "clip" / "config.json").unlink()
    with pytest.raises(slim.SlimError, match="clip/config.json was kept"):
        slim.left_out(tmp_path / "case")


@pytest.mark.slow
def test_a_slim_case_leaves_out_and_changes_nothing(full_golden, slim_golden, tmp_path):
    slim.write(full_golden, tmp_path / slim.ARCHIVE)
    with slim.unpacked(tmp_path) as again:
        for path in (p for p in slim_golden.rglob("*") if p.is_file()):
            assert path.read_bytes() == (again / path.relative_to(slim_golden)).read_bytes()
    for name in slim.ARRAYS:
        full, kept = np.load(full_golden / name), np.load(slim_golden / name)
        assert set(full) == {*kept, *slim.left_out(slim_golden)[name]}
        for key in kept:
            np.testing.assert_array_equal(kept[key], full[key])
            assert kept[key].dtype == full[key].dtype


def test_a_folder_that_is_no_case(tmp_path):
    done = run_tool("tools.verify_case", tmp_path)
    assert done.returncode == 1 and "meta.json: not there" in done.stderr
    assert "Traceback" not in done.stderr


def test_rules_of_comparison():
    results = Results()
    results.equal("equal", [1, 2], [1, 2])
    results.equal("shape", [1, 2], [1, 2, 3])
    results.scaled("scaled", np.array([100.0, 1]), np.array([100.005, 1]))
    results.scaled("small", np.array([0.0]), np.array([2e-4]))
    results.relative("relative", 1.0, 1.0 + 2e-5, tolerance=1e-5)
    results.within("nan", np.array([np.nan]), np.array([0.0]), tolerance=1.0)
    results.signs("signs", np.array([True] * 9999 + [False]), np.ones(10000, bool))
    results.signs("two in ten thousand", np.arange(10000) > 1, np.ones(10000, bool))
    results.stats("stats", np.array([[1.0, -3.0]]), np.array([[-2, 4, 10, -3, 1]]), axes=1)
    results.stats("wrong stats", np.array([[1.0, -3.0]]), np.array([[-2, 4, 11, -3, 1]]), axes=1)
    assert {row.quantity for row in results.failures} == {
        "shape", "small", "relative", "nan", "two in ten thousand", "wrong stats"}
    assert json.dumps(results.as_json(), allow_nan=False)


def test_a_gpu_that_is_not_there_is_said_so(tmp_path):
    done = run_tool("tools.verify_case", tmp_path, "--device=gpu")
    assert done.returncode == 1
    assert "--device=gpu: JAX finds no GPU here, only cpu" in done.stderr
