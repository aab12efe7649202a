"""The table of topologies: each row a command of its own, so that memory is given back."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable

LORA, FULL = "experiments/base.py", "experiments/pretrain_7b.py"
FAKEVLM, SIDA = "experiments/fakevlm_7b.py", "experiments/sida_13b.py"


@dataclasses.dataclass(frozen=True)
class Row:
    """One program to compile: photos of all chips per update or answer, and what is kept of them.

    `remat` is config.model.remat, which decoding has no use for.
    """

    topology: str
    mesh: str
    config: str
    batch: int
    remat: str = "attention"
    program: str = "train"

    def command(self) -> list[str]:
        """Flags of tools.aot_report."""
        size = "batch_size" if self.program == "train" else "eval.batch_size"
        return [f"--config={self.config}", f"--topology={self.topology}", f"--mesh={self.mesh}",
                f"--programs={self.program}", f"--config.{size}={self.batch}",
                f"--config.model.remat={self.remat}"]


ROWS = (
    Row("v5e:4x4", "1,16,1", LORA, 16), Row("v5e:16x16", "1,256,1", LORA, 256),
    Row("v5p:4x4x4", "1,64,1", LORA, 256), Row("v6e:4x4", "1,16,1", LORA, 32),
    Row("v6e:16x16", "1,256,1", LORA, 512),
    Row("v5e:4x4", "1,16,1", FULL, 16, "layers"), Row("v5e:16x16", "1,256,1", FULL, 256),
    Row("v5p:4x4x4", "1,64,1", FULL, 256), Row("v6e:4x4", "1,16,1", FULL, 16),
    Row("v6e:16x16", "1,256,1", FULL, 256),
    Row("v5e:16x16", "1,256,1", FAKEVLM, 256), Row("v5p:4x4x4", "1,64,1", FAKEVLM, 256),
    Row("v5e:4x4", "1,16,1", SIDA, 160),
    Row("v5e:4x4", "1,16,1", LORA, 16, "none", "decode"),
    Row("v5e:4x4", "1,1,16", LORA, 16, "none", "decode"),
    Row("v6e:4x4", "1,1,16", LORA, 16, "none", "decode"))

_HEAD = ("topology", "mesh", "config", "remat", "program", "photos", "arguments", "temporaries",
         "peak", "of HBM", "received", "TFLOP", "step ≥", "bound by", "MFU ≤", "compiled in")


def run(row: Row) -> dict:
    """The JSON of one row, or {"error": the sentence it ended with}."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "row.json"
        done = subprocess.run(
            [sys.executable, "-m", "tools.aot_report", *row.command(), f"--json={file}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if file.exists():
            return json.loads(file.read_text())
    printed = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return {"error": next((line for line in printed if line.startswith("error:")), printed[-1])}


def markdown(results: Iterable[tuple[Row, dict]]) -> str:
    """The table of tools/aot_report/README.md; GB and TFLOP are of one chip, photos of all."""
    lines = [" | ".join(_HEAD), " | ".join(["---"] * len(_HEAD))]
    for row, result in results:
        start = [row.topology, row.mesh, pathlib.Path(row.config).stem, row.remat]
        if "error" in result:
            lines.append(" | ".join([*start, row.program, str(row.batch), result["error"]]))
        for program in result.get("programs", ()):
            lines.append(" | ".join([*start, *_cells(program, result["chip"]["hbm"])]))
    return "".join(f"| {line} |\n" for line in lines)


def _cells(program: dict, hbm: float) -> list[str]:
    fit = f"{100 * program['peak'] / hbm:.0f} %" + ("" if program["fits"] else ", does not fit")
    cells = [program["name"], str(program["batch"])]
    if not program["fits"] and not program["arguments"]:
        return [*cells, "", "", _gb(program["peak"]), fit]
    received = sum(kind["received"] for kind in program["collectives"].values())
    times = program["times"]
    sizes = [_gb(program[name]) for name in ("arguments", "temporaries", "peak")]
    return [*cells, *sizes, fit, _gb(received), f"{program['executed_flops'] / 1e12:.0f}",
            _duration(max(times.values()), program["answer_tokens"]),
            max(times, key=times.get), f"{100 * program['mfu']:.0f} %",
            f"{program['compile_seconds']:.0f} s"]


def _duration(step: float, tokens: int) -> str:
    return f"{1e3 * step / tokens:.1f} ms per token" if tokens else f"{step:.2f} s"


def _gb(number: float) -> str:
    return f"{number / 1e9:.1f}"
