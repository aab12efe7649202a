"""From the data knobs of a run to its batches: mixtures, buckets, and records that are damaged."""

import dataclasses
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import small_data
from repository import ROOT, SUPPORT
from small_data import SPEC, damage, make_config, open_batches

from input_pipeline.batches.examples import text_length, training_example
from input_pipeline.records import prepared
from input_pipeline.records.verdict_classes import ClassError
from input_pipeline.text import conversation
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax import config as architecture
from legion_jax.config import VerdictConfig, tiny
from legion_jax.train import data as train_data
from legion_jax.train.knobs import ConfigError, RunSettings
from legion_jax.train.run import train

data = small_data.data


@pytest.fixture
def tokenizer(data):
    return Tokenizer.from_folder(data / "tokenizer")


def test_batches_hold_what_the_records_say(data, tokenizer):
    source = prepared.open_split(data / "data", "train")
    wanted = [training_example(tokenizer, SPEC, source[i]) for i in range(24)]
    dataset = open_batches(make_config(data), tokenizer)
    seen = []
    for step in range(6):
        for row in range(4):
            seen += [i for i, w in enumerate(wanted) if all(
                np.array_equal(w[key], dataset[step][key][row]) for key in w)]
    assert sorted(seen) == list(range(24))


@pytest.mark.parametrize("own_questions", [False, True])
def test_no_target_stands_before_the_first_one(data, tokenizer, own_questions):
    config = make_config(data, own_questions=own_questions)
    prompt = len(conversation.encode_prompt(tokenizer, SPEC.instruction))
    first = train_data.first_target(RunSettings.from_config(config).data, prompt)
    spec = dataclasses.replace(SPEC, own_questions=own_questions)
    targets = open_batches(config, tokenizer, spec)[0]["loss_mask"]
    assert not targets[:, :first].any()
    assert first == (0 if own_questions else prompt) and targets[:, prompt].any()


def test_buckets_are_counted_once_and_kept(data, tokenizer, caplog):
    source = prepared.open_split(data / "data", "train")
    lengths = sorted(text_length(source[i], tokenizer, SPEC) for i in range(24))
    buckets = (lengths[8], lengths[16])
    config = make_config(data, text_buckets=buckets)
    with caplog.at_level(logging.INFO, "legion_jax"):
        dataset = open_batches(config, tokenizer)
    assert any("padding" in message for message in caplog.messages)
    (counted,) = prepared.find_version(data / "data").glob("lengths-*.npy")
    before = counted.stat().mtime
    shapes = {dataset[step]["ids"].shape for step in range(64)}
    assert len(shapes) > 1 and shapes <= {(4, n) for n in (*buckets, 300)}
    for step in range(8):
        batch = dataset[step]
        assert batch["ids"].shape == batch["valid"].shape == batch["loss_mask"].shape
        assert (batch["mask_valid"].sum(1) == (batch["ids"] == tokenizer.seg_id).sum(1)).all()
    open_batches(config, tokenizer)
    assert counted.stat().mtime == before


def test_a_mixture_takes_turns(data, tokenizer):
    folder = str(data / "data")
    config = make_config(data, mixture=((folder, "train", 3), (folder, "test", 1)))
    dataset = open_batches(config, tokenizer)
    test = prepared.open_split(folder, "test")
    views = [training_example(tokenizer, SPEC, test[i])["vision_image"] for i in range(5)]
    rows = np.concatenate([dataset[step]["vision_image"] for step in range(20)])
    share = np.mean([any(np.array_equal(row, view) for view in views) for row in rows])
    assert share == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("entry", [("a", "train"), ("a", "train", 0), ("a", "train", "much")])
def test_a_mixture_that_is_none(data, tokenizer, entry):
    with pytest.raises(ConfigError, match="config.data.mixture"):
        open_batches(make_config(data, mixture=(entry,)), tokenizer)


def test_a_bucket_beyond_the_text_length(data, tokenizer):
    with pytest.raises(ConfigError, match="301 exceeds data.text_length 300"):
        open_batches(make_config(data, text_buckets=(301,)), tokenizer)


def test_a_damaged_file_costs_its_record_alone(data, tokenizer, tmp_path, caplog):
    damage(data, tmp_path)
    config = make_config(tmp_path)
    sound = open_batches(make_config(data), tokenizer)
    dataset = open_batches(config, tokenizer)
    bad = 0
    for step in range(6):
        with caplog.at_level(logging.WARNING, "input_pipeline"):
            batch, wanted = dataset[step], sound[step]
        bad += batch["bad"].sum()
        for row in np.flatnonzero(batch["bad"] == 0):
            for key in wanted:
                np.testing.assert_array_equal(batch[key][row], wanted[key][row])
        for row in np.flatnonzero(batch["bad"]):
            assert not batch["loss_mask"][row].any() and not batch["mask_valid"][row].any()
            assert batch["label"][row] == -1
    assert bad == len(caplog.messages) == 1
    assert str(tmp_path) in caplog.text and "Corrupted" in caplog.text


def peak_memory(data: str, workers: int, steps: list[int]) -> list[float]:
    """Peak resident memory of a fresh process and its workers after each number of batches."""
    code = f"""
import resource, small_data as t
from input_pipeline.batches import loader
from input_pipeline.text.tokenizer import Tokenizer
root = t.pathlib.Path({data!r})
config = t.make_config(root, workers={workers}, text_buckets=(200,))
tokenizer = Tokenizer.from_folder(root / "tokenizer")
batches = loader.iterate(t.open_batches(config, tokenizer), 0, threads=2, buffer=2)
for step in range({max(steps)} + 1):
    if step in {steps}:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    next(batches)
"""
    environment = os.environ | {"PYTHONPATH": f"{SUPPORT}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=environment, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return [float(line) for line in done.stdout.split()]


@pytest.mark.slow
def test_memory_stays_flat_over_many_epochs(data):
    early, late = peak_memory(str(data), 0, [100, 600])
    assert late <= 1.1 * early


def test_too_many_bad_records_stop_a_run():
    bad = train_data.BadRecords(0.01)
    bad.add(1, 64)  # too few rows to judge
    with pytest.raises(ConfigError, match="2 of 128 records .* config.data.max_bad 0.01"):
        bad.add(1, 64)
    patient = train_data.BadRecords(0.5)
    for _ in range(10):
        patient.add(32, 64)


@pytest.mark.parametrize("classes, words", [
    (("real", "gan", "diffusion"), "none means tampered"),
    (("manipulated", "real", "edited"), "manipulated and edited both mean tampered"),
    (("synthetic", "tampered"), "none means real")])
def test_labels_without_a_class_stop_a_run_before_it_begins(data, tmp_path, monkeypatch, classes,
                                                            words):
    monkeypatch.setitem(architecture.TINY, "tiny",
                        lambda vocab: tiny(vocab, verdict=VerdictConfig(classes=classes)))
    config = make_config(data, tokenizer=str(data / "tokenizer"))
    config.compile_cache, config.batch_size = False, 8  # devices of the tests
    with pytest.raises(ClassError, match=f"data, split train: photos are labelled real, tampered, "
                                         f"the verdict head has the classes {', '.join(classes)}: "
                                         f"{words}"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_labels_matter_only_where_the_verdict_is_trained(data, tokenizer):
    config = make_config(data)
    model = tiny(verdict=VerdictConfig(classes=("real", "gan", "diffusion")))
    config.loss.verdict = 0.0
    assert open_batches(config, tokenizer, model=model)[0]["label"].shape == (4,)


@pytest.mark.parametrize("classes, logged", [
    (("tampered", "real"), []),
    (("real", "fake"), ["verdict: photos labelled tampered are learned as the class fake"]),
    (("synthetic", "real"), ["verdict: photos labelled tampered are learned as the class "
                             "synthetic"])])
def test_a_label_under_another_name_is_told(data, tokenizer, caplog, classes, logged):
    with caplog.at_level(logging.INFO, "legion_jax"):
        open_batches(make_config(data), tokenizer,
                     model=tiny(verdict=VerdictConfig(classes=classes)))
    assert [message for message in caplog.messages if "verdict" in message] == logged
