"""Training in a process that is forked with everything imported, so that starting costs little."""

import multiprocessing
import os
import runpy
import sys

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["legion_jax.train.run", "legion_jax.train.optim", "killed_run"])


def start(arguments: list[str], log: str) -> multiprocessing.Process:
    """`python -m legion_jax.train` with these arguments, its output in the file `log`."""
    process = CONTEXT.Process(target=_train, args=(arguments, log))
    process.start()
    return process


def _train(arguments: list[str], log: str) -> None:
    os.setsid()  # a group of its own, to be killed with whatever it starts
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.argv = ["legion_jax.train", *arguments]
    runpy.run_module("legion_jax.train", run_name="__main__")
