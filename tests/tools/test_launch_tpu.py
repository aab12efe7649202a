"""tools/launch/tpu_vm.sh, with stand-ins for gcloud that answer as Google's does or fails to."""

import pathlib
import re
import shlex
import subprocess
from collections import Counter

import pytest
from git_checkout import launch_checkout
from stand_ins import StandIns, says, wait_until

SETTINGS = {"PROJECT": "p", "ZONE": "us-west4-a", "TYPE": "v5litepod-16",
            "RUNTIME": "v2-alpha-tpuv5-lite", "WORKDIR": "gs://bucket/runs/my run"}
ARGUMENTS = ["--config", "experiments/base.py", "--config.mesh=(1,-1,1)",
             "--config.data.instruction=Say \"real\" or 'fake': $HOME \\ & more"]
MISSING = says(code=1, error="ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: "
                             "Resource 'projects/p/locations/z/queuedResources/name' was not found")
DENIED = says(code=1, error="ERROR: (gcloud) PERMISSION_DENIED: no tpu.queuedResources.get\n")
NO_ANSWER = says(code=255, error="ssh: connect to host: timed out\n")


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> pathlib.Path:
    """tpu_vm.sh in a checkout that is quick to pack."""
    checkout = launch_checkout(tmp_path_factory.mktemp("checkout"))
    return checkout / "tools" / "launch" / "tpu_vm.sh"


class Cloud:
    """What gcloud answers; the defaults are those of slices that are there and train to the end."""

    def __init__(self, folder: pathlib.Path, script: pathlib.Path):
        self.programs, self.script = StandIns(folder / "programs"), script

    def train(self, *, settings=None, name="name", arguments=ARGUMENTS, **answers):
        """Run tpu_vm.sh; `answers` are lists by kind of call."""
        patterns = {"reason": "failedData", "describe": " describe ", "create": " create ",
                    "delete": " delete ", "scp": " scp ", "state": "legion_host.sh state",
                    "log": "legion_host.sh log", "prepare": "legion_host.sh prepare",
                    "start": "legion_host.sh start", "stop": "legion_host.sh stop"}
        answers = {"describe": [says("ACTIVE\n")],
                   "log": [says("update 1\nlegion-state 1 running\n"),
                           says("update 2\nlegion-state 2 ended 0\n")]} | answers
        self.programs.add("gcloud", *((pattern, answers.get(kind, [says()]))
                                      for kind, pattern in patterns.items()))
        return self.programs.run("bash", self.script, name, *arguments,
                                 **{"POLL": "0"} | SETTINGS | (settings or {}))

    def kinds(self) -> Counter:
        """How often each kind of call was made."""
        words = [" ".join(call) for call in self.programs.calls()]
        return Counter(kind for text in words for kind in (
            "create", "delete", "scp", "state", "log", "prepare", "start", "stop")
            if re.search(rf" {kind}\b", text))

    def remote(self, kind: str) -> list[list[str]]:
        """What the shells of the hosts make of the commands of a kind."""
        commands = (shlex.split(call[-1]) for call in self.programs.calls("ssh"))
        return [words for words in commands if kind in words]


@pytest.fixture
def cloud(tmp_path, script):
    return Cloud(tmp_path, script)


@pytest.mark.parametrize("missing", SETTINGS)
def test_every_setting_is_asked_for(cloud, missing):
    done = cloud.train(settings={missing: ""})
    assert done.returncode == 1 and f"{missing}: not set" in done.stderr


@pytest.mark.parametrize("wrong, sentence", [
    ({"WORKDIR": "/tmp/run"}, "gs:// folders only"), ({"SLICES": "0"}, "no number of slices")])
def test_a_setting_that_cannot_be_is_refused(cloud, wrong, sentence):
    done = cloud.train(settings=wrong)
    assert done.returncode == 1 and sentence in done.stderr and not cloud.programs.calls()


def test_a_dry_run_prints_the_commands_and_runs_none(cloud):
    done = cloud.train(settings={"DRY_RUN": "1", "SPOT": "1", "SLICES": "2",
                                 "SERVICE_ACCOUNT": "trainer@p"})
    assert done.returncode == 0, done.stderr
    commands = [shlex.split(line) for line in done.stdout.splitlines() if line[:6] == "gcloud"]
    create, *_, first, second, _ = commands
    assert create[create.index("--node-count"):][:4] == ["--node-count", "2", "--node-prefix",
                                                         "name"]
    assert create[-3:] == ["--spot", "--service-account", "trainer@p"]
    assert [words[5] for words in (first, second)] == ["name-0", "name-1"]
    assert shlex.split(second[-1])[-len(ARGUMENTS):] == ARGUMENTS
    assert not cloud.programs.calls()


def test_training_starts_on_every_host_and_its_log_and_exit_code_come_back(cloud):
    done = cloud.train(describe=[MISSING, says("WAITING_FOR_RESOURCES\n"), says("PROVISIONING\n"),
                                 says("ACTIVE\n")])
    assert done.returncode == 0, done.stderr
    assert "update 1\nupdate 2\n" in done.stdout and "legion-state" not in done.stdout
    assert cloud.kinds() == {"create": 1, "state": 1, "scp": 1, "prepare": 1, "start": 1, "log": 2}
    start, = cloud.remote("start")
    assert start[-len(ARGUMENTS) - 1:] == [SETTINGS["WORKDIR"], *ARGUMENTS]
    copied, = cloud.programs.calls("scp", "--worker=all")
    assert [pathlib.Path(path).name for path in copied[5:8]] == ["legion_code.tar.gz",
                                                                 "legion_host.sh", "name:"]
    assert [words[-1] for words in cloud.remote("log")] == ["0", "1"]  # new lines only


@pytest.mark.parametrize("code", [1, 143])
def test_the_exit_code_is_that_of_training(cloud, code):
    done = cloud.train(log=[says(f"told\nlegion-state 1 ended {code}\n")])
    assert done.returncode == code and cloud.kinds()["start"] == 1
    assert f"ended with exit code {code}" in done.stdout


def test_several_slices_are_nodes_that_know_their_number(cloud):
    done = cloud.train(settings={"SLICES": "3", "END_HOLDERS": "1"})
    assert done.returncode == 0, done.stderr
    assert {words[0] for words in cloud.remote("start")} == {"SLICE=0", "SLICE=1", "SLICE=2"}
    assert {words[1] for words in cloud.remote("prepare")} == {"END_HOLDERS=1"}
    assert {call[5] for call in cloud.programs.calls("ssh", "--worker=all")} == {
        "name-0", "name-1", "name-2"}
    assert {call[5] for call in cloud.programs.calls("ssh", "--worker=0")} == {"name-0"}


@pytest.mark.parametrize("described, sentence", [
    ([DENIED], "PERMISSION_DENIED"), ([says("\n")], "without a state"),
    ([says("STRANGE\n")], "in the state STRANGE"),
    ([says("PROVISIONING\n"), DENIED], "could not describe it")])
def test_a_describe_without_a_state_ends_the_wait(cloud, described, sentence):
    done = cloud.train(describe=described)
    assert done.returncode == 1 and sentence in done.stderr
    assert not cloud.kinds()  # above all, nothing was created


def test_a_describe_that_fails_in_between_does_not_end_the_wait(cloud):
    done = cloud.train(describe=[says("PROVISIONING\n"), DENIED, DENIED, says("ACTIVE\n")])
    assert done.returncode == 0 and done.stderr.count("PERMISSION_DENIED") == 2


def test_a_failed_request_says_why(cloud):
    done = cloud.train(describe=[says("FAILED\n")], reason=[says("no more quota in us-west4\n")])
    assert done.returncode == 1
    assert "FAILED: no more quota in us-west4" in done.stderr and "delete name" in done.stderr


def test_a_request_that_is_refused_ends_the_start(cloud):
    done = cloud.train(describe=[MISSING], create=[says(code=1, error="RESOURCE_EXHAUSTED\n")])
    assert done.returncode == 1 and "RESOURCE_EXHAUSTED" in done.stderr
    assert cloud.kinds() == {"create": 1}


def test_the_wait_for_slices_has_an_end(cloud):
    done = cloud.train(describe=[says("WAITING_FOR_RESOURCES\n")], settings={"MAX_WAIT": "0"})
    assert done.returncode == 1 and "WAITING_FOR_RESOURCES after MAX_WAIT=0" in done.stderr


def test_slices_that_were_taken_back_before_the_start_are_asked_for_again(cloud):
    done = cloud.train(describe=[says("SUSPENDED\n"), says("DELETING\n"), MISSING,
                                 says("ACTIVE\n")])
    assert done.returncode == 0, done.stderr
    assert cloud.kinds()["delete"] == cloud.kinds()["create"] == 1
    deleted, = cloud.programs.calls("delete")
    assert {"--force", "--quiet"} < set(deleted)


def test_suspended_slices_that_cannot_be_deleted_end_the_start(cloud):
    done = cloud.train(describe=[says("SUSPENDED\n")], delete=[DENIED])
    assert done.returncode == 1 and "could not be deleted" in done.stderr


@pytest.mark.parametrize("last", [NO_ANSWER, says("saved\nlegion-state 1 ended 143\n"),
                                  says("lost a peer\nlegion-state 1 ended 1\n")])
def test_training_goes_on_when_slices_are_taken_back(cloud, last):
    done = cloud.train(
        describe=[says("ACTIVE\n"), says("SUSPENDING\n"), says("SUSPENDED\n"), MISSING,
                  says("ACTIVE\n")],
        log=[last, says("going on\nlegion-state 1 ended 0\n")])
    assert done.returncode == 0, done.stderr
    assert cloud.kinds()["start"] == 2 and "going on" in done.stdout
    first, second = cloud.remote("start")
    assert first[-len(ARGUMENTS) - 1:] == second[-len(ARGUMENTS) - 1:]


def test_slices_that_somebody_deletes_are_not_asked_for_again(cloud):
    done = cloud.train(describe=[says("ACTIVE\n"), MISSING], log=[NO_ANSWER])
    assert done.returncode == 1 and "was deleted" in done.stderr
    assert not cloud.kinds()["create"]


def test_a_host_may_miss_a_look_but_not_all_of_them(cloud):
    ended = says("legion-state 0 ended 0\n")
    assert cloud.train(log=[NO_ANSWER, NO_ANSWER, ended]).returncode == 0
    done = cloud.train(log=[NO_ANSWER])
    assert done.returncode == 1 and "timed out" in done.stderr
    assert "training may go on, and the same command follows it" in done.stderr


def test_training_that_vanished_is_named(cloud):
    done = cloud.train(log=[says("legion-state 5 lost\n")])
    assert done.returncode == 1 and "gone without an exit code" in done.stderr


def test_a_first_host_that_does_not_answer_ends_the_start(cloud):
    done = cloud.train(state=[NO_ANSWER])
    assert done.returncode == 1 and "its first host does not answer" in done.stderr


@pytest.mark.parametrize("kind, sentence, calls", [
    ("scp", "could not be copied to every host", {"state": 1, "scp": 2}),
    ("prepare", "not every host is ready", {"state": 1, "scp": 2, "prepare": 2}),
    ("start", "did not start on every host",
     {"state": 1, "scp": 2, "prepare": 2, "start": 2, "stop": 2})])
def test_what_fails_on_one_host_is_not_done_without_it(cloud, kind, sentence, calls):
    answers = [says(), says(code=1, error="error: t1v-1: process 7 holds the chips\n")]
    done = cloud.train(settings={"SLICES": "2"}, **{kind: answers})
    assert done.returncode == 1 and sentence in done.stderr and "holds the chips" in done.stderr
    assert "failed on: name-" in done.stderr
    assert cloud.kinds() == calls


def test_a_second_start_shows_the_log_of_the_first(cloud):
    recorded = subprocess.run(["bash", "-c", "printf '%q ' \"$@\"", "bash", SETTINGS["WORKDIR"],
                               *ARGUMENTS], capture_output=True, text=True, check=True).stdout
    done = cloud.train(state=[says(f"running\n{recorded}")])
    assert done.returncode == 0, done.stderr
    assert "runs already" in done.stdout and "update 2" in done.stdout
    assert cloud.kinds() == {"state": 1, "log": 2}


def test_a_second_start_with_other_arguments_is_refused(cloud):
    done = cloud.train(state=[says("running\ngs://bucket/other --config x ")])
    assert done.returncode == 1 and "gs://bucket/other --config x" in done.stderr
    assert "legion_host.sh stop" in done.stderr and cloud.kinds() == {"state": 1}


# A slice of two hosts: gcloud's ssh and scp act on folders.
HOSTS = """
last=${@: -1}; failed=0
for host in "$HOSTS"/*; do
  case " $* " in
    *" scp "*) cp "$5" "$6" "$host" ;;
    *--worker=0*) cd "$HOSTS/0" && HOME=$PWD exec bash -c "$last" ;;
    *) (cd "$host" && HOME=$host exec bash -c "$last") || failed=$? ;;
  esac
done
exit $failed
"""
TRAINING = """#!/bin/bash
echo "$HOME trains"
while [ ! -f "$HOME/../../finish" ]; do sleep 0.02; done
exit 5
"""


def test_both_scripts_together_train_on_two_hosts(tmp_path, script):
    programs, hosts = StandIns(tmp_path / "programs"), tmp_path / "hosts"
    for number in "01":
        (hosts / number / "legion_venv" / "bin").mkdir(parents=True)
        python = hosts / number / "legion_venv" / "bin" / "python"
        python.write_text(TRAINING)
        python.chmod(0o755)
    programs.add("gcloud", (" describe ", [says("ACTIVE\n")]), ("^storage cp", [says()]),
                 ("tpu-vm", [says(shell=HOSTS)]))
    programs.add("uv", ("", [says()]))
    programs.add("sudo", ("", [says(code=1)]))
    command = ("bash", script, "name", *ARGUMENTS)
    environment = SETTINGS | {"POLL": "0.1", "HOSTS": str(hosts), "CHIPS": str(tmp_path / "chip"),
                              "TMPDIR": str(tmp_path)}
    path = f"{programs.folder}:"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment | {
            "PATH": path + "/usr/local/bin:/usr/bin:/bin"}) as first:
        wait_until(lambda: all((hosts / n / "legion_run" / "log").exists() for n in "01"))
        first.kill()  # the launching machine is switched off
    (tmp_path / "finish").write_text("")
    wait_until(lambda: all((hosts / n / "legion_run" / "exit").exists() for n in "01"))
    assert "trains" in (hosts / "1" / "legion_run" / "log").read_text()
    assert (hosts / "0" / "legion_run" / "exit").read_text() == "5\n"
    done = programs.run(*command, **environment)
    assert done.returncode == 5, done.stderr
    assert f"{hosts}/0 trains\n" in done.stdout
    assert "training ended with exit code 5" in done.stdout
