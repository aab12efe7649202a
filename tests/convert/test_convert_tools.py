"""The commands around conversion: what they print, their exit codes, and that `kill` tidies up."""

import signal
import subprocess
import sys
import time

import layouts
import pytest
from commands import run_tool

from legion_jax.convert import import_command
from legion_jax.convert.from_torch import Summary


def run(tool, *arguments):
    done = run_tool(f"tools.{tool}", *arguments)
    return done.returncode, done.stdout, done.stderr.splitlines()[-1:]


@pytest.mark.slow  # the gate has it with a bucket
def test_in_and_out_by_command(folders, tmp_path):
    given = [f"--checkpoint={folders[0]}", f"--clip={folders[1]}"]
    out, back = f"--output={tmp_path}/jax", f"--output={tmp_path}/torch"
    code, text, _ = run("convert_from_torch", *given, out)
    assert code == 0 and " parameters; " in text
    assert run("convert_from_torch", "--verify", out)[:2] == (
        0, f"{tmp_path}/jax: equal to its sources, bit for bit\n")
    code, _, error = run("convert_from_torch", "--verify", out, *given)
    assert code == 1 and error[0].startswith("error: --checkpoint, --clip: --verify reads")
    code, text, _ = run("export_to_torch", f"--checkpoint={tmp_path}/jax", back)
    assert code == 0 and f"{tmp_path}/torch/pytorch_model-00001-of-00002.bin: " in text
    for before, after in zip(folders, (tmp_path / "torch", tmp_path / "torch/clip"), strict=True):
        layouts.assert_same_arrays(layouts.raw(before), layouts.raw(after))
    (tmp_path / "jax/params/vision.safetensors").unlink()
    assert run("convert_from_torch", "--verify", out)[0] == 1


def test_a_killed_conversion_removes_what_it_wrote(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.make_random_checkpoint", f"--output={tmp_path}/weights",
         "--format=safetensors"], stderr=subprocess.PIPE)
    try:
        while process.poll() is None and not list(tmp_path.glob(".*/*.safetensors")):
            time.sleep(0.01)
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM, process.stderr.read()[-2000:]
    finally:
        process.kill()
    assert not list(tmp_path.iterdir())


def test_a_tower_that_is_not_used_is_mentioned(config, capsys):
    inside = "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight"
    import_command.describe(
        Summary(config, 7, carried=[inside], unknown=[], absent=[], nonfinite=[]),
        "out", checkpoint="whole", clip="other")
    assert "the one inside whole (1 tensors) is carried through unused" in capsys.readouterr().out
