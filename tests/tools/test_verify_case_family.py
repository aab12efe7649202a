"""The golden cases of FakeVLM and SIDA, of those who have them, and rules that only they need."""

import dataclasses
import json
import re

import family_golden
import numpy as np
import pytest
from commands import run_tool

from tools.verify_case import __main__ as verify_case, slim
from tools.verify_case.comparisons import Results, Stored
from tools.verify_case.sida.sida_inputs import remove_repeated_tags, shown
from tools.verify_case.systems import FAKEVLM, SIDA, SYSTEMS, system_of

CASES = {"F": FAKEVLM, "S": SIDA}
OF_INPUTS = re.compile(
    "(input_ids|labels|attention_masks?|offset|positions|rows_cols|per_sample_tokens)$|"
    "^(pixel_values|eval_pixel_values|prep336|pre|full_vocab)_")


def compared(case, system, *names):
    """Results of the checks of inputs with these names, by default of all of them."""
    results = Results(*case.stored, noise=case.noise)
    for check in system.checks:
        if check.__module__.endswith("_inputs") and (not names or check.__name__ in names):
            check(case, results)
    return results


@pytest.fixture(scope="module", params=CASES)
def opened(request):
    """(system, case) of each."""
    folder = family_golden.folder(request.param)
    assert system_of(folder) is CASES[request.param]
    return CASES[request.param], CASES[request.param].open_case(folder)


def test_inputs(opened):
    system, case = opened
    results = compared(case, system)
    assert not results.failures, "\n".join(str(row) for row in results.failures)
    assert len(results.rows) > 150 and not results.left_out
    assert not [name for name in case.reference.unused if OF_INPUTS.search(name)]


@pytest.mark.parametrize("folder, check, array, change", [
    ("F", "check_pixels", "prep336_2_s6", 1e-6), ("F", "check_rows", "train_labels", 1),
    ("F", "check_prompts", "eval_chat_attention_mask", 1),
    ("F", "check_full_vocabulary", "full_vocab_train_input_ids", 1),
    ("S", "check_rows", "stage2_syn_labels", 1), ("S", "check_rows", "twoseg_seg_positions", 1),
    ("S", "check_pixels", "pre_t1_mask_s8", 1e-3), ("S", "check_pixels", "pre_r0_resize", 1)])
def test_a_wrong_reference_fails_by_name(folder, check, array, change):
    root, system = family_golden.folder(folder), CASES[folder]
    outputs = dict(np.load(root / "outputs.npz"))
    outputs[array].flat[-1] += change
    case = dataclasses.replace(system.open_case(root), reference=Stored(outputs))
    assert [row.quantity for row in compared(case, system, check).failures] == [array]


def test_texts_are_compared(opened):
    system, case = opened
    meta = json.loads(json.dumps(case.meta))
    if system is FAKEVLM:
        meta["eval"]["eval_raw"]["response"][1] += "?"
        meta["verdicts"][0]["verdict"] = 0
        wrong = {"eval_raw[1] response", "verdicts[0]"}
    else:
        meta["conversations"]["stage2_tam"][0] += " "
        meta["remove_repeated_tags"][1]["out"] += " "
        meta["images"]["r1"]["resized_uint8_sha256"] = "0" * 64
        wrong = {"stage2_tam conversations", "remove_repeated_tags[1]", "r1 resized_uint8_sha256"}
    results = compared(dataclasses.replace(case, meta=meta), system)
    assert {row.quantity for row in results.failures} == wrong


def test_arrays_of_a_training_run_are_left_to_curve(tmp_path, monkeypatch, capsys):
    root = family_golden.folder("S")
    unchecked = dataclasses.replace(SIDA, checks=())
    monkeypatch.setattr(verify_case, "system_of", lambda root: unchecked)
    names = set(np.load(root / "outputs.npz").files)
    run = {name for name in names if name.startswith(("curve_", "final/"))}
    results = verify_case.verify(str(root))
    assert set(results.left_to_curve) == run
    assert {row.quantity for row in results.failures} == {
        f"{name} (not compared)" for name in names - run}
    assert verify_case.report("S", results, str(tmp_path / "r.json")) == 1
    assert f"{len(run)} arrays of the training run are left to --curve" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "r.json").read_text())["left_to_curve"]) == run


def test_a_system_is_known_by_its_files(tmp_path):
    (tmp_path / "meta.json").write_text("{}")
    done = run_tool("tools.verify_case", tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert ("says of no system that it is a case of it; there is none of inputs.npz (LEGION), "
            "train.json (FakeVLM), stage2_end_rows.npz (SIDA)") in done.stderr
    for system in SYSTEMS:
        folder = tmp_path / system.name
        folder.mkdir()
        (folder / "meta.json").write_text("{}")
        (folder / system.marker).write_text("{}")
        assert system_of(folder) is system
    done = run_tool("tools.verify_case", tmp_path / "FakeVLM")
    assert done.returncode == 1 and "case.json: not there; a case folder has one" in done.stderr


def test_only_cases_of_legion_are_made_slim(tmp_path):
    with pytest.raises(slim.SlimError, match="inputs.npz: not there; only cases of LEGION are"):
        slim.write(tmp_path, tmp_path / slim.ARCHIVE)


def test_noise_widens_a_tolerance_that_is_narrower():
    noise = dict.fromkeys(("absolute", "scaled", "largest", "relative", "stats", "equal"), 1e-3)
    results = Results(noise=noise)
    for off in (0.9e-2, 1.1e-2):
        results.within("absolute", [2 + off], [2.0], tolerance=1e-5)
        results.scaled("scaled", [2 + off], np.array([2.0]))
        results.of_largest("largest", np.array([2 + off]), [2.0], tolerance=1e-5)
        results.relative("relative", [2 + off], [2.0], tolerance=1e-5)
        results.stats("stats", np.array([[1 + off]]), [[1.0, 1, 1 + 2 * off + off ** 2, 1, 1]],
                      axes=1)
        results.relative("quiet", [2 + off], [2.0], tolerance=1e-5)
        results.within("wide", [2 + off], [2.0], tolerance=1e-1)
        results.equal("equal", [1], [1])
    assert [row.passed for row in results.rows] == [
        True, True, True, True, True, False, True, True,
        False, False, False, False, False, False, True, True]


@pytest.mark.parametrize("text, expected", [
    ("<a>1 <b>1 <a> 1", "<a>1 <b>1 "), ("x<a>1<a>2<a>1", "x<a>1<a>2"), ("<a>", "<a>"),
    ("<a>1<b>", "<a>1"), ("1 < 2", "1 < 2"), ("", "")])
def test_repeated_tags(text, expected):
    assert remove_repeated_tags(text) == expected


def test_what_is_shown_of_an_answer():
    assert shown("a\nb  c   d") == "ab c  d"
