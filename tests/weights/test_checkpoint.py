"""Folders on disk: what loads, what is refused and with which words."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import several_hosts
import stored_params
from absl.testing import flagsaver
from orbax.checkpoint import v1 as ocp

from input_pipeline.errors import UserError
from legion_jax import sharding
from legion_jax.config import tiny
from legion_jax.models import param_tree
from legion_jax.train import metrics_log
from legion_jax.weights import checkpoint, legion_json, run_checkpoints, trust


def abstract(tree):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)


def test_params_return_in_the_asked_dtype_and_sharding(tmp_path):
    mesh = sharding.make_mesh((1, 4, 2))
    wanted = sharding.shard_abstract({"language": {"head": {"kernel": jax.ShapeDtypeStruct(
        (16, 8), jnp.float32)}}}, mesh)
    value = jnp.arange(128, dtype=jnp.bfloat16).reshape(16, 8)
    legion_json.write_meta(tmp_path, tiny(), base=None, trained=[])
    stored_params.save_params(tmp_path, {"language/head/kernel": value})
    loaded = checkpoint.Checkpoint.open(tmp_path).load(
        param_tree.flatten(wanted))["language/head/kernel"]
    assert loaded.dtype == jnp.float32
    assert loaded.sharding.spec == sharding.P("fsdp", "tensor")
    np.testing.assert_array_equal(np.asarray(loaded), np.asarray(value, np.float32))


def test_newest_checkpoints_are_kept_and_restored(tmp_path):
    writer = run_checkpoints.RunCheckpoints(tmp_path, every=2, keep=2)
    for step in range(1, 8):
        params = {"a": jnp.full(3, float(step))}
        writer.save(step, params, {"m": params}, force=step == 7)
    writer.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["6", "7"]
    reader = run_checkpoints.RunCheckpoints(tmp_path, every=2, keep=2)
    tree = abstract({"a": jnp.zeros(3)})
    step, params, optimizer = reader.restore(tree, {"m": tree})
    assert step == 7 and float(params["a"][0]) == 7 == float(optimizer["m"]["a"][1])
    with pytest.raises(checkpoint.CheckpointError, match=r"a: checkpoint \(3,\), model \(4,\)"):
        reader.restore(abstract({"a": jnp.zeros(4)}), {"m": tree})
    reader.close()


def test_saved_arrays_may_be_donated_at_once(tmp_path):
    """The write goes on while the next step overwrites its buffers."""
    writer = run_checkpoints.RunCheckpoints(tmp_path, every=1, keep=9)
    overwrite = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros((512, 512))
    for step in range(1, 6):
        writer.save(step, {"x": x}, {"count": jnp.asarray(step)})
        x = overwrite(x)
    writer.close()
    tree = abstract({"x": x})
    for step in range(1, 6):
        restored = ocp.load_checkpointables(checkpoint.step_folder(tmp_path, step),
                                            {"params": tree})["params"]["x"]
        assert float(restored.min()) == float(restored.max()) == step - 1


@pytest.mark.parametrize("text, message", [
    (None, "neither a converted checkpoint nor a training run"), ("{", "legion.json"),
    ('{"format": 9}', "format 9, this version reads 4"), ('{"format": 4}', "config"),
    ("[]", "expected a JSON object, found list"),
    ('{"format": 4, "base": null, "config": {"vision": 1}}', "missing field")])
def test_unusable_meta_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / checkpoint.META).write_text(text)
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.read_meta(tmp_path)


def test_unknown_architecture_field_is_named(tmp_path):
    legion_json.write_meta(tmp_path, tiny())
    meta = json.loads((tmp_path / checkpoint.META).read_text())
    meta["config"]["vision"]["widht"] = 3
    (tmp_path / checkpoint.META).write_text(json.dumps(meta))
    with pytest.raises(checkpoint.CheckpointError, match="config.vision|clip: unknown field widht"):
        checkpoint.read_meta(tmp_path)


def test_run_without_a_finished_checkpoint(tmp_path):
    legion_json.write_meta(tmp_path, tiny(), base=None, trained=[])
    with pytest.raises(checkpoint.CheckpointError, match="no finished checkpoint"):
        checkpoint.Checkpoint.open(tmp_path).load({})


def load_as_second_host(converted: str, run: str) -> list:
    """Both kinds of folder onto this host's devices, while the other host loads nothing."""
    if jax.process_index() == 0:
        return []
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = {"a": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=device)}
    return [np.asarray(checkpoint.Checkpoint.open(folder).load(wanted)["a"]).tolist()
            for folder in (converted, run, run)]


def test_one_of_two_hosts_loads_without_waiting_for_the_other(tmp_path):
    converted, run = tmp_path / "converted", tmp_path / "run"
    for folder in (converted, run):
        folder.mkdir()
        legion_json.write_meta(folder, tiny(), base=None, trained=["a"])
    stored_params.save_params(converted, {"a": np.full(3, 2, np.float32)})
    writer = run_checkpoints.RunCheckpoints(run, every=1, keep=2)
    writer.save(1, {"a": jnp.full(3, 5.0)}, {"m": jnp.zeros(3)})
    writer.close()
    loaded = several_hosts.run(load_as_second_host, str(converted), str(run))
    assert loaded == [[], [[2, 2, 2], [5, 5, 5], [5, 5, 5]]]


def test_damaged_step_is_named(tmp_path):
    writer = run_checkpoints.RunCheckpoints(tmp_path, every=1, keep=2)
    writer.save(1, {"a": jnp.zeros(3)}, {"m": jnp.zeros(3)})
    writer.close()
    legion_json.write_meta(tmp_path, tiny(), base=None, trained=["a"])
    (tmp_path / "checkpoints" / "9").mkdir()
    with pytest.raises(checkpoint.CheckpointError, match="checkpoints/9: damaged or incomplete"):
        checkpoint.Checkpoint.open(tmp_path).load(abstract({"a": jnp.zeros(3)}))


def test_metrics_behind_the_checkpoint_are_dropped(tmp_path):
    log = metrics_log.MetricsLog(checkpoint.epath.Path(tmp_path), start=0, total=4)
    log.write([(0, {k: 0.5 for k in KEYS}), (1, {k: 0.25 for k in KEYS})], {})
    log.close()
    log = metrics_log.MetricsLog(checkpoint.epath.Path(tmp_path), start=1, total=4)
    log.write([(1, {k: 0.125 for k in KEYS})], {})
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["loss"]) for r in rows] == [(0, 0.5), (1, 0.125)]


KEYS = ("loss", "ce", "bce", "dice", "verdict", "grad_norm", "learning_rate")


@pytest.mark.parametrize("folder, base, may", [
    ("/runs/a", "/weights", True), ("gs://mine/a", "gs://mine/weights", True),
    ("gs://mine/a", "/weights", True), ("/runs/a", "gs://yours/weights", False),
    ("gs://mine/a", "gs://mine2/weights", False), ("gs://mine/a", "s3://mine/weights", False)])
def test_another_bucket_needs_the_users_word(folder, base, may):
    with flagsaver.flagsaver(trust_base=True):
        trust.check_base(folder, base)
    if may:
        trust.check_base(folder, base)
    else:
        with pytest.raises(checkpoint.CheckpointError, match="--trust_base"):
            trust.check_base(folder, base)


def test_bases_of_bases_are_followed_so_far_and_no_farther(tmp_path):
    base = None
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        legion_json.write_meta(folder, tiny(), base=base, trained=[])
        stored_params.save_params(folder, {"a": np.zeros(3, np.float32)})
        base = checkpoint.base_of(folder)
    opened = checkpoint.Checkpoint.open(tmp_path / str(checkpoint.MOST_BASES))
    assert len(opened.chain) == checkpoint.MOST_BASES + 1
    for asked in ("chain", "stored"):
        with pytest.raises(checkpoint.CheckpointError, match="the 17th base of a base; 16 are"):
            getattr(checkpoint.Checkpoint.open(folder), asked)


@pytest.mark.parametrize("name", ["legion.json", "params/all.safetensors"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    legion_json.write_meta(tmp_path, tiny(), base=None, trained=[])
    stored_params.save_params(tmp_path, {"a": np.zeros(3, np.float32)})
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(checkpoint.CheckpointError, match=f"{name}: not a plain file"):
        assert checkpoint.Checkpoint.open(tmp_path).stored


def test_a_bucket_behind_a_local_uri_is_none(tmp_path):
    base = {"path": "file://gs://yours/weights", "fingerprint": "0", "step": None}
    legion_json.write_meta(tmp_path, tiny(), base=base, trained=[])
    with pytest.raises(UserError, match="a URI in a URI"):
        assert checkpoint.Checkpoint.open(tmp_path).base
