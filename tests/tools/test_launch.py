"""tools/launch: scripts parse, say what is missing, and print what they would run."""

import json
import os
import shlex
import shutil
import subprocess

import pytest
import yaml
from repository import ROOT

LAUNCH = ROOT / "tools" / "launch"
TPU = {"PROJECT": "p", "ZONE": "us-west4-a", "TYPE": "v5litepod-16",
       "RUNTIME": "v2-alpha-tpuv5-lite", "REPOSITORY": "https://host/legion",
       "WORKDIR": "gs://bucket/runs/my run"}
GKE = {"NAME": "legion", "IMAGE": "gcr.io/p/legion", "ACCELERATOR": "tpu-v5-lite-podslice",
       "TOPOLOGY": "4x4", "HOSTS": "4", "CHIPS_PER_HOST": "4"}
ARGUMENTS = ["--config", "experiments/base.py", "--config.mesh=(1,-1,1)",
             "--config.data.instruction=Say \"real\" or 'fake': $HOME \\ & more"]


def run(script, *arguments, **environment):
    return subprocess.run([LAUNCH / script, *arguments], capture_output=True, text=True,
                          env=os.environ | environment, check=False)


@pytest.mark.parametrize("script", sorted(path.name for path in LAUNCH.glob("*.sh")))
def test_scripts_parse_and_explain_themselves(script):
    assert subprocess.run(["bash", "-n", LAUNCH / script], check=False).returncode == 0
    done = run(script)
    assert done.returncode == 1 and done.stderr.startswith("error: usage: ")


@pytest.mark.parametrize("missing", TPU)
def test_a_tpu_slice_needs_every_setting(missing):
    settings = {name: value for name, value in TPU.items() if name != missing}
    done = run("tpu_vm.sh", "name", "--config", "x", **settings)
    assert done.returncode == 1 and f"{missing}: not set" in done.stderr


def test_a_tpu_slice_shares_no_local_folder():
    done = run("tpu_vm.sh", "name", "--config", "x", **TPU | {"WORKDIR": "/tmp/run"})
    assert done.returncode == 1 and "gs:// folders only" in done.stderr


def test_a_tpu_slice_gets_the_arguments_as_they_are():
    done = run("tpu_vm.sh", "name", *ARGUMENTS, **TPU, DRY_RUN="1", SPOT="1")
    assert done.returncode == 0, done.stderr
    create, *rest = done.stdout.splitlines()
    assert shlex.split(create)[-1] == "--spot" and "v5litepod-16" in create
    # What the shell of a host makes of the command.
    remote = shlex.split(shlex.split(rest[-1])[-1])
    assert remote[-len(ARGUMENTS):] == ARGUMENTS
    assert remote[remote.index("--workdir") + 1] == TPU["WORKDIR"]


@pytest.mark.skipif(not shutil.which("envsubst"), reason="needs envsubst of gettext")
def test_a_job_set_holds_the_arguments_as_they_are():
    done = run("gke.sh", *ARGUMENTS, **GKE, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    job = yaml.safe_load(done.stdout)
    assert (job["apiVersion"], job["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    slices, = job["spec"]["replicatedJobs"]
    pods = slices["template"]["spec"]
    assert pods["parallelism"] == pods["completions"] == 4 and slices["replicas"] == 1
    train, = pods["template"]["spec"]["containers"]
    assert train["command"][:4] == ["python", "-m", "legion_jax.train", "--distributed=auto"]
    assert train["command"][4:] == ARGUMENTS
    assert json.dumps(job).count("${") == 0


@pytest.mark.parametrize("missing", GKE)
def test_a_job_set_needs_every_setting(missing):
    done = run("gke.sh", "--config", "x", **{k: v for k, v in GKE.items() if k != missing})
    assert done.returncode == 1 and f"{missing}: not set" in done.stderr


def test_a_slurm_job_is_requeued_when_it_was_told_to_stop(tmp_path):
    calls = tmp_path / "calls"
    for name, code in (("srun", 143), ("scontrol", 0)):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {calls}\nexit {code}\n')
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run("slurm.sh", "--config", "experiments/base.py", PATH=path, SLURM_JOB_ID="7")
    assert done.returncode == 0, done.stderr
    srun, requeue = calls.read_text().splitlines()
    assert srun.endswith("-m legion_jax.train --distributed=auto --config experiments/base.py")
    assert requeue == "scontrol requeue 7"
    (tmp_path / "srun").write_text("#!/bin/sh\nexit 3\n")
    done = run("slurm.sh", "--config", "experiments/base.py", PATH=path, SLURM_JOB_ID="7")
    assert done.returncode == 3 and len(calls.read_text().splitlines()) == 2
