"""What one compiled program costs: measured, shown, and as JSON."""

import dataclasses
import re
import time

import jax
from etils import epath
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from input_pipeline import files
from input_pipeline.errors import first_line
from legion_jax.chips import Chip
from tools.aot_report import hlo
from tools.aot_report.collectives import by_kind, collectives
from tools.aot_report.lowering import Program
from tools.aot_report.topologies import Times, roofline
from tools.aot_report.traffic import hbm_bytes, largest

NOTES = (
    "Per chip. Peak is arguments + temporaries + outputs - alias (outputs in place of arguments).",
    "Collectives: an instruction in a loop counts once per round; rounds come from the loop's "
    "condition, and the loop over answer tokens counts with the longest answer. Buffers are the "
    "larger side of each collective, received is what a ring sends to a chip.",
    "Step at least: the slowest of executed FLOPs / peak, HBM bytes / bandwidth and bytes received "
    "/ all links together, each at the documented peak figure; so MFU, model FLOPs / (step x peak),"
    " is an upper bound. Model FLOPs leave out what remat repeats.",
    "Bytes between slices count as if they went over the links inside one; the network of the data "
    "centre is slower.")


@dataclasses.dataclass(frozen=True)
class Report:
    """One program on one topology; bytes, operations and seconds, of one chip and one run.

    Attributes:
        fits: False where the compiler found more than the chip holds: then `peak` is what it
            asked for, if it said so, and `arrays` are its largest allocations; the rest is 0.
        problem: what went wrong: the compiler's words where the program does not fit, or why its
            text could not be read; then nothing but memory and operations is known.
        arrays: largest results, as {"shape", "nbytes", "opcode", "source"}.
        again: instructions the compiler itself computes twice to save memory.
    """

    name: str
    batch: int
    answer_tokens: int
    model_flops: float
    compile_seconds: float
    fits: bool
    problem: str = ""
    arguments: int = 0
    temporaries: int = 0
    outputs: int = 0
    alias: int = 0
    peak: int = 0
    program: int = 0
    executed_flops: float = 0.0
    hbm_bytes: int = 0
    collectives: dict = dataclasses.field(default_factory=dict)
    arrays: list = dataclasses.field(default_factory=list)
    again: int = 0
    times: Times = Times(0.0, 0.0, 0.0)
    mfu: float = 0.0

    @property
    def photos_per_second(self) -> float:
        """Of all chips together, at most."""
        return self.batch / self.times.step if self.times.step else 0.0


def measure(program: Program, chip: Chip, devices: int, keep: str | None = None) -> Report:
    """Compile a program and read everything off it; a program too large is no error.

    `keep` names a folder for the compiled text, NAME.hlo.
    """
    start = time.monotonic()
    report = Report(program.name, program.batch, program.answer_tokens, program.model_flops,
                    0.0, fits=False, executed_flops=program.executed_flops)
    try:
        compiled = program.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return dataclasses.replace(
            report, compile_seconds=time.monotonic() - start, **too_large(str(error)))
    seconds = time.monotonic() - start
    report = dataclasses.replace(
        report, compile_seconds=seconds, **_memory(compiled.memory_analysis(), chip))
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError as error:  # a libtpu that is newer than jax knows
        times = roofline(chip, flops=program.executed_flops, hbm=0.0, received=0.0)
        return dataclasses.replace(
            report, times=times, mfu=program.model_flops / (times.step * chip.flops),
            problem=f"jax cannot read what this libtpu compiled, so bytes are not counted: "
                    f"{first_line(error)}")
    if keep:
        files.write_text(epath.Path(keep) / f"{program.name}.hlo", text)
    module = hlo.parse(text)
    exchanges = collectives(module, devices)
    kinds, moved = by_kind(exchanges), hbm_bytes(module, exchanges)
    times = roofline(chip, flops=program.executed_flops, hbm=moved,
                     received=sum(row["received"] for row in kinds.values()))
    return dataclasses.replace(
        report, hbm_bytes=moved, collectives=kinds, times=times,
        arrays=[dataclasses.asdict(array) for array in largest(module)],
        again=sum(".remat" in run.instruction.name for run in hlo.executions(module)),
        mfu=program.model_flops / (times.step * chip.flops))


def _memory(stats, chip: Chip) -> dict:
    """The fields of `Report` that `jax.stages.Compiled.memory_analysis()` tells."""
    peak = (stats.argument_size_in_bytes + stats.temp_size_in_bytes
            + stats.output_size_in_bytes - stats.alias_size_in_bytes)
    return {"fits": peak <= chip.hbm, "peak": peak, "arguments": stats.argument_size_in_bytes,
            "temporaries": stats.temp_size_in_bytes, "outputs": stats.output_size_in_bytes,
            "alias": stats.alias_size_in_bytes, "program": stats.generated_code_size_in_bytes}


_UNITS = {"": 1, "K": 2 ** 10, "M": 2 ** 20, "G": 2 ** 30}


def too_large(message: str) -> dict:
    """What the compiler says of a program that does not fit: `peak`, `arrays` and `problem`."""
    used = re.search(r"Used ([\d.]+)([KMG]?) of", message)
    arrays = []
    for size, unit, rest in re.findall(r"Size: ([\d.]+)([KMG]?)\n(.*?)(?:==|\Z)", message, re.S):
        shape, source = (re.search(p, rest) for p in (r"Shape: (\S+?)\{", r'op_name="([^"]*)"'))
        arrays.append({"shape": shape.group(1) if shape else "",
                       "nbytes": int(float(size) * _UNITS[unit]), "opcode": "",
                       "source": source.group(1) if source else ""})
    return {"peak": int(float(used.group(1)) * _UNITS[used.group(2)]) if used else 0,
            "arrays": arrays[:5], "problem": " ".join(message.split("\n\n")[0].split())[:400]}


def as_dict(report: Report) -> dict:
    """Ready for JSON."""
    return dataclasses.asdict(report) | {"photos_per_second": report.photos_per_second}


def show(report: Report, chip: Chip, console: Console) -> None:
    """Print one program's tables."""
    title = f"{report.name}: {report.batch} photos" + (
        f", answers of {report.answer_tokens} tokens" if report.answer_tokens else "")
    console.print(f"\n{title}, compiled in {report.compile_seconds:.0f} s", highlight=False)
    if report.problem:
        console.print(report.problem, markup=False, highlight=False)
    console.print(_sizes(report, chip))
    if report.collectives:
        console.print(_kinds(report))
    arrays = _table("largest arrays", "GB", "made by")
    for array in report.arrays:
        arrays.add_row(array["shape"], gigabytes(array["nbytes"]),
                       Text(array["source"] or array["opcode"]))
    console.print(arrays)


def _sizes(report: Report, chip: Chip) -> Table:
    table = _table("per chip", "", "")
    share = f"{100 * report.peak / chip.hbm:.0f} % of {gigabytes(chip.hbm)} GB"
    for name, size, rest in (
            ("arguments", report.arguments, ""), ("temporaries", report.temporaries, ""),
            ("peak", report.peak, share), ("program", report.program, "")):
        table.add_row(name, f"{gigabytes(size)} GB", rest)
    times = report.times
    for name, seconds, amount in (
            ("compute", times.compute, f"{report.executed_flops / 1e12:.1f} TFLOP"),
            ("HBM", times.hbm, f"{gigabytes(report.hbm_bytes)} GB"),
            ("interconnect", times.ici, f"{gigabytes(_received(report))} GB")):
        table.add_row(name, f"{1e3 * seconds:,.1f} ms", amount)
    table.add_row("step at least", f"{1e3 * times.step:,.1f} ms",
                  f"bound by {times.bound}, {report.photos_per_second:,.1f} photos/s")
    if report.answer_tokens:
        each = 1e3 * times.step / report.answer_tokens
        table.add_row("token at least", f"{each:,.1f} ms", "")
    table.add_row("MFU at most", f"{100 * report.mfu:.0f} %",
                  f"{report.model_flops / 1e12:.1f} TFLOP of the model")
    table.add_row("recomputed by XLA", str(report.again), "instructions beside remat's")
    return table


def _kinds(report: Report) -> Table:
    table = _table("collective", "places", "count", "GB buffers", "GB received")
    for kind, row in report.collectives.items():
        table.add_row(kind, f"{row['places']:,}", f"{row['count']:,}", gigabytes(row["buffer"]),
                      gigabytes(row["received"]))
    return table


def _received(report: Report) -> float:
    return sum(row["received"] for row in report.collectives.values())


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number in (1, 2) and len(names) > 3
                         or number == 1 else "left")
    return table


def gigabytes(number: float) -> str:
    """Bytes in units of 10^9."""
    return f"{number / 1e9:,.2f}"
