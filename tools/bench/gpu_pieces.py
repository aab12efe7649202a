"""Pieces of work on a GPU, each in a process of its own and with its own time limit.

A short stay at such a machine gives the first of them. One that fails, or runs past its limit, is
said to be missing and costs the others nothing.
"""

import json
import subprocess
import sys
import tempfile
import time

from etils import epath
from rich.console import Console

from input_pipeline import files
from legion_jax.chips import Chip
from tools.bench import figures, gpu
from tools.bench.cases import Case

LIMITS = {"golden": 300, "train": 300, "answers": 240, "peer_train": 300,
          "peer_answers": 240}  # seconds


def measure_one(name: str, output: str, case: Case, chip: Chip, rounds: int) -> None:
    """Measure a piece in this process, into a file of JSON."""
    files.write_json(output, figures.rounded(gpu.WORK[name](case, chip, rounds)))


def run_all(work: list[str], arguments: list[str], *, golden: str | None,
            console: Console) -> dict:
    """Run the pieces in this order; what each came to is shown at once.

    Args:
        arguments: flags of this command for each of its processes.
        golden: the folder of the case for the piece of this name.

    Returns:
        {piece: its figures, or {"missing": why}}.
    """
    result = {}
    for name in work:
        with tempfile.TemporaryDirectory(prefix="legion-") as folder:
            output = epath.Path(folder) / "piece.json"
            result[name] = _run(name, _command(name, output, arguments, golden), output)
        figures.show_piece(name, result[name], console)
    return result


def _command(name: str, output: epath.Path, arguments: list[str], golden: str | None) -> list[str]:
    if name == "golden":
        return [sys.executable, "-m", "tools.verify_case", str(golden), "--device=gpu",
                f"--json={output}"]
    return [sys.executable, "-m", "tools.bench", "--device=gpu", f"--piece={name}",
            f"--piece_json={output}", *arguments]


def _run(name: str, command: list[str], output: epath.Path) -> dict:
    start = time.perf_counter()
    try:
        done = subprocess.run(command, stdout=sys.stderr, timeout=LIMITS[name])
    except subprocess.TimeoutExpired:
        return {"missing": f"ran past {LIMITS[name]} s"}
    if not output.exists():
        return {"missing": f"exit code {done.returncode}; what it said is above"}
    found = json.loads(output.read_text())
    if name == "golden":
        rows = found["quantities"]
        found = {"passed": sum(row["passed"] for row in rows), "of": len(rows),
                 "failed": [row for row in rows if not row["passed"]]}
    return found | {"wall_s": round(time.perf_counter() - start, 1)}
