"""Commands as users start them, in a process of their own."""

import subprocess
import sys

from repository import ROOT


def run_tool(module: str, *arguments, timeout: float | None = None
             ) -> subprocess.CompletedProcess[str]:
    """`python -m module` with these arguments in the checkout, whatever its exit code is."""
    return subprocess.run([sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT,
                          capture_output=True, text=True, check=False, timeout=timeout)
