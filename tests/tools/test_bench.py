"""tools/bench: both sides do the same work, what its numbers are made of, flags, a real run."""

import dataclasses
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from repository import ROOT
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
    ours,
    turns,
)


def run(*flags):
    # Without the fake devices of conftest, whose threads would share the cores.
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run([sys.executable, "-m", "tools.bench", *flags], cwd=ROOT, env=env,
                          capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("flags, words", [
    (("--rounds=0",), "--rounds: at least 1, got 0"),
    (("--threads=4096",), "got 4096"),
    (("--work=sleep",), "train, answers, batching, policies, not sleep"),
    (("--device=gpu",), "--device=gpu")])
def test_bad_flags_are_one_sentence(flags, words):
    done = run("--tiny", *flags)
    assert done.returncode == 1 and words in done.stderr
    assert "Traceback" not in done.stderr


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


def test_updates_are_the_same_with_lora_and_without_dropout():
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
    positions = case.text - 1 + case.model.clip.num_patches
    kernels = c.layers * (4 * c.width ** 2 + 3 * c.width * c.mlp)
    language = case.batch * positions * (4 * kernels + 12 * c.layers * positions * c.width)
    assert language < floors.train_flops(case) < 6 * language
    photo = floors.answer_flops(case) / case.photos
    assert 2 * kernels * (case.prompt + case.new) < photo < floors.train_flops(case)


def test_figures_of_a_gpu():
    chip = gpu.find("NVIDIA H200")
    assert (chip.flops, chip.hbm_rate) == (989.5e12, 4.8e12)
    training = gpu.training_figures(chip, cases.MID, flops=0.25 * 989.5e12, seconds=0.5)
    assert training["mfu"] == 0.5
    assert training["tokens_per_s"] == 2 * (222 - 1 + 576) / 0.5
    with pytest.raises(UserError, match="GeForce 256"):
        gpu.find("NVIDIA GeForce 256")


def test_decoding_reads_the_language_model_and_its_cache_for_every_token():
    case, c = cases.TINY, cases.TINY.model.language
    kernels = c.layers * (4 * c.width ** 2 + 3 * c.width * c.mlp) + c.width * c.padded_vocab
    norms = (2 * c.layers + 1) * c.width
    length = case.prompt - 1 + case.model.clip.num_patches + case.new
    cache = 2 * case.photos * c.layers * length * c.width
    assert gpu.decode_bytes(case) == 4 * (kernels + norms + cache)


@pytest.mark.parametrize("work", ["answers", pytest.param("train", marks=pytest.mark.slow)])
def test_what_a_gpu_would_be_asked_for_runs_at_tiny_size(work):
    """The same calls in bfloat16 on the CPU, with made-up peaks."""
    pytest.importorskip("transformers")
    case = dataclasses.replace(cases.TINY, new=4, model=dataclasses.replace(
        cases.TINY.model, dtype="bfloat16", remat="layers"))
    chip = Chip("none", 1e12, hbm_rate=1e11)
    result = gpu.measure(case, "none", chip, work=[work], rounds=1, device="cpu")
    for name in ("ours", "peer"):
        assert result[work][name]["tokens_per_s"] != 0
        assert result[work][name]["mfu" if work == "train" else "bound_ms_per_step"] > 0
    figures.show_gpu(result, Console(file=io.StringIO()))
    json.dumps(figures.rounded(result))


def test_flags_are_checked_without_a_machine(monkeypatch):
    class Options:
        rounds, threads, work, device = 1, 1, [], None
    with pytest.raises(UserError, match="--work"):
        bench.check(Options)
