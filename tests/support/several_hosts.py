"""One of several processes with eight devices in all; `run` starts them on a test's function."""

import json
import os
import runpy
import socket
import sys
from collections.abc import Callable

import commands
import quick_xla
from repository import ROOT, SUPPORT


def run(function: Callable, *arguments, hosts: int = 2) -> list:
    """Call a function of a test file in processes that form one mesh of eight devices.

    Returns what each returned, as JSON gives it back. Raises AssertionError with the end of the
    log of a process that failed.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick_xla.flags(8 // hosts),
        "PYTHONPATH": ":".join([str(ROOT), str(SUPPORT)])}
    processes = [commands.start(
        "several_hosts", host, hosts, port, function.__code__.co_filename, function.__name__,
        json.dumps(arguments), env=environment) for host in range(hosts)]
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, log) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, log[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def main() -> None:
    host, hosts, port, file, name, arguments = sys.argv[1:]
    import jax
    jax.distributed.initialize(f"localhost:{port}", int(hosts), int(host))
    function = runpy.run_path(file)[name]
    print(json.dumps(function(*json.loads(arguments))))
    jax.distributed.shutdown()  # waits for the others, which end with the first host


if __name__ == "__main__":
    main()
