"""The training command: resume, freezing, bad configs; run as a user runs it."""

import json
import re
import shutil
import signal

import commands
import numpy as np
import pytest
import small_runs
import stored_params
from small_data import damage
from small_runs import STEPS, VERDICT_ONLY, arguments, environment, metrics, run

from experiments import tiny
from legion_jax.config import from_dict, legion_7b, tiny as tiny_model, to_dict
from legion_jax.models import param_tree
from legion_jax.train import setup
from legion_jax.train.knobs import RunSettings
from legion_jax.weights import checkpoint, legion_json

data, unbroken = small_runs.data, small_runs.unbroken
TOLD = 128 + signal.SIGTERM


@pytest.mark.parametrize("terms", [VERDICT_ONLY, pytest.param([], marks=pytest.mark.slow)],
                         ids=["verdict", "all"])
def test_killed_run_continues_bit_for_bit(data, unbroken, tmp_path, terms):
    workdir = tmp_path / "run"
    process = small_runs.start(data, workdir, *terms)
    small_runs.wait_for(workdir, 2, [process])
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped = checkpoint.latest_step(workdir)
    assert stopped is not None and stopped < STEPS, "the kill came too late to test anything"
    # Half a line and lines behind the checkpoint must not survive.
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "loss": 0}\n{"step": 7, "lo')
    done = run(data, workdir, *terms)
    assert done.returncode == 0, done.stderr
    assert f"resumed from step {stopped}" in done.stderr
    if not terms:
        unbroken = tmp_path / "unbroken"
        assert run(data, unbroken).returncode == 0
    assert metrics(workdir) == metrics(unbroken)


def test_sigterm_saves_the_step_it_is_at_and_the_next_start_goes_on(data, unbroken, tmp_path):
    workdir = tmp_path / "run"
    process = small_runs.start(data, workdir, *VERDICT_ONLY, "--config.checkpoint_every=1")
    small_runs.wait_for(workdir, 1, [process])
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=300)
    assert process.returncode == TOLD, log
    stopped = checkpoint.latest_step(workdir)
    assert f"stopped by SIGTERM after step {stopped};" in log and stopped < STEPS
    assert len(metrics(workdir).splitlines()) == stopped
    done = run(data, workdir, *VERDICT_ONLY, "--config.checkpoint_every=1")
    assert done.returncode == 0 and f"resumed from step {stopped}" in done.stderr, done.stderr
    assert metrics(workdir) == metrics(unbroken)


def test_a_damaged_record_is_left_out_named_and_counted(data, tmp_path):
    damage(data, tmp_path)
    shutil.copytree(data / "tokenizer", tmp_path / "tokenizer")
    done = run(tmp_path, tmp_path / "run", "--config.optimizer.total_steps=3",  # one epoch of 12
               *VERDICT_ONLY)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in metrics(tmp_path / "run").splitlines()]
    assert sum(row["bad"] for row in rows) == 1
    assert re.search(r"record \d+ of \S*data train left out: unreadable record: \d+: Corrupted",
                     done.stderr)


@pytest.mark.slow
def test_programs_are_kept_for_the_next_start(data, tmp_path):
    own = {name: value for name, value in environment().items()
           if name != "JAX_COMPILATION_CACHE_DIR"}
    steps = ["--config.optimizer.total_steps=2", "--config.optimizer.warmup_steps=0", *VERDICT_ONLY]
    done = commands.run_tool("legion_jax.train", *arguments(data, tmp_path / "run", *steps),
                             env=own)
    assert done.returncode == 0, done.stderr
    programs = {file.name for file in (tmp_path / "run" / "compiled").iterdir()}
    assert any("step" in name for name in programs)


def test_every_step_is_logged_once(unbroken):
    rows = [json.loads(line) for line in metrics(unbroken).splitlines()]
    assert [r["step"] for r in rows] == list(range(STEPS))
    assert all(np.isfinite(list(r.values())).all() for r in rows)
    for row in rows:
        assert row["loss"] == pytest.approx(row["ce"] + row["bce"] + row["dice"] + row["verdict"],
                                            rel=1e-5)


# The other terms of a loss on a mesh, and accumulated, are in test_sharding and test_losses.
@pytest.mark.parametrize("terms", [VERDICT_ONLY, pytest.param([], marks=pytest.mark.slow)],
                         ids=["verdict", "all"])
def test_eight_devices_and_accumulation_give_the_same_losses(data, unbroken, tmp_path, terms):
    if not terms:
        unbroken = tmp_path / "one"
        assert run(data, unbroken).returncode == 0
    done = run(data, tmp_path / "eight", "--config.mesh=(2,1,4)", "--config.accumulation=2", *terms,
               devices=8)
    assert done.returncode == 0, done.stderr
    lines = [[json.loads(line)["loss"] for line in metrics(workdir).splitlines()]
             for workdir in (unbroken, tmp_path / "eight")]
    assert len(lines[0]) == STEPS
    assert lines[1] == pytest.approx(lines[0], rel=2e-3)
    assert lines[1][0] == pytest.approx(lines[0][0], rel=1e-5)


@pytest.mark.parametrize("extra, message", [
    (["--config.optimizer.learning_rat=1"], "learning_rat"),
    (["--config.optimizer.schedule=square"], "schedule: linear, cosine or constant"),
    (["--config.mesh=(3,1,1)"], "this run has 1"),
    (["--config.data.text_length=20"], "data.text_length: the prompt alone takes"),
    (["--config.data.text_length=1000"], "take 1063 positions, the language model has 512"),
    (["--workdir="], "--workdir: empty"),
    (["--config.data.data_dir=/nowhere"], "/nowhere"),
    (["--config.data.train_split=trian"], "trian"),
    (["--config.trainable=('^langwidge/',)"], "pattern ^langwidge/ matches no parameter"),
    (["--config.trainable=('^verdict/',)"], "frozen, but there is nothing to take it from"),
    (["--config.model.name=huge"], "model.name"),
    (["--config.batch_size=3", "--config.accumulation=2"], "batch_size: 3 rows do not divide"),
    (["--config.log_every=0"], "config.log_every: at least 1, got 0"),
    (["--config.trainable=('(',)"], "is no pattern"),
])
def test_bad_knobs_end_in_one_sentence(data, tmp_path, extra, message):
    done = run(data, tmp_path / "run", *extra)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_config_file_with_a_misspelt_knob(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from legion_jax.train import recipes\n\ndef get_config():\n"
                    "    c = recipes.load('base').get_config()\n"
                    "    c.batch_sise = 3\n    return c\n")
    done = commands.run_tool("legion_jax.train", "--config", file, "--workdir", tmp_path / "run")
    assert done.returncode == 1
    assert "batch_sise" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_another_config_in_the_same_workdir_names_the_knob(data, unbroken):
    done = run(data, unbroken, *VERDICT_ONLY, "--config.seed=5")
    assert done.returncode == 1
    assert "seed was 0, now 5" in done.stderr


def test_frozen_parameters_come_from_the_base_and_stay(data, unbroken, tmp_path):
    """Fine-tuning starts from a converted checkpoint and stores only what it trains."""
    meta = checkpoint.read_meta(unbroken)
    abstract = param_tree.abstract_params(meta.config)
    params = checkpoint.Checkpoint.open(unbroken).load(stored_params.as_stored(unbroken, abstract))
    converted = tmp_path / "base"
    converted.mkdir()
    stored_params.save_params(converted, params)
    legion_json.write_meta(converted, meta.config, base=None, trained=[])
    done = run(data, tmp_path / "run", f"--config.init_from={converted}",
               "--config.trainable=('lora_','^verdict/')", "--config.model.lora_rank=2",
               "--config.frozen_dtype=float32", "--config.optimizer.total_steps=3")
    assert done.returncode == 0, done.stderr
    meta = checkpoint.read_meta(tmp_path / "run")
    assert all("lora_" in p or p.startswith("verdict/") for p in meta.trained)
    tuned = checkpoint.Checkpoint.open(tmp_path / "run").load(stored_params.as_stored(
        tmp_path / "run", param_tree.abstract_params(meta.config)))
    for path in abstract:
        same = np.array_equal(np.asarray(tuned[path]), np.asarray(params[path]))
        assert same == (path not in meta.trained), path
    assert np.asarray(tuned["language/layers/query/lora_b"]).any()
    # The base is known by its hash.
    legion_json.write_meta(converted, meta.config, base=None, trained=[], changed=True)
    with pytest.raises(checkpoint.CheckpointError, match="not the checkpoint this run started"):
        checkpoint.Checkpoint.open(tmp_path / "run").load(stored_params.as_stored(
            tmp_path / "run", param_tree.abstract_params(meta.config)))


def test_config_survives_json():
    for config in (legion_7b(), tiny_model()):
        assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    with pytest.raises(ValueError, match="unknown field widht"):
        from_dict(to_dict(legion_7b()) | {"widht": 3})
    settings = RunSettings.from_config(tiny.get_config(), without_data=True)
    assert setup.model_config(settings, 512).language.vocab == 512


def test_verdict_stage_starts_from_a_run_and_trains_the_head_alone(data, unbroken, tmp_path):
    done = run(data, tmp_path / "run", f"--config.init_from={unbroken}",
               "--config.optimizer.warmup_steps=0", recipe="experiments/detect_tiny.py")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in metrics(tmp_path / "run").splitlines()]
    assert all(r["ce"] == r["bce"] == r["dice"] == 0 < r["verdict"] for r in rows)
    lora = run(data, tmp_path / "lora", f"--config.init_from={unbroken}",
               "--config.trainable=('lora_',)", "--config.model.lora_rank=2",
               "--config.optimizer.total_steps=3", *VERDICT_ONLY)
    assert lora.returncode == 0, lora.stderr
    lost = run(data, tmp_path / "lost", f"--config.init_from={tmp_path / 'lora'}")
    assert lost.returncode == 1 and "it would be lost" in lost.stderr
    abstract = param_tree.abstract_params(checkpoint.read_meta(tmp_path / "run").config)
    before, after = (checkpoint.Checkpoint.open(f).load(stored_params.as_stored(f, abstract))
                     for f in (unbroken, tmp_path / "run"))
    changed = {p for p in abstract
               if not np.array_equal(np.asarray(before[p]), np.asarray(after[p]))}
    assert changed == {p for p in abstract if p.startswith("verdict/")}
