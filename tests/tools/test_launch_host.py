"""tools/launch/tpu_host.sh, run for real in a home folder of its own, and pack_code.sh."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile

import pytest
from git_checkout import git, launch_checkout
from repository import ROOT
from stand_ins import StandIns, says, wait_until

LAUNCH = ROOT / "tools" / "launch"
WORKDIR = "gs://bucket/runs/my run"
ARGUMENTS = ["--config", "experiments/base.py", "--config.data.instruction=Say \"it\": $HOME \\ &"]

# The Python of a host: training that goes on until the test says how it ends.
TRAINING = """#!/bin/bash
trap 'echo told to stop; exit 7' TERM
printf '%s\\n' "$@"
while [ ! -f "$HOME/finish" ]; do sleep 0.02; done
exit "$(cat "$HOME/finish")"
"""
VENV = """[ "$1" = venv ] || exit 0
mkdir -p "$HOME/legion_venv/bin"
cp {training} "$HOME/legion_venv/bin/python"
"""
# A bucket that is a folder.
STORE = 'target=$BUCKET/${5#gs://bucket/}; mkdir -p "$(dirname "$target")"; cp "$4" "$target"'


class Host:
    """A home folder with what tpu_vm.sh copies, and the programs of a TPU VM."""

    def __init__(self, folder: pathlib.Path):
        self.home, self.bucket = folder / "home", folder / "bucket"
        self.home.mkdir()
        shutil.copy(LAUNCH / "tpu_host.sh", self.home / "legion_host.sh")
        (folder / "code.txt").write_text("commit 1234 with local changes\n")
        with tarfile.open(self.home / "legion_code.tar.gz", "w:gz") as archive:
            archive.add(folder / "code.txt", "code.txt")
        (folder / "training").write_text(TRAINING)
        (folder / "training").chmod(0o755)
        self.chip = folder / "chip"
        self.chip.touch()
        self.programs = StandIns(folder / "programs")
        self.programs.add("uv", ("", [says(shell=VENV.format(training=folder / "training"))]))
        self.programs.add("sudo", ("", [says(code=1)]))  # without a password: no
        self.programs.add("gcloud", ("^storage cp", [says(shell=STORE)]))
        self.programs.add("gsutil", ("", [says(code=1, error="gsutil: denied\n")]))

    def __call__(self, *words, **settings):
        return self.programs.run(
            "bash", self.home / "legion_host.sh", *words, HOME=str(self.home),
            TMPDIR=str(self.home), CHIPS=str(self.chip), BUCKET=str(self.bucket),
            UPLOAD_SECONDS="0.05", **settings)

    def finish(self, code: int) -> None:
        (self.home / "finish").write_text(f"{code}")
        wait_until(lambda: self("state").stdout.startswith(f"ended {code}\n"))

    def stored(self, end: str) -> str:
        """The one object of the bucket whose name ends so, once it is there."""
        wait_until(lambda: any(self.bucket.rglob(f"*{end}")))
        path, = self.bucket.rglob(f"*{end}")
        return path.read_text()


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path)
    yield host
    (host.home / "finish").write_text("0")  # training that still runs


@pytest.fixture
def training(host):
    assert host("prepare").returncode == 0
    started = host("start", "20260101T000000Z", WORKDIR, *ARGUMENTS, SLICE="1")
    assert started.returncode == 0, started.stderr
    return host


def test_a_host_installs_by_uv_because_the_images_have_an_old_python(host):
    done = host("prepare")
    assert done.returncode == 0, done.stderr
    assert "commit 1234 with local changes" in done.stdout
    venv = str(host.home / "legion_venv")
    assert host.programs.calls("uv") == [
        ["uv", "venv", "--quiet", "--python", "3.12", "--seed", venv],
        ["uv", "pip", "install", "--quiet", "--python", f"{venv}/bin/python", "--editable",
         str(host.home / "legion"), "jax[tpu]"]]
    assert host("prepare").returncode == 0  # the next start finds the environment
    assert len(host.programs.calls("uv", "venv")) == 1


def test_uv_is_installed_where_it_is_missing(host):
    (host.programs.folder / "uv").rename(host.home / "uv")
    install = f"mkdir -p $UV_UNMANAGED_INSTALL && mv {host.home}/uv $UV_UNMANAGED_INSTALL/uv\n"
    host.programs.add("curl", ("", [says(install)]))
    path = os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep)
                           if not (pathlib.Path(folder) / "uv").exists())
    path = f"{host.programs.folder}{os.pathsep}{path}"
    assert host("prepare", PATH=path).returncode == 0
    assert host.programs.calls("curl")[0][-1] == "https://astral.sh/uv/install.sh"
    assert (host.home / ".local" / "bin" / "uv").exists()
    assert len(host.programs.calls("uv")) == 2


@pytest.mark.parametrize("step, sentence", [
    ("venv", "uv could not make"), ("pip", "the packages could not be installed")])
def test_an_installation_that_fails_is_named(host, step, sentence):
    host.programs.add("uv", (f"^{step}", [says(code=2, error="uv: no route\n")]), ("", [says()]))
    done = host("prepare")
    assert done.returncode == 1 and sentence in done.stderr and "no route" in done.stderr


def test_training_outlives_the_session_and_its_log_is_in_the_bucket(training):
    home = training.home
    supervisor = int((home / "legion_run" / "pid").read_text())
    assert os.getsid(supervisor) == supervisor  # the end of ssh's session does not reach it
    assert training("state").stdout.startswith("running\n")
    wait_until(lambda: "$HOME" in training("log", "0").stdout)
    *lines, state = training("log", "0").stdout.splitlines()
    assert lines == ["-m", "legion_jax.train", "--distributed=auto", "--workdir", WORKDIR,
                     *ARGUMENTS]
    assert state == f"legion-state {len(lines)} running"
    assert training("log", str(len(lines))).stdout == f"{state}\n"  # nothing new
    start = training.bucket / "runs" / "my run" / "launch" / "20260101T000000Z"
    wait_until(lambda: ARGUMENTS[0] in training.stored(".log"))  # while it runs
    training.finish(3)
    *_, end, state = training("log", str(len(lines))).stdout.splitlines()
    assert end == "training ended with exit code 3" and state.endswith(" ended 3")
    wait_until(lambda: end in training.stored(".log"))
    assert training.stored(".exit") == "3\n"
    assert training.stored(".code.txt") == "commit 1234 with local changes\n"
    assert {path.parent for path in training.bucket.rglob("slice1-*")} == {start}


@pytest.mark.parametrize("told", ["by the command", "by the system"])
def test_training_that_is_told_to_stop_ends_with_its_own_code(training, told):
    wait_until(lambda: "--workdir" in training("log", "0").stdout)
    if told == "by the command":
        assert training("stop").returncode == 0
    else:
        os.kill(int((training.home / "legion_run" / "pid").read_text()), signal.SIGTERM)
    wait_until(lambda: training("state").stdout.startswith("ended 7\n"))
    assert "told to stop" in training("log", "0").stdout


@pytest.mark.parametrize("command", [("prepare",), ("start", "later", WORKDIR)])
def test_a_second_training_is_refused_while_one_runs(training, command):
    done = training(*command)
    assert done.returncode == 1 and "training already runs here" in done.stderr
    assert training("state").stdout.startswith("running\n")


def test_training_that_left_no_exit_code_is_lost_and_may_be_started_again(training):
    os.kill(int((training.home / "legion_run" / "pid").read_text()), signal.SIGKILL)
    wait_until(lambda: training("state").stdout.startswith("lost\n"))
    (training.home / "finish").write_text("0")
    assert training("start", "later", WORKDIR).returncode == 0
    training.finish(0)


def test_training_is_not_started_when_the_bucket_takes_no_log(host):
    assert host("prepare").returncode == 0
    host.programs.add("gcloud", ("", [says(code=1, error="gcloud: 403 denied\n")]))
    done = host("start", "now", WORKDIR, *ARGUMENTS)
    assert done.returncode == 1 and "403 denied" in done.stderr and "gsutil: denied" in done.stderr
    assert f"nothing could be written to {WORKDIR}" in done.stderr
    assert host("state").stdout == "none\n"


def test_gsutil_copies_where_gcloud_cannot(host):
    host.programs.add("gcloud", ("", [says(code=2)]))
    host.programs.add("gsutil", ("^-q cp", [says()]))
    assert host("prepare").returncode == 0
    assert host("start", "now", WORKDIR).returncode == 0
    target = host.programs.calls("gsutil")[0][-1]
    assert target.startswith(f"{WORKDIR}/launch/now/slice0-") and target.endswith(".code.txt")


@pytest.fixture
def holder(host):
    code = f"import time; file = open({str(host.chip)!r}); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_process_that_holds_the_chips_is_named(host, holder):
    done = host("prepare")
    assert done.returncode == 1 and "END_HOLDERS=1" in done.stderr
    assert f"process {holder.pid} holds the chips: {sys.executable} -c import time" in done.stderr
    assert holder.poll() is None and not host.programs.calls("uv")


def test_a_process_that_holds_the_chips_is_ended_when_asked_for(host, holder):
    done = host("prepare", END_HOLDERS="1")
    assert done.returncode == 0, done.stderr
    assert f"process {holder.pid} holds the chips" in done.stderr
    assert holder.wait(5) == -signal.SIGTERM


@pytest.fixture
def checkout(tmp_path):
    return launch_checkout(tmp_path / "checkout", kept="x = 1\n", changed="x = 1\n",
                           deleted="x = 1\n")


def packed(checkout) -> dict[str, str]:
    """Names and contents of the archive."""
    subprocess.run([checkout / "tools" / "launch" / "pack_code.sh", "code.tar.gz"],
                   cwd=checkout.parent, check=True, capture_output=True)
    with tarfile.open(checkout.parent / "code.tar.gz") as archive:
        return {name: archive.extractfile(name).read().decode() for name in archive.getnames()}


def test_the_archive_has_local_changes_and_says_so(checkout):
    commit = git(checkout, "rev-parse", "HEAD").strip()
    assert packed(checkout)["code.txt"] == f"commit {commit}\n"
    (checkout / "changed.py").write_text("x = 2\n")
    (checkout / "deleted.py").unlink()
    (checkout / "new file.py").write_text("y = 3\n")
    (checkout / "data").mkdir()
    (checkout / "data" / "photo").touch()
    before = git(checkout, "status", "--short")
    files = packed(checkout)
    assert {name for name in files if not name.startswith("tools/launch/")} == {
        ".gitignore", "kept.py", "changed.py", "new file.py", "code.txt"}
    assert files["changed.py"] == "x = 2\n"
    assert files["code.txt"].startswith(f"commit {commit} with local changes\n")
    assert "+x = 2" in files["code.txt"] and "+y = 3" in files["code.txt"]
    assert "deleted file" in files["code.txt"]
    assert git(checkout, "status", "--short") == before  # your index is as it was


def test_a_folder_without_git_is_refused(tmp_path):
    (tmp_path / "tools" / "launch").mkdir(parents=True)
    script = shutil.copy(LAUNCH / "pack_code.sh", tmp_path / "tools" / "launch")
    done = subprocess.run([script, tmp_path / "code.tar.gz"], capture_output=True, text=True,
                          check=False, env=os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path)})
    assert done.returncode == 1 and "no commit of a git checkout" in done.stderr
