"""Commands as users start them, in a process of their own."""

import subprocess
import sys


def run_tool(module: str, *arguments) -> subprocess.CompletedProcess[str]:
    """`python -m module` with these arguments, whatever its exit code is."""
    return subprocess.run([sys.executable, "-m", module, *map(str, arguments)],
                          capture_output=True, text=True, check=False)
