"""The golden cases of FakeVLM and SIDA, of those who have them, and rules that only they need."""

import dataclasses
import json
import re
import types

import family_golden
import numpy as np
import pytest
from commands import run_tool

from tools.verify_case import __main__ as verify_case, learning, slim
from tools.verify_case.comparisons import Results, Stored
from tools.verify_case.sida import sida_curve, sida_training
from tools.verify_case.sida.sida_inputs import remove_repeated_tags, shown
from tools.verify_case.systems import FAKEVLM, SIDA, SYSTEMS, system_of

CASES = {"F": FAKEVLM, "S": SIDA}
OF_INPUTS = re.compile(
    "(input_ids|labels|attention_masks?|offset|positions|rows_cols|per_sample_tokens)$|"
    "^(pixel_values|eval_pixel_values|prep336|pre|full_vocab)_")


def compared(case, system, *names):
    """Results of the checks `room.name`, by default of all those of inputs."""
    results = Results(*case.stored, noise=case.noise)
    for check in system.checks:
        room = check.__module__.rpartition("_")[2]
        if f"{room}.{check.__name__}" in names or (not names and room == "inputs"):
            check(case, results)
    return results


@pytest.fixture(scope="module", params=CASES)
def opened(request, torch_files):
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


@pytest.mark.slow
@pytest.mark.parametrize("name, quantities", [("F", 490), ("S", 1880)])
def test_a_whole_case_and_its_training_run(torch_files, name, quantities):
    results = verify_case.verify(str(family_golden.folder(name)), curve=True)
    assert not results.failures, "\n".join(str(row) for row in results.failures)
    assert len(results.rows) > quantities
    assert not results.left_out and not results.left_to_curve


def test_activations_and_losses():
    """Of FakeVLM, whose case is small; those of SIDA are left to the whole case."""
    case = FAKEVLM.open_case(family_golden.folder("F"))
    results = compared(case, FAKEVLM, "forward.check_sight", "forward.check_reading",
                       "training.check_losses")
    assert not results.failures, "\n".join(str(row) for row in results.failures)
    assert {"projected", "last_hidden_valid", "logits_first_answer", "train_loss",
            "per_sample_loss"} <= {row.quantity for row in results.rows}


@pytest.mark.parametrize("folder, check, array, change", [
    ("F", "inputs.check_pixels", "prep336_2_s6", 1e-6),
    ("F", "inputs.check_rows", "train_labels", 1),
    ("F", "inputs.check_prompts", "eval_chat_attention_mask", 1),
    ("F", "inputs.check_full_vocabulary", "full_vocab_train_input_ids", 1),
    ("F", "forward.check_sight", "projected", 1e-3),
    ("S", "inputs.check_rows", "stage2_syn_labels", 1),
    ("S", "inputs.check_rows", "twoseg_seg_positions", 1),
    ("S", "inputs.check_pixels", "pre_t1_mask_s8", 1e-3),
    ("S", "inputs.check_pixels", "pre_r0_resize", 1)])
def test_a_wrong_reference_fails_by_name(torch_files, folder, check, array, change):
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
        meta["accuracy_example"]["out"]["category_acc"]["human"]["real_accuracy"] = 0.5555
        wrong = {"eval_raw[1] response", "verdicts[0]", "accuracy_example human real_accuracy"}
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


def test_masks_of_no_answer_have_statistics_of_no_rows():
    results = Results()
    results.stats("none", np.zeros((0, 4, 5)), np.zeros((0, 5)), axes=2)
    results.stats("missing", np.zeros((0, 4, 5)), np.zeros((1, 5)), axes=2)
    assert [row.passed for row in results.rows] == [True, False]


def test_what_is_exactly_zero_in_a_gradient_must_be_so():
    """Also what has none there; rounding may be some other rounding."""
    results = Results()
    wanted = {"none": None, "zero": 0.0, "absent": None, "rounding": 3e-9, "some": 1.0}
    norms = {"none": 1e-12, "zero": 1e-12, "rounding": 9e-7, "some": 1.0009}
    learning.check_norms(results, "norm", norms, wanted, total=1.0)
    learning.check_norms(results, "worse", {"rounding": 2e-6, "some": 1.002},
                         {"rounding": 3e-9, "some": 1.0}, total=1.0)
    assert {row.quantity for row in results.failures} == {
        "norm none", "norm zero", "worse rounding", "worse some"}


def test_published_losses_and_their_faults():
    """In stage 1 both names are of one sum; what is NaN is asked to be, and nothing else."""
    terms = {"ce": 0.0, "bce": 1.5, "dice": 1.25, "verdict": 0.5}
    assert sida_training.published_losses(terms, "stage1") == {
        "loss": 3.25, "cls_loss": 0.5, "mask_loss": 2.75, "mask_bce_loss": 1.375,
        "mask_dice_loss": 1.375}
    terms = {"ce": np.nan, "bce": 0.5, "dice": 0.25, "verdict": 0.5}
    reported = sida_training.published_losses(terms, "stage2")
    assert reported["mask_bce_loss"] == 1 and reported["mask_dice_loss"] == 0.5
    assert reported["mask_loss"] == 1.5 and reported["cls_loss"] == 1
    for changes, wrong in (({}, []), ({"ce_loss": 1.0}, ["ce_loss"]),
                           ({"cls_loss": np.nan}, ["cls_loss"])):
        published = {name: np.float64(value) for name, value in (reported | changes).items()}
        case = types.SimpleNamespace(reference=Stored(published))
        results = Results(case.reference)
        sida_training.check_reported(case, results, "", reported)
        assert [row.quantity for row in results.failures] == wrong


def test_the_first_update_is_unsure_only_where_a_gradient_is_near_epsilon():
    settings = sida_training.run_settings("stage1", learning_rate=1e-3).optimizer
    grad = np.array([0.5, 1e-3, 1e-7, 0.0, 1e-12], np.float32)
    off = sida_curve.first_step_rounding(grad, settings, total=10.0, share=1e-6)
    assert (off[:2] < 1e-9).all() and off[2] > 1e-6
    assert off[3] == 0  # rounding has no part in what is exactly zero
    assert off[4] == 2e-3  # no step is longer than the rate
    unclipped = sida_curve.first_step_rounding(grad, settings, total=0.1, share=1e-6)
    assert unclipped[2] < off[2]


@pytest.mark.parametrize("text, expected", [
    ("<a>1 <b>1 <a> 1", "<a>1 <b>1 "), ("x<a>1<a>2<a>1", "x<a>1<a>2"), ("<a>", "<a>"),
    ("<a>1<b>", "<a>1"), ("1 < 2", "1 < 2"), ("", "")])
def test_repeated_tags(text, expected):
    assert remove_repeated_tags(text) == expected


def test_what_is_shown_of_an_answer():
    assert shown("a\nb  c   d") == "ab c  d"
