"""legion_jax/command.py: exit codes of command lines that ask for help, and of others."""

import pytest
from commands import run_tool


@pytest.mark.parametrize("flags, code", [(("--help",), 0), (("--helpshort",), 0), (("--helq",), 1)])
def test_who_asks_for_help_gets_it_without_an_error(flags, code):
    done = run_tool("tools.compare", *flags)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert ("flags:" in done.stdout) == (code == 0)
