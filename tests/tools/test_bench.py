"""tools/bench: both sides do the same work, what its numbers are made of, flags, a real run."""

import dataclasses
import io
import json
import os
import sys

import commands
import numpy as np
import pytest
from rich.console import Console

from input_pipeline.errors import UserError
from legion_jax.chips import Chip
from legion_jax.config import LoraConfig
from tools.bench import (
    __main__ as bench,
    batching,
    cases,
    contest,
    figures,
    floors,
    gpu,
    gpu_pieces,
    ours,
    turns,
)


def run(*flags):
    # Without the fake devices of conftest, whose threads would share the cores.
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return commands.run_tool("tools.bench", *flags, env=env, timeout=600)


@pytest.mark.parametrize("flags, words", [
    (("--rounds=0",), "--rounds: at least 1, got 0"),
    (("--threads=4096",), "got 4096"),
    (("--work=sleep",), "train, answers, batching, policies, not sleep"),
    (("--golden=x",), "--piece, --golden: on a GPU only"),
    (("--device=gpu",), "--device=gpu"),
    (("--piece=train",), "--piece and --piece_json")])
def test_bad_flags_are_one_sentence(flags, words):
    done = run("--tiny", *flags)
    assert done.returncode == 1 and words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_real_run_in_miniature():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    done = run("--tiny", "--rounds=1", "--work=answers", "--threads=1")
    assert not done.returncode, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    answers = result["answers"]
    assert answers["seconds"].keys() == {"ours", "peer"} == answers["gflops_per_s"].keys()
    seconds = answers["seconds"]
    assert answers["ratio"] == pytest.approx(seconds["peer"] / seconds["ours"], rel=1e-3)
    assert answers["check"]["same"] and answers["check"]["masks"] == answers["masks"] == 4
    assert result["product"]["gflops_per_s"].keys() == {"jax", "torch"}
    assert result["threads"] == 1 and len(result["load"]) == 2 and "train" not in result


@pytest.mark.slow
def test_a_batch_and_one_by_one_come_to_the_same():
    case = dataclasses.replace(cases.TINY, photos=3)
    answers = batching.batching(case, cases.random_params(case), rounds=1, peer=False)
    assert answers["check"]["same"] and answers["check"]["states_difference"] < 1e-5
    assert answers["ratio"] > 0 and answers["photos"] == 3
    product = contest.product_peak(64, rounds=1, peer=False)
    figures.show_work("batching", {"batching": answers, "load": [0], "product": product},
                      Console(file=io.StringIO()))


def test_rules_for_filling_places():
    """Steps that cost 1 in a batch of two and 0.5 alone; nothing else costs anything."""
    admit, step, answers = {1: 0, 2: 0}, {1: 0.5, 2: 1.0}, [1, 9, 5, 5]
    assert batching.whole(answers, 2, admit, step) == 9 + 5
    assert batching.shrinking(answers, 2, admit, step) == 1 + 0.5 * 8 + 5
    # 9 stays; 1, 5 and, from step 6 on, 5 beside it: the last ends at 11.
    assert batching.refill(answers, 2, 1, admit, step) == 11
    assert batching.refill(answers, 2, 2, admit, step) == 9 + 5
    assert batching.refill(answers, 2, 1, {1: 2.0}, step) == 11 + 4 * 2
    drawn = batching.lengths()
    assert abs(drawn.mean() / batching.MEAN_LENGTH - 1) < 0.1 and drawn.max() > 300


@pytest.mark.slow
def test_updates_are_the_same_with_lora_and_without_dropout():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tools.bench.peer import PeerTrain
    case = dataclasses.replace(cases.TINY, model=dataclasses.replace(
        cases.TINY.model, lora=LoraConfig(rank=2, alpha=4.0, dropout=0.0)))
    params, rng = cases.random_params(case), np.random.default_rng(5)
    for path, value in params.items():
        if path.endswith("lora_b"):
            value += rng.normal(size=value.shape).astype(np.float32)
    batch = cases.train_batch(case)
    mine, theirs = ours.OurTrain(case, params, batch), PeerTrain(case, params, batch)
    rows = case.model.language.padded_vocab - case.model.language.vocab
    assert mine.trained - theirs.trained == 2 * rows * case.model.language.width
    losses = []
    for _ in range(3):
        check = contest.compare_updates(mine(), theirs())
        assert check["same"] and check["loss_difference"] < 1e-5
        assert check["grad_norm_difference"] < 1e-4
        losses.append(check["loss"][0])
    assert losses[0] > losses[1] > losses[2]


def test_a_different_loss_is_found_out():
    terms = dict.fromkeys(contest.CHECKED, 1.0)
    assert contest.compare_updates(terms, terms | {"grad_norm": 1.5})["same"]
    assert not contest.compare_updates(terms, terms | {"dice": 1.01})["same"]


def test_a_different_answer_is_found_out():
    case = cases.TINY
    tokens = np.array([cases.TINY.cycle * 2] * case.photos)
    masks, scores = np.zeros((case.photos, case.masks, *2 * (case.canvas,)), bool), np.zeros(1)
    cropped = list(masks[:, :, :case.photo[0], :case.photo[1]])
    assert contest.compare_answers((tokens, masks, scores), (tokens, cropped, scores),
                                   case)["same"]
    assert not contest.compare_answers((tokens + 1, masks, scores), (tokens, cropped, scores),
                                       case)["same"]
    assert not contest.compare_answers((tokens, ~masks, scores), (tokens, cropped, scores),
                                       case)["same"]


def test_ratios_are_those_of_medians():
    taken = {"ours": [turns.Turn(wall, 2 * wall) for wall in (1.0, 2.0, 9.0)],
             "peer": [turns.Turn(wall, wall) for wall in (6.0, 5.0, 5.0)]}
    summary = turns.summary(taken, 4e9)
    assert summary["seconds"] == {"ours": 2.0, "peer": 5.0} and summary["ratio"] == 2.5
    assert summary["cpu_seconds"] == {"ours": 4.0, "peer": 5.0} and summary["cpu_ratio"] == 1.25
    assert summary["gflops_per_s"] == {"ours": 2.0, "peer": 0.8}
    assert summary["fastest"]["ours"] == 1.0 and summary["slowest"]["ours"] == 9.0
    assert "ratio" not in turns.summary({"ours": taken["ours"]}, 1.0)


def test_turns_are_interleaved_and_the_first_does_not_count():
    order = []
    taken = turns.take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")},
                             rounds=2, label="")
    assert order == ["a", "b"] * 3 and [len(times) for times in taken.values()] == [2, 2]


def test_operations_of_the_middle_size():
    case, c = cases.MID, cases.MID.model.language
    positions = case.text - 1 + case.model.vision.num_patches
    kernels = c.layers * (4 * c.width ** 2 + 3 * c.width * c.mlp)
    language = case.batch * positions * (4 * kernels + 12 * c.layers * positions * c.width)
    assert language < floors.train_flops(case) < 6 * language
    photo = floors.answer_flops(case) / case.photos
    assert 2 * kernels * (case.prompt + case.new) < photo < floors.train_flops(case)


def test_figures_of_a_gpu():
    chip = gpu.find("NVIDIA H200")
    assert (chip.flops, chip.hbm_rate) == (989.5e12, 4.8e12)
    training = gpu.training_figures(chip, cases.MID, 0.5)
    assert training["mfu"] == floors.train_flops(cases.MID) / (0.5 * 989.5e12)
    assert training["tokens_per_s"] == 2 * (222 - 1 + 576) / 0.5
    with pytest.raises(UserError, match="GeForce 256"):
        gpu.find("NVIDIA GeForce 256")


def test_decoding_reads_the_language_model_and_its_cache_for_every_token():
    case, c = cases.TINY, cases.TINY.model.language
    kernels = c.layers * (4 * c.width ** 2 + 3 * c.width * c.mlp) + c.width * c.padded_vocab
    norms = (2 * c.layers + 1) * c.width
    length = case.prompt - 1 + case.model.vision.num_patches + case.new
    cache = 2 * case.photos * c.layers * length * c.width
    assert gpu.decode_bytes(case) == 4 * (kernels + norms + cache)


TINY_BF16 = dataclasses.replace(cases.TINY, new=4, model=dataclasses.replace(
    cases.TINY.model, dtype="bfloat16", remat="layers"))


@pytest.mark.parametrize("work", [
    pytest.param("answers", marks=pytest.mark.slow), "peer_answers",
                                  pytest.param("train", marks=pytest.mark.slow),
                                  pytest.param("peer_train", marks=pytest.mark.slow)])
def test_what_a_gpu_would_be_asked_for_runs_at_tiny_size(work, monkeypatch, tmp_path):
    """The same calls in bfloat16 on the CPU, with made-up peaks."""
    if work.startswith("peer"):
        pytest.importorskip("torch")
        pytest.importorskip("transformers")
        from tools.bench import peer
        monkeypatch.setattr(peer, "device", lambda: "cpu")
    output = tmp_path / "piece.json"
    gpu_pieces.measure_one(work, str(output), TINY_BF16, Chip("none", 1e12, hbm_rate=1e11), 1)
    found = json.loads(output.read_text())
    assert found["tokens_per_s"] != 0
    assert found["mfu" if work.endswith("train") else "bound_ms_per_step"] > 0
    if not work.startswith("peer"):
        spent = [row["seconds"] for row in found["operations"]]
        assert len(spent) == 10 and spent == sorted(spent, reverse=True) and spent[-1] > 0
    figures.show_piece(work, found, Console(file=io.StringIO()))


@pytest.mark.slow
def test_the_peer_decodes_a_batch_as_it_does_photo_by_photo():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tools.bench.peer import PeerAnswers
    case = cases.TINY
    asking = PeerAnswers(case, cases.random_params(case), cases.questions(case))
    one_by_one = [asking.decode(asking.photo(number))[0] for number in range(case.photos)]
    assert asking.decode_batch(case.new).tolist() == one_by_one


def test_a_piece_that_fails_or_hangs_costs_the_others_nothing(monkeypatch):
    programs = {
        "train": "import sys; sys.exit(3)", "answers": "import time; time.sleep(60)",
        "peer_train": "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text("
                      "'{\"seconds\": 1, \"mfu\": 0.5, \"tokens_per_s\": 7}')"}
    monkeypatch.setattr(gpu_pieces, "_command", lambda name, output, *_: [
        sys.executable, "-c", programs[name], str(output)])
    monkeypatch.setitem(gpu_pieces.LIMITS, "answers", 1)
    shown = io.StringIO()
    result = gpu_pieces.run_all(list(programs), [], golden=None, console=Console(file=shown))
    assert result["train"]["missing"].startswith("exit code 3")
    assert result["answers"]["missing"] == "ran past 1 s"
    assert result["peer_train"]["mfu"] == 0.5
    assert "MISSING" in shown.getvalue() and "MFU 50.0%" in shown.getvalue()


@pytest.mark.parametrize("piece", ["golden", pytest.param("train", marks=pytest.mark.slow)])
def test_the_processes_of_pieces_are_asked_for_what_they_know(piece, capfd):
    """As on a GPU, up to the sentence that there is none."""
    result = gpu_pieces.run_all(
        [piece], ["--rounds=1", "--threads=1", "--tiny=True"], golden="tests/golden",
        console=Console(file=io.StringIO()))
    assert result[piece]["missing"].startswith("exit code 1")
    assert "--device=gpu: JAX finds no GPU here" in capfd.readouterr().err


def test_flags_are_checked_without_a_machine(monkeypatch):
    class Options:
        rounds, threads, work, device, piece, piece_json = 1, 1, [], None, None, None
    with pytest.raises(UserError, match="--work"):
        bench.check(Options)
