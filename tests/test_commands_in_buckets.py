"""Every command with gs:// for every path it takes: the right objects in the bucket, no file here.

The commands run one after another as a user would type them, from an empty folder, against an
emulator of the storage service. What is made by one is read by the next.
"""

import hashlib
import json
import os
import sys
import time

import bucket_server
import commands
import numpy as np
import pytest
import quick_xla
import stored_params
from bucket_server import objects
from repository import ROOT
from small_runs import SMALL, STEPS, VERDICT_ONLY

from input_pipeline import files
from input_pipeline.text.tokenizer import train_tokenizer
from legion_jax.models import param_tree
from legion_jax.weights import legion_json

server = bucket_server.server
COMPILER = f"{sys.prefix}/libtpu"  # of TPUs, where `make setup` puts it
PHOTOS = 12, 4  # for training, for tests


class Shell:
    """A folder of its own to run commands in, and a bucket they may write to."""

    def __init__(self, folder, bucket):
        self.folder, self.bucket = folder, bucket

    def start(self, module, *arguments, devices=1):
        path = [str(ROOT)] + [COMPILER] * (module == "tools.aot_report")
        environment = os.environ | {
            "PYTHONPATH": ":".join(path), "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": quick_xla.flags(devices)}
        words = [str(word).replace("gs://B", str(self.bucket)) for word in arguments]
        return commands.start(module, *words, env=environment, cwd=self.folder)

    def run(self, module, *arguments, code=0):
        """What the command printed. Fails where it ends otherwise, or leaves a file here."""
        process = self.start(module, *arguments)
        out, log = process.communicate(timeout=600)
        assert process.returncode == code, log[-3000:]
        assert not os.listdir(self.folder), "written here instead of to the bucket"
        return out + log

    def train(self, workdir, *more, **options):
        return self.run("legion_jax.train", *training(workdir, *more), **options)

    def lines(self, workdir):
        return (self.bucket / workdir / "metrics.jsonl").read_text()


def training(workdir, *more):
    return ["--config=tiny", "--workdir", workdir, "--config.data.data_dir=gs://B/data",
            "--config.data.tokenizer=gs://B/tokenizer", *SMALL, *VERDICT_ONLY, *more]


@pytest.fixture(scope="module")
def shell(server, tmp_path_factory):
    """With photos, prepared data and a tokenizer in the bucket, made by the commands for them."""
    name = f"commands-{os.getpid()}"
    bucket_server.request(f"{server}/storage/v1/b?project=test", {"name": name})
    shell = Shell(tmp_path_factory.mktemp("here"), bucket_server.epath.Path(f"gs://{name}"))
    shell.run("input_pipeline.scarred_photos", "--output", "gs://B/photos",
              f"--num_train={PHOTOS[0]}", f"--num_test={PHOTOS[1]}", "--size=72")
    shell.run("tools.prepare_data", "--dataset=synthscars/photos", "--source", "gs://B/photos",
              "--data_dir", "gs://B/data")
    records = json.loads((shell.bucket / "photos/train/annotations/train.json").read_text())
    train_tokenizer([next(iter(record.values()))["caption"] for record in records], 420,
                    shell.bucket / "tokenizer")
    return shell


@pytest.fixture(scope="module")
def trained(shell):
    shell.train("gs://B/run")
    return "gs://B/run"


def test_data(shell):
    made = objects(shell.bucket / "photos")
    assert {"generator.json"} <= made.keys() and len(made) > sum(PHOTOS)
    version = "data/synthscars/photos/2.0.0"
    prepared = objects(shell.bucket / version)
    assert {"dataset_info.json", "summary.json", "train-manifest.jsonl"} <= prepared.keys()
    assert any(name.endswith(".array_record-00000-of-00001") for name in prepared)
    assert not [name for name in objects(shell.bucket) if "incomplete" in name or ".upload" in name]
    again = shell.run("tools.prepare_data", "--dataset=synthscars/photos", "--source",
                      "gs://B/photos", "--data_dir", "gs://B/data")
    assert "already prepared" in again
    assert objects(shell.bucket / version) == prepared


def steps(shell, workdir):
    return [json.loads(line)["step"] for line in shell.lines(workdir).splitlines()]


def test_a_run(shell, trained):
    made = objects(shell.bucket / "run")
    assert steps(shell, "run") == list(range(STEPS)) and not [
        name for name in made if name.startswith("metrics_segments")]
    assert {"config.json", "legion.json", "tokenizer/tokenizer.model",
            f"checkpoints/{STEPS}/commit_success.txt"} <= made.keys()
    assert [name for name in made if name.startswith("tensorboard/events")]


@pytest.mark.slow
def test_a_local_run_logs_the_same(shell, trained, tmp_path):
    """The only files that may appear on this machine are those of a local work directory."""
    shell.train(tmp_path / "local")
    assert (tmp_path / "local/metrics.jsonl").read_text() == shell.lines("run")


@pytest.mark.slow
def test_programs_of_a_run_are_kept_beside_it(shell, trained, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    shell.train("gs://B/compiling", "--config.optimizer.total_steps=1",
                "--config.optimizer.warmup_steps=0")
    assert [name for name in objects(shell.bucket / "compiling/compiled") if "step" in name]


def unfinished(shell, workdir):
    """Steps that were begun and do not say that they are whole."""
    made = objects(shell.bucket / workdir / "checkpoints")
    begun = {name.split("/")[0] for name in made}
    return {step for step in begun if f"{step}/commit_success.txt" not in made}


def kill_in_a_write(shell, processes, workdir):
    """Kills the first process while a checkpoint is half written; the others are ended, too."""
    while not unfinished(shell, workdir):
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        time.sleep(0.01)
    for process in processes:
        process.kill()
    for process in processes:
        process.communicate()
    return unfinished(shell, workdir)


def test_a_run_killed_in_a_write_goes_on(shell, trained):
    every = "--config.checkpoint_every=1"
    half = kill_in_a_write(shell, [shell.start("legion_jax.train", *training(
        "gs://B/killed", every))], "killed")
    assert half, "no checkpoint was half written"
    log = shell.train("gs://B/killed", every)
    assert "is not there any more" in log  # at once, on the same machine
    assert f"removing {shell.bucket}/killed/checkpoints/{max(half, key=int)}, left unfin" in log
    assert shell.lines("killed") == shell.lines("run")
    assert not unfinished(shell, "killed")


@pytest.mark.slow
def test_two_processes_on_one_run(shell, trained):
    """Killed in a write and started again, as one process that was left alone."""
    def pair(workdir):
        place = f"--distributed=localhost:{bucket_server.free_port()},2"
        return [shell.start("legion_jax.train", *training(
            workdir, "--config.checkpoint_every=1", "--config.batch_size=8", f"{place},{index}"),
            devices=4)
            for index in range(2)]

    def finish(processes):
        logs = [process.communicate(timeout=600)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], logs
        return logs

    kill_in_a_write(shell, pair("gs://B/pair"), "pair")
    logs = finish(pair("gs://B/pair"))
    resumed = [line for log in logs for line in log.splitlines() if "resumed from step" in line]
    assert not resumed or len({line.split("resumed")[1] for line in resumed}) == 1
    assert steps(shell, "pair") == list(range(STEPS)) and not unfinished(shell, "pair")
    finish(pair("gs://B/unbroken_pair"))
    assert shell.lines("pair") == shell.lines("unbroken_pair")
    assert not os.listdir(shell.folder)


@pytest.mark.slow
def test_a_copied_run_without_its_last_files_is_not_cleaned_away(shell, trained):
    """As other tools copy it: Orbax would remove every checkpoint as unfinished."""
    with files.local_copy(shell.bucket / "run") as copy:
        for file in copy.glob("checkpoints/*/commit_success.txt"):
            file.unlink()
        from input_pipeline import buckets
        buckets.upload(copy, shell.bucket / "copied")
    before = objects(shell.bucket / "copied")
    log = shell.train("gs://B/copied", code=1)
    assert f"copied/checkpoints/{STEPS}: has no commit_success.txt, but was complete once" in log
    assert objects(shell.bucket / "copied").keys() == before.keys()


@pytest.mark.slow
def test_what_starts_from_a_run(shell, trained):
    shell.run("legion_jax.train", "--config=detect_tiny", "--workdir=gs://B/detect",
              "--config.init_from=gs://B/run", "--config.data.data_dir=gs://B/data",
              "--config.optimizer.total_steps=2", "--config.batch_size=4",
              "--config.optimizer.warmup_steps=0", "--config.data.text_length=220")
    assert steps(shell, "detect") == [0, 1]


def test_predictions(shell, trained):
    asked = ["--checkpoint", trained, "--images", "gs://B/photos/test", "--output", "gs://B/out"]
    shell.run("tools.predict", *asked, code=2)  # the annotations are no photos
    made = objects(shell.bucket / "out")
    lines = (shell.bucket / "out/results.jsonl").read_text().splitlines()
    assert len(lines) == PHOTOS[1] == len([name for name in made if name.endswith("_mask.png")])
    assert "nothing was left to do" in shell.run("tools.predict", *asked, code=2)
    assert objects(shell.bucket / "out") == made


def test_scores(shell, trained):
    asked = ["--checkpoint", trained, "--data_dir", "gs://B/data", "--resamples=10"]
    shell.run("legion_jax.evaluate", *asked, "--output", "gs://B/scores")
    assert set(objects(shell.bucket / "scores")) == {
        "metrics.json", "rows.jsonl", "settings.json", "report.html"}
    shell.run("tools.compare", "gs://B/scores", "gs://B/scores", "--output", "gs://B/compared",
              "--data_dir", "gs://B/data", "--resamples=10")
    assert {"compare.html", "compare.json"} <= objects(shell.bucket / "compared").keys()


def test_pages_of_data(shell):
    shell.run("tools.inspect_data", "--data_dir", "gs://B/data", "--output", "gs://B/sheet",
              "--tokenizer", "gs://B/tokenizer", "--number=4")
    assert "index.html" in objects(shell.bucket / "sheet")


@pytest.mark.usefixtures("torch_files")
def test_weights_there_and_back(shell):
    shell.run("tools.make_random_checkpoint", "--size=tiny", "--output", "gs://B/LEGION")
    shell.run("tools.convert_from_torch", "--checkpoint", "gs://B/LEGION", "--clip",
              "gs://B/LEGION/clip", "--output", "gs://B/weights")
    made = objects(shell.bucket / "weights")
    assert {"legion.json", "params/language.safetensors"} <= made.keys()
    meta = json.loads((shell.bucket / "weights/legion.json").read_text())
    assert meta["sources"]["clip"]["path"] == f"{shell.bucket}/LEGION/clip"
    shell.run("tools.convert_from_torch", "--verify", "--output", "gs://B/weights")
    shell.run("tools.export_to_torch", "--checkpoint", "gs://B/weights", "--output",
              "gs://B/pytorch")
    assert objects(shell.bucket / "pytorch") == objects(shell.bucket / "LEGION")
    shell.run("tools.inspect_params", "--checkpoint", "gs://B/weights", "--format=tsv", "--output",
              "gs://B/listing.tsv")
    assert objects(shell.bucket)["listing.tsv"] > 1000
    assert "parameters" in shell.run("tools.inspect_params", "--torch", "gs://B/LEGION", "--clip",
                                     "gs://B/LEGION/clip")


@pytest.mark.slow
def test_a_trained_run_for_pytorch(shell, trained):
    shell.run("tools.export_to_torch", "--checkpoint", trained, "--output", "gs://B/from_run",
              "--format=safetensors")
    assert {"config.json", "model.safetensors", "clip/config.json"} <= objects(
        shell.bucket / "from_run").keys()
    log = shell.run("tools.export_to_torch", "--checkpoint", trained, "--output", "gs://B/from_run",
                    code=1)
    assert "from_run: already exists" in log


def test_a_base_in_another_bucket_is_asked_for_when_the_user_says_so(shell, trained, tmp_path):
    content = (shell.bucket / "run/legion.json").read_bytes()
    meta = legion_json.parse_meta("legion.json", content)
    path = "verdict/down/kernel"
    base = {"path": str(shell.bucket / "run"), "step": STEPS,
            "fingerprint": hashlib.sha256(content).hexdigest()}
    legion_json.write_meta(tmp_path, meta.config, base=base, trained=[path])
    shape = param_tree.abstract_params(meta.config)[path].shape
    stored_params.save_params(tmp_path, {path: np.zeros(shape, np.float32)})
    asked = shell.run("tools.inspect_params", "--checkpoint", tmp_path, code=1)
    assert f"takes its frozen parameters from {shell.bucket}/run, another bucket" in asked
    shown = shell.run("tools.inspect_params", "--checkpoint", tmp_path, "--trust_base")
    assert "language/embed/embedding" in shown


@pytest.mark.slow
def test_features_and_a_trace(shell, trained):
    knobs = ["--config=base", "--config.init_from=gs://B/weights",
             "--config.data.data_dir=gs://B/data", "--config.data.features=gs://B/features",
             *SMALL, "--config.data.text_length=1000"]
    if not (shell.bucket / "weights").exists():
        test_weights_there_and_back(shell)
    shell.run("tools.cache_features", *knobs)
    assert len(objects(shell.bucket / "features")) >= 1
    shell.run("legion_jax.train", *knobs, "--workdir=gs://B/cached",
              "--config.optimizer.total_steps=12", "--profile")
    assert steps(shell, "cached") == list(range(12))
    assert [name for name in objects(shell.bucket / "cached/profile") if name.endswith(".pb")]


@pytest.mark.slow
def test_calibration_and_a_compile_report(shell, trained):
    shell.run("tools.calibrate", "--checkpoint", trained, "--data_dir", "gs://B/data", "--split",
              "train")
    assert "calibration.json" in objects(shell.bucket / "run")
    shell.run("tools.aot_report", "--config=tiny", "--topology=v5e:4x4", "--mesh=1,16,1",
              "--programs=decode", "--json", "gs://B/report/aot.json", "--hlo", "gs://B/report")
    assert {"aot.json", "decode.hlo"} <= objects(shell.bucket / "report").keys()


@pytest.mark.parametrize("module, flags, words", [
    ("tools.sweep", ["--sweep=x", "--output=gs://B/s"], "a sweep locks the folder of each run"),
    ("tools.demo", ["--output=gs://B/demo"], "the demo opens its own pages"),
    ("tools.prepare_data", ["--dataset=synthscars/photos", "--source=gs://B/photos",
                            "--data_dir=gs://B/other", "--beam=--runner=DataflowRunner"],
     "name a folder that all of them mount"),
    ("tools.predict", ["--checkpoint=gs://B/none", "--images=gs://B/photos", "--output=gs://B/o"],
     "none: no legion.json here"),
    ("legion_jax.train", training("gs://no-such-bucket/run"), "there is no such bucket"),
    ("legion_jax.train", training("ftp://host/run"), "ftp:// is not supported")])
def test_what_cannot_be_is_one_sentence(shell, module, flags, words):
    log = shell.run(module, *flags, code=1)
    assert words in log.splitlines()[-1] and "Traceback" not in log
