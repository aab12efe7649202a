"""tools/launch: every script is linted, and those for GKE and Slurm run with stand-ins."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

import pytest
import yaml
from git_checkout import git, launch_checkout
from repository import ROOT
from stand_ins import StandIns, says

LAUNCH = ROOT / "tools" / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh"))
GKE = {"NAME": "legion", "IMAGE": "gcr.io/p/legion:1", "SERVICE_ACCOUNT": "trainer",
       "ACCELERATOR": "tpu-v5-lite-podslice", "TOPOLOGY": "4x4", "HOSTS": "4",
       "CHIPS_PER_HOST": "4"}
ARGUMENTS = ["--config", "experiments/base.py", "--config.mesh=(1,-1,1)",
             "--config.data.instruction=Say \"real\" or 'fake': $HOME $$ $(NAME) \\ & more"]
SLURM = {"SLURM_JOB_ID": "7", "PYTHON": sys.executable}


def linter(name: str) -> str:
    """The linter of the environment the tests run in."""
    path = shutil.which(name, path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"{name} is not installed; it comes with the extra 'test'")
    return path


@pytest.fixture
def programs(tmp_path):
    return StandIns(tmp_path / "programs")


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_explain_themselves(programs, script):
    done = programs.run("bash", LAUNCH / script)
    assert done.returncode == 1 and done.stderr.startswith("error: usage: ")
    assert os.access(LAUNCH / script, os.X_OK)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_have_no_faults_that_shellcheck_knows(script):
    done = subprocess.run([linter("shellcheck"), "--severity=warning", LAUNCH / script],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_has_no_faults_that_hadolint_knows():
    done = subprocess.run([linter("hadolint"), LAUNCH / "Dockerfile"], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stdout


def instructions() -> list[list[str]]:
    """The lines of the Dockerfile, as words."""
    text = (LAUNCH / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line and line[0] != "#"]


def test_the_image_has_a_pinned_base_no_root_and_the_code_that_is_packed():
    lines = instructions()
    (_, base), = (line for line in lines if line[0] == "FROM")
    assert re.fullmatch(r"python:3\.1[1-3]-slim-\w+", base)
    users = [line[1] for line in lines if line[0] == "USER"]
    assert users and users[-1] != "0" and users[-1].isdigit()
    copied = {word for line in lines if line[0] == "COPY" for word in line[1:-1]}
    packed = {name.split("/")[0] for name in git(ROOT, "ls-files").split()} | {"code.txt"}
    assert copied <= packed
    assert {"legion_jax", "input_pipeline", "experiments", "tools", "code.txt"} <= copied


@pytest.fixture
def checkout(tmp_path):
    """A checkout with a file that is not committed."""
    folder = launch_checkout(tmp_path / "checkout")
    (folder / "new.py").write_text("x = 1\n")
    return folder


def test_an_image_is_built_from_the_packed_code_and_pushed(programs, checkout, tmp_path):
    programs.add("docker", ("^build ", [says(shell=f"cat > {tmp_path}/context")]),
                 ("^push ", [says()]))
    done = programs.run("bash", checkout / "tools" / "launch" / "image.sh", "gcr.io/p/legion:1")
    assert done.returncode == 0, done.stderr
    build, push = programs.calls()
    assert build[-3:] == ["--tag", "gcr.io/p/legion:1", "-"] and push[-1] == "gcr.io/p/legion:1"
    assert build[2:4] == ["--file", "tools/launch/Dockerfile"]
    assert re.fullmatch("CODE=commit [0-9a-f]{40} with local changes",
                        build[build.index("--build-arg") + 1])
    with tarfile.open(tmp_path / "context") as context:
        assert {"tools/launch/Dockerfile", "code.txt", "new.py"} <= set(context.getnames())


@pytest.mark.parametrize("failing, sentence, settings, calls", [
    ("build", "could not be built", {}, 1), ("push", "could not be pushed", {}, 2),
    ("neither", "", {"PUSH": ""}, 1)])
def test_an_image_that_fails_is_named(programs, checkout, failing, sentence, settings, calls):
    programs.add("docker", (f"^{failing} ", [says(code=1, error="denied\n")]), ("", [says()]))
    done = programs.run("bash", checkout / "tools" / "launch" / "image.sh", "i:1", **settings)
    assert (done.returncode == 0) == (failing == "neither") and sentence in done.stderr
    assert len(programs.calls()) == calls


@pytest.mark.parametrize("missing", GKE)
def test_a_job_set_needs_every_setting(programs, missing):
    done = programs.run("bash", LAUNCH / "gke.sh", *ARGUMENTS, **GKE | {missing: ""})
    assert done.returncode == 1 and f"{missing}: not set" in done.stderr


@pytest.mark.parametrize("name, value", [
    ("NAME", "legion\nspec: {}"), ("NAME", "legion\n"), ("NAME", "legion # x"), ("NAME", '"'),
    ("IMAGE", "a:1\n  command: [sh]"), ("IMAGE", "a, command: [sh]"), ("HOSTS", "4\n4"),
    ("HOSTS", "four"), ("MAX_RESTARTS", "-1"), ("TOPOLOGY", "4x"), ("SERVICE_ACCOUNT", "a: b"),
    ("ACCELERATOR", "{}")])
def test_a_job_set_takes_names_and_numbers_alone(programs, name, value):
    done = programs.run("bash", LAUNCH / "gke.sh", *ARGUMENTS, **GKE | {name: value}, DRY_RUN="1")
    assert done.returncode == 1 and f"error: {name}: cannot be" in done.stderr, done
    assert not done.stdout and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("argument", [
    b"a\nb", b"a\tb", b"a\rb", "a\u0085b".encode(), b"\x1b]0;x\x07", "a\u2028b".encode(), b"a\x01",
    b"\x7f", b"\xff"])
def test_arguments_that_yaml_would_change_are_refused(programs, argument):
    done = programs.run("bash", LAUNCH / "gke.sh", b"--config.x=" + argument, **GKE, DRY_RUN="1")
    assert done.returncode == 1 and "error: an argument holds" in done.stderr
    assert not done.stdout and done.stderr.count("\n") == 1


needs_envsubst = pytest.mark.skipif(not shutil.which("envsubst"), reason="needs gettext's envsubst")


def expanded(argument: str) -> str:
    """What Kubernetes makes of an argument when no variable of the container is named in it."""
    return argument.replace("$$", "$")


@needs_envsubst
def test_a_job_set_holds_the_arguments_as_they_are(programs):
    done = programs.run("bash", LAUNCH / "gke.sh", *ARGUMENTS, **GKE, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    job = yaml.safe_load(done.stdout)
    assert (job["apiVersion"], job["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    slices, = job["spec"]["replicatedJobs"]
    pods = slices["template"]["spec"]
    assert pods["parallelism"] == pods["completions"] == 4 and slices["replicas"] == 1
    pod = pods["template"]["spec"]
    # A pod on the host's network would have the rights of its node.
    assert pod["serviceAccountName"] == "trainer" and "hostNetwork" not in pod
    train, = pod["containers"]
    assert train["command"][:4] == ["python", "-m", "legion_jax.train", "--distributed=auto"]
    assert [expanded(argument) for argument in train["command"][4:]] == ARGUMENTS
    assert json.dumps(job).count("${") == 0


@needs_envsubst
def test_only_restarts_that_pods_were_told_to_make_are_free(programs):
    done = programs.run("bash", LAUNCH / "gke.sh", *ARGUMENTS, **GKE, DRY_RUN="1")
    spec = yaml.safe_load(done.stdout)["spec"]
    assert spec["failurePolicy"] == {"maxRestarts": 3, "rules": [
        {"action": "RestartJobSetAndIgnoreMaxRestarts",
         "onJobFailureReasons": ["PodFailurePolicy"]}]}
    job = spec["replicatedJobs"][0]["template"]["spec"]
    stopped, disrupted = job["podFailurePolicy"]["rules"]
    assert stopped["action"] == disrupted["action"] == "FailJob"
    pod = job["template"]["spec"]
    assert stopped["onExitCodes"] == {"containerName": pod["containers"][0]["name"],
                                      "operator": "In", "values": [143]}
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    # Kubernetes takes a podFailurePolicy from jobs of this kind alone.
    assert pod["restartPolicy"] == "Never" and job["backoffLimit"] == 0


@needs_envsubst
def test_a_job_set_is_sent(programs, tmp_path):
    programs.add("kubectl", ("^create ", [says(shell=f"cat > {tmp_path}/sent")]),
                 ("^get ", [says()]))
    done = programs.run("bash", LAUNCH / "gke.sh", *ARGUMENTS, **GKE, MAX_RESTARTS="0")
    assert done.returncode == 0, done.stderr
    assert programs.calls() == [["kubectl", "get", "serviceaccount", "trainer"],
                                ["kubectl", "create", "-f", "-"]]
    sent = yaml.safe_load((tmp_path / "sent").read_text())
    assert sent["metadata"]["name"] == "legion"
    assert sent["spec"]["failurePolicy"]["maxRestarts"] == 0
    assert "job/legion-slice-0" in done.stdout


@needs_envsubst
@pytest.mark.parametrize("failing, error, sentence", [
    ("get", "NotFound", "trainer could not be found"),
    ("create", "AlreadyExists", "kubectl delete jobset legion")])
def test_what_kubectl_refuses_is_explained(programs, failing, error, sentence):
    programs.add("kubectl", (f"^{failing} ", [says(code=1, error=f"Error: {error}\n")]),
                 ("", [says()]))
    done = programs.run("bash", LAUNCH / "gke.sh", *ARGUMENTS, **GKE)
    assert done.returncode == 1 and error in done.stderr and sentence in done.stderr
    assert programs.calls()[-1][1] == failing


def test_a_slurm_job_is_requeued_when_it_was_told_to_stop(programs):
    programs.add("srun", ("", [says(code=143)]))
    programs.add("scontrol", ("", [says()]))
    done = programs.run("bash", LAUNCH / "slurm.sh", *ARGUMENTS, **SLURM)
    assert done.returncode == 0, done.stderr
    srun, requeue = programs.calls()
    assert srun[2:] == [sys.executable, "-m", "legion_jax.train", "--distributed=auto", *ARGUMENTS]
    assert requeue == ["scontrol", "requeue", "7"]


@pytest.mark.parametrize("code", [0, 1, 137])
def test_a_slurm_job_ends_with_other_exit_codes(programs, code):
    programs.add("srun", ("", [says(code=code)]))
    done = programs.run("bash", LAUNCH / "slurm.sh", *ARGUMENTS, **SLURM)
    assert done.returncode == code and len(programs.calls()) == 1


def test_a_slurm_job_that_cannot_be_requeued_says_that_its_state_is_saved(programs):
    programs.add("srun", ("", [says(code=143)]))
    programs.add("scontrol", ("", [says(code=1, error="Requested operation is disabled\n")]))
    done = programs.run("bash", LAUNCH / "slurm.sh", *ARGUMENTS, **SLURM)
    assert done.returncode == 143 and "is disabled" in done.stderr
    assert "its state is saved, and the same sbatch command goes on" in done.stderr


@pytest.mark.parametrize("settings, sentence", [
    ({"SLURM_JOB_ID": ""}, "start this by sbatch"),
    ({"PYTHON": "venv/bin/python"}, "PYTHON: venv/bin/python is no program in "),
    ({}, "srun: not found")])
def test_a_slurm_job_that_cannot_run_says_why(programs, settings, sentence):
    path = os.environ["PATH"]
    os.symlink(shutil.which("bash", path=path), programs.folder / "bash")
    done = subprocess.run(["bash", LAUNCH / "slurm.sh", *ARGUMENTS], capture_output=True, text=True,
                          env=SLURM | {"PATH": str(programs.folder)} | settings, check=False)
    assert done.returncode == 1 and sentence in done.stderr
