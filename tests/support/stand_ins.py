"""Programs in front of PATH that record how they are called and answer as a test says."""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

# What a stand-in does: the first rule whose pattern its arguments hold answers, each of its
# answers once and the last of them from then on.
PROGRAM = """#!{python} -IS
import fcntl, json, os, re, subprocess, sys
folder = {folder!r}
arguments = sys.argv[1:]
with open(folder + "/lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with open(folder + "/calls.jsonl", "a") as calls:
        calls.write(json.dumps([{name!r}, *arguments]) + "\\n")
    with open(folder + "/{name}.json") as file:
        rules = json.load(file)
    for pattern, answers in rules:
        if re.search(pattern, " ".join(arguments), re.DOTALL):
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            break
    else:
        sys.exit("stand-in for {name}: no answer to " + " ".join(arguments))
    with open(folder + "/{name}.json", "w") as file:
        json.dump(rules, file)
out, code, error, shell = answer
sys.stdout.write(out)
sys.stderr.write(error)
sys.stdout.flush()
if shell:
    code = subprocess.run(["bash", "-c", shell, {name!r}, *arguments]).returncode
sys.exit(code)
"""


def says(out: str = "", *, code: int = 0, error: str = "", shell: str = "") -> tuple:
    """An answer: what is printed, the exit code, and a shell command that gets the arguments."""
    return out, code, error, shell


class StandIns:
    """Stand-ins in one folder; PATH without them is that of the machine."""

    def __init__(self, folder: pathlib.Path):
        """Starts without any."""
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def add(self, name: str, *rules: tuple[str, Sequence[tuple]]) -> None:
        """A program `name` that answers by (pattern of its arguments, answers)."""
        path = self.folder / name
        path.write_text(PROGRAM.format(python=sys.executable, folder=str(self.folder), name=name))
        path.chmod(0o755)
        path.with_suffix(".json").write_text(json.dumps(rules))

    def calls(self, *words: str) -> list[list[str]]:
        """Every call so far that holds the words, as program and arguments, in order."""
        path = self.folder / "calls.jsonl"
        calls = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
        return [call for call in calls if all(word in call for word in words)]

    def run(self, *command, **environment: str) -> subprocess.CompletedProcess:
        """Run a command with the stand-ins in front of PATH."""
        path = f"{self.folder}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60,
                              env=os.environ | {"PATH": path} | environment)


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
