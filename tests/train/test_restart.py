"""Runs that are stopped: by SIGTERM, by a loss that is no number, on one host and on two."""

import json
import signal
import socket

import commands
import compilations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from orbax.checkpoint import v1 as ocp
from small_runs import STEPS, VERDICT_ONLY, environment, metrics, wait_for

from legion_jax import distributed
from legion_jax.weights import checkpoint, params_files, run_checkpoints

data = small_runs.data
TOLD = 128 + signal.SIGTERM


def start(data, workdir, *extra, devices=1):
    return small_runs.start(data, workdir, *VERDICT_ONLY, *extra, devices=devices)


def run(data, workdir, *extra, devices=1):
    return small_runs.run(data, workdir, *VERDICT_ONLY, *extra, devices=devices)


@pytest.mark.parametrize("knob, reason", [
    ("optimizer.learning_rate=1e30", "not finite"),
    pytest.param("stop_above=1e-3", "the loss is above config.stop_above 0.001",
                 marks=pytest.mark.slow)])
def test_a_hopeless_loss_stops_the_run_before_it_spoils_the_state(data, tmp_path, knob, reason):
    done = run(data, tmp_path / "run", f"--config.{knob}", "--config.optimizer.warmup_steps=0")
    assert done.returncode == 1 and reason in done.stderr.splitlines()[-1], done.stderr
    step = checkpoint.latest_step(tmp_path / "run")
    assert f"error: step {step}: loss" in done.stderr
    rows = [json.loads(line) for line in metrics(tmp_path / "run").splitlines()]
    assert [row["step"] for row in rows] == list(range(step + 1))
    assert np.isfinite([row["loss"] for row in rows[:-1]]).all()
    reader = params_files.Reader(checkpoint.Checkpoint.open(tmp_path / "run"))
    assert all(np.isfinite(reader.read(path)).all() for path in reader.entries)


def test_which_checkpoints_stay(tmp_path):
    writer = run_checkpoints.RunCheckpoints(tmp_path, every=1, keep=1, keep_every=4, keep_best=2,
                                            metric="f1")
    for step, rank in enumerate((-9.0, -1.0, -5.0, -7.0, -8.0, -2.0, -6.0, -4.0, -3.0, -5.0), 1):
        writer.save(step, {"a": jnp.zeros(3)}, {"m": jnp.zeros(3)}, rank=rank)
    writer.close()
    steps = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert steps == [2, 4, 6, 8, 10]  # best: 2 and 6; every fourth: 4 and 8; newest: 10
    assert [checkpoint.find_step(tmp_path, step) for step in ("newest", "best", "6")] == [10, 2, 6]
    for step in ("7", "-1", "last", "9" * 5000):
        with pytest.raises(checkpoint.CheckpointError,
                           match=f"no checkpoint of --step={step[:20]}; there are 2, 4, 6, 8, 10"):
            checkpoint.find_step(tmp_path, step)


def test_the_metric_of_the_newest_checkpoint_says_which_is_best(tmp_path):
    arrays = {"a": jnp.zeros(3)}, {"m": jnp.zeros(3)}
    old = ocp.training.Checkpointer(tmp_path / "checkpoints")  # of a run from before ranks
    old.save_checkpointables(0, dict(zip(("params", "optimizer"), arrays, strict=True)),
                             metrics={"loss": 9.0})
    old.close()
    assert checkpoint.best_step(tmp_path) is None
    for metric, ranks in (("f1", {1: 5.0, 2: 7.0, 3: 6.0}), ("auc", {4: 2.0, 5: 3.0, 6: 1.0})):
        writer = run_checkpoints.RunCheckpoints(tmp_path, every=1, keep=1, keep_best=2,
                                                metric=metric)
        for step, rank in ranks.items():
            writer.save(step, *arrays, rank=rank)
        writer.close()
    assert checkpoint.find_step(tmp_path, "best") == 5
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [4, 5, 6]


def test_a_step_of_what_has_none(tmp_path):
    assert checkpoint.find_step(tmp_path / "nothing", "best") is None
    (tmp_path / "params").mkdir()
    (tmp_path / "legion.json").write_text("{}")
    for step in ("best", "5"):
        with pytest.raises(checkpoint.CheckpointError, match=f"--step={step}, but this is a conv"):
            checkpoint.find_step(tmp_path, step)


def test_the_best_of_a_run_that_was_never_scored(tmp_path):
    writer = run_checkpoints.RunCheckpoints(tmp_path, every=1, keep=1, keep_best=2)
    writer.save(1, {"a": jnp.zeros(3)}, {"m": jnp.zeros(3)})
    writer.close()
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint here was scored"):
        checkpoint.find_step(tmp_path, "best")


@pytest.mark.parametrize("how", ["localhost", "localhost:1,2", "localhost:1,2,2", "a:1,2,-1"])
def test_places_that_are_none(how):
    with pytest.raises(distributed.DistributedError, match="INDEX below PROCESSES"):
        distributed.start(how)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_a_missing_host_is_one_sentence(tmp_path):
    code = ("from legion_jax import command, distributed\n"
            f"command.run(lambda: distributed.start('localhost:{free_port()},2,0', timeout=5))")
    done = commands.run_tool(commands.CODE, code, env=environment(), timeout=120)
    assert done.returncode == 1
    assert "not all processes came together within 5 s" in done.stderr.splitlines()[-1]


JOINED = """
import sys, time
import jax
from input_pipeline.errors import UserError
from legion_jax import command, distributed
place = sys.argv.pop()
def main():
    with distributed.joined(place):
        {what}
command.run(main)
"""


def together(what: str) -> list[tuple[int, str]]:
    """Exit codes and logs of two processes that run `what` joined."""
    place = f"localhost:{free_port()},2"
    both = [commands.start(commands.CODE, JOINED.format(what=what), f"{place},{index}",
                           env=environment()) for index in range(2)]
    logs = [process.communicate(timeout=60)[1] for process in both]
    return [(process.returncode, log) for process, log in zip(both, logs, strict=True)]


def test_a_host_that_fails_does_not_keep_the_others():
    """Alone, with the other waiting for it; and both, which end as a single process does."""
    alone, lost = together("""
        if jax.process_index() == 0:
            raise UserError("no room left")
        distributed.wait_for_all(600)""")
    assert alone[0] == 1 and alone[1].splitlines()[-1] == "error: no room left"
    assert lost[0] != 0
    for code, log in together("""
        raise UserError("no such knob")"""):
        assert code == 1 and log.splitlines()[-1] == "error: no such knob"


def test_a_host_that_has_less_to_do_waits():
    assert [code for code, _ in together("time.sleep(3 * jax.process_index())")] == [0, 0]


@pytest.mark.parametrize("hosts", [1, 2])
def test_no_host_runs_a_program_before_all_have_compiled_it(monkeypatch, hosts):
    order, values = [], jnp.ones(3)
    monkeypatch.setattr(jax, "process_count", lambda: hosts)
    monkeypatch.setattr(distributed, "wait_for_all", lambda _: order.append("waited"))
    program = jax.jit(lambda x: x + 1)
    with compilations.heard(lambda _: order.append("compiled")):
        distributed.compile_together(program, values)
        order.append("called")
        program(values)
    assert order == ["compiled", *["waited"] * (hosts - 1), "called"]


def pair(data, workdir, *extra):
    """Both processes of a run on two hosts with four devices each."""
    place = f"--distributed=localhost:{free_port()},2"
    return [start(data, workdir, "--config.batch_size=8", *extra, f"{place},{index}", devices=4)
            for index in range(2)]


def finish(processes) -> list[str]:
    logs = [process.communicate(timeout=900)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], logs
    return logs


@pytest.mark.slow
def test_two_hosts_survive_the_loss_of_one(data, tmp_path):
    """Unbroken; one killed; one told to stop; and the rest on one host."""
    scored = ["--config.eval.every=2", "--config.eval.photos=3", "--config.eval.max_new_tokens=8",
              "--config.checkpoint_every=2", "--config.checkpoint_keep_best=1"]
    finish(pair(data, tmp_path / "unbroken", *scored))
    wanted = metrics(tmp_path / "unbroken")
    assert wanted.count("eval/localisation.mean.f1") == STEPS // 2
    workdir = tmp_path / "run"
    killed, other = pair(data, workdir, *scored)
    wait_for(workdir, 2, [killed, other])
    killed.kill()
    other.communicate(timeout=2 * distributed.HEARTBEAT_SECONDS)
    assert other.returncode != 0  # it does not wait for ever
    stopped = pair(data, workdir, *scored)
    wait_for(workdir, 4, stopped)
    stopped[1].send_signal(signal.SIGTERM)
    logs = [process.communicate(timeout=300)[1] for process in stopped]
    assert [process.returncode for process in stopped] == [TOLD, TOLD], logs
    assert "resumed from step" in logs[0]
    finish(pair(data, workdir, *scored))
    assert metrics(workdir) == wanted
    assert checkpoint.best_step(workdir) == checkpoint.best_step(tmp_path / "unbroken")
    alone = run(data, workdir, *scored, "--config.batch_size=8", "--config.mesh=(1,2,2,2)",
                devices=8)
    assert alone.returncode == 0 and f"resumed from step {STEPS}" in alone.stderr
