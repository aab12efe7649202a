"""One run in this process on eight devices: nothing compiles twice, and what can be seen of it."""

import collections
import dataclasses
import json
import struct

import jax
import pytest
import small_data
from tensorboardX.proto import event_pb2
from watched_runs import watch

from input_pipeline.batches.examples import text_length
from input_pipeline.records import prepared
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax.config import LoraConfig
from legion_jax.models import param_tree
from legion_jax.train import pictures, speed
from legion_jax.weights import checkpoint

STEPS = 18
data = small_data.data


def make_config(root):
    config = small_data.make_config(root)
    tokenizer = Tokenizer.from_folder(root / "tokenizer")
    source = prepared.open_split(root / "data", "train")
    lengths = sorted(text_length(source[i], tokenizer, small_data.SPEC) for i in range(24))
    config.data.tokenizer, config.data.text_buckets = str(root / "tokenizer"), (lengths[12],)
    config.data.instruction = small_data.SPEC.instruction
    config.data.mask_canvas, config.data.max_bad = 80, 1.0
    config.batch_size, config.mesh = 8, (2, 2, 2)
    config.compile_cache, config.trainable = False, param_tree.EVERYTHING
    config.log_every, config.log_images_every, config.checkpoint_every = 3, 5, 4
    config.eval.every, config.eval.photos, config.eval.max_new_tokens = 4, 4, 12
    config.eval.metric, config.checkpoint_keep, config.checkpoint_keep_best = "detection.nll", 1, 1
    config.optimizer.total_steps, config.optimizer.warmup_steps = STEPS, 2
    return config


@pytest.fixture(scope="module")
def small(config):
    """A model that compiles in seconds, in place of experiments/tiny.py's."""
    def model(_, vocab):
        return dataclasses.replace(
            config, lora=LoraConfig(rank=0), language=dataclasses.replace(
                config.language, vocab=vocab, max_positions=512))
    return model


@pytest.fixture(scope="module")
def run(data, small, tmp_path_factory):
    """From its beginning, with a record that is damaged and with a trace."""
    root = tmp_path_factory.mktemp("run")
    small_data.damage(data, root)
    config = make_config(data)
    config.data.data_dir = str(root / "data")
    return watch(config, root / "run", small, profile=True)


def test_after_the_warm_up_nothing_compiles(run):
    assert len(run.lengths) == STEPS and len(set(run.lengths)) == 2
    assert run.programs == 2  # one per text length
    allowed = run.allowed(0)
    assert run.compiled and set(run.compiled) <= allowed, dict(run.compiled)
    # What can compile has happened again since.
    warm = max(allowed)
    assert STEPS - warm >= 10 and set(run.lengths[warm:]) == set(run.lengths)
    rows = [json.loads(line) for line in (run.workdir / "metrics.jsonl").open()]
    assert any(row["bad"] for row in rows[warm:])


@pytest.mark.slow
def test_a_resumed_run_compiles_each_program_once(run, small):
    newest, = (f for f in (run.workdir / "checkpoints").iterdir() if f.name == str(STEPS))
    newest.rename(run.workdir / "away")
    before = (run.workdir / "metrics.jsonl").read_text()
    resumed = watch(run.config, run.workdir, small)
    start = STEPS - len(resumed.lengths)
    assert start == 16 and resumed.programs == len(set(resumed.lengths))
    # Among what is due are pictures, which it draws for the first time.
    assert set(resumed.compiled) <= resumed.allowed(start), dict(resumed.compiled)
    assert (run.workdir / "metrics.jsonl").read_text() == before


def test_rows_count_tokens_and_no_seconds(run):
    rows = [json.loads(line) for line in (run.workdir / "metrics.jsonl").open()]
    patches = (28 // 14) ** 2
    for length, row in zip(run.lengths, rows, strict=True):
        real = 8 - row["bad"]  # none at times: copies of one record have one length
        assert patches * real <= row["tokens"] <= real * (length - 1 + patches)
        assert bool(row["tokens"]) == bool(real)
        assert not any("second" in name or name == "mfu" for name in row)


def test_a_run_is_scored_and_keeps_its_best_checkpoint(run):
    rows = [json.loads(line) for line in (run.workdir / "metrics.jsonl").open()]
    scored = {row["step"] + 1: row["eval/detection.nll"] for row in rows
              if any(name.startswith("eval/") for name in row)}
    assert list(scored) == [4, 8, 12, 16, 18] and len(set(scored.values())) == 5
    best = min(scored, key=scored.get)
    kept = {int(folder.name) for folder in (run.workdir / "checkpoints").iterdir()}
    assert kept == {best, STEPS} and checkpoint.best_step(run.workdir) == best


def test_the_trace_names_consecutive_updates(run):
    file, = (run.workdir / "profile").glob("plugins/profile/*/*.xplane.pb")
    trace = jax.profiler.ProfileData.from_file(str(file))
    steps = [dict(event.stats)["step_num"] for plane in trace.planes for line in plane.lines
             for event in line.events if event.name == "update"]
    assert len(steps) == 2
    assert steps == list(range(steps[0], steps[0] + 2))
    assert steps[0] >= speed.SETTLED
    assert len(set(run.lengths[:steps[0]])) == 2  # nothing new came later


def test_tensorboard_holds_pictures_and_speeds(run):
    shown = collections.defaultdict(list)
    for event in events(run.workdir / "tensorboard"):
        for value in event.summary.value:
            shown[value.tag].append((event.step, value))
    for number in range(1, pictures.PHOTOS + 1):
        steps, values = zip(*shown[f"photo_{number}"], strict=True)
        assert sorted(set(steps)) == list(range(4, STEPS, 5))  # after updates 5, 10, ...
        assert all(v.image.width > v.image.height > 100 for v in values)
    assert {"loss", "tokens", "examples_per_second", "tokens_per_second"} <= shown.keys()
    assert "mfu" not in shown  # of a CPU


def events(folder):
    """Records of event files: length, checksum, an event, checksum."""
    for file in sorted(folder.iterdir()):
        content, at = file.read_bytes(), 0
        while at < len(content):
            size, = struct.unpack_from("<Q", content, at)
            yield event_pb2.Event.FromString(content[at + 12:at + 12 + size])
            at += 16 + size
