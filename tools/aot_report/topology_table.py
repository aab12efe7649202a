"""The table of topologies: each row a command of its own, so that memory is given back."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable

LORA, FULL = "experiments/base.py", "experiments/pretrain_7b.py"


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
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return {"error": next((line for line in said if line.startswith("error:")), said[-1])}


def markdown(results: Iterable[tuple[Row, dict]]) -> str:
    """The table for BUILD.md; GB and TFLOP are of one chip, photos of all."""
    lines = [" | ".join(_HEAD), " | ".join(["---"] * len(_HEAD))]
    for row, result in results:
        start = [row.topology, row.mesh, pathlib.Path(row.config).stem, row.remat]
        if "error" in result:
            lines.append(" | ".join([*start, row.program, str(row.batch), result["error"]]))
        for one in result.get("programs", ()):
            lines.append(" | ".join([*start, *_cells(one, result["chip"]["hbm"])]))
    return "".join(f"| {line} |\n" for line in lines)


def _cells(one: dict, hbm: float) -> list[str]:
    fit = f"{100 * one['peak'] / hbm:.0f} %" + ("" if one["fits"] else ", does not fit")
    cells = [one["name"], str(one["batch"])]
    if not one["fits"] and not one["arguments"]:
        return [*cells, "", "", _gb(one["peak"]), fit]
    received = sum(kind["received"] for kind in one["collectives"].values())
    times = one["times"]
    step = max(times.values())
    return [*cells, *map(_gb, (one["arguments"], one["temporaries"], one["peak"])), fit,
            _gb(received), f"{one['executed_flops'] / 1e12:.0f}", _duration(step, one),
            max(times, key=times.get), f"{100 * one['mfu']:.0f} %",
            f"{one['compile_seconds']:.0f} s"]


def _duration(step: float, one: dict) -> str:
    tokens = one["answer_tokens"]
    return f"{1e3 * step / tokens:.1f} ms per token" if tokens else f"{step:.2f} s"


def _gb(number: float) -> str:
    return f"{number / 1e9:.1f}"
