"""Commands as users start them, `python -m MODULE`, and code, each in a process of its own.

It is forked from a process that has imported what the commands import, as importing takes longer
than most of what tests let them do. Where the environment differs in what is read while importing,
a new interpreter is started instead.
"""

import atexit
import multiprocessing
import multiprocessing.util
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import weakref

from repository import ROOT

# What commands import, and torch and tensorboardX, which they import only when they come to it. No
# command itself: Python would warn that it was imported before it was run.
IMPORTED = ["legion_jax.train.run", "legion_jax.evaluate.run", "legion_jax.predict.job",
            "legion_jax.predict.predictor", "tensorboardX", "torch", "commands"]
READ_LATE = ("XLA_FLAGS", "STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL",
             "CLOUD_STORAGE_EMULATOR_ENDPOINT", "PYTHONPATH", "PYTEST_CURRENT_TEST", "COLUMNS")
CODE = "-c"  # in place of a module
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(IMPORTED)
_STARTED: weakref.WeakSet = weakref.WeakSet()
_BEGUN_WITH: dict[str, str] = {}  # the environment of the process that commands are forked from


class Command:
    """A started command, used as `subprocess.Popen`; what it prints is in `communicate`'s result.

    Attributes:
        log: the file that its standard error goes to.
    """

    def __init__(self, module: str, arguments: list[str], environment: dict[str, str],
                 folder: pathlib.Path):
        self.args = ["-c", *arguments] if module == CODE else ["-m", module, *arguments]
        self._files = tempfile.TemporaryDirectory(prefix="command-")
        out, self.log = (pathlib.Path(self._files.name) / name for name in ("out", "log"))
        self._out = out
        _BEGUN_WITH.update({} if _BEGUN_WITH else os.environ)
        if _early(environment) == _early(_BEGUN_WITH):
            self._process = CONTEXT.Process(target=_run, args=(
                module, arguments, environment, folder, out, self.log))
            self._process.start()
        else:
            with out.open("w") as stdout, self.log.open("w") as stderr:
                self._process = subprocess.Popen(
                    [sys.executable, *self.args], env=environment, cwd=folder,
                    stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        self.pid = self._process.pid
        _STARTED.add(self)

    def poll(self) -> int | None:
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def wait(self, timeout: float | None = None) -> int:
        if isinstance(self._process, subprocess.Popen):
            return self._process.wait(timeout)
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """(standard output, standard error), when it has ended."""
        self.wait(timeout)
        return tuple(path.read_text(errors="replace") for path in (self._out, self.log))

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


@atexit.register  # behind multiprocessing's own, which waits for all of them, so run before it
def _kill_left() -> None:
    for command in list(_STARTED):
        if command.poll() is None:
            command.kill()


def start(module: str, *arguments, env: dict[str, str] | None = None,
          cwd: pathlib.Path = ROOT) -> Command:
    """`python -m module` with these arguments, from a folder, in an environment (this one).

    With CODE as the module, `python -c` with the first of them.
    """
    return Command(module, [*map(str, arguments)], dict(os.environ if env is None else env), cwd)


def run_tool(module: str, *arguments, env: dict[str, str] | None = None,
             cwd: pathlib.Path = ROOT,
             timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """As `start`, waiting until it has ended, whatever its exit code is."""
    command = start(module, *arguments, env=env, cwd=cwd)
    try:
        out, log = command.communicate(timeout)
    except BaseException:
        command.kill()
        raise
    return subprocess.CompletedProcess(command.args, command.returncode, out, log)


def _early(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in READ_LATE}


def _run(module: str, arguments: list[str], environment: dict[str, str], folder: pathlib.Path,
         out: pathlib.Path, log: pathlib.Path) -> None:
    """What `python -m` does, in a process that was just forked."""
    os.setsid()  # a group of its own, to be killed with whatever it starts
    for stream, path in ((1, out), (2, log)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code, sys.argv = (arguments[0], ["-c", *arguments[1:]]) if module == CODE else (
        None, [module, *arguments])
    tests = str(ROOT / "tests")
    added = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [str(folder), *added, *(p for p in sys.path if not p.startswith(tests))]
    try:
        if code is None:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()
