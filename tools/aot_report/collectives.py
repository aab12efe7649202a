"""What the chips say to each other, counted in the HLO of one program."""

import dataclasses
import re
from collections.abc import Iterable, Iterator

from tools.aot_report.hlo import Computation, Instruction, Module, executions

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
         "collective-broadcast", "ragged-all-to-all")
# The TPU compiler writes a reduce-scatter as an all-reduce in a fusion of this name.
_DISGUISED = "all-reduce-scatter"
_MESH_GROUPS = re.compile(r"replica_groups=@?\w*\[((?:'\w+'=\d+,?\s*)+)\]\s*\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program.

    Attributes:
        times: executions per run of the program.
        buffer: bytes of its larger side, that is the gathered or the unreduced array, on a chip.
        group: chips that take part together.
        hbm: bytes it reads from and writes to a chip's memory.
        source: where in the model it comes from.
    """

    kind: str
    times: int
    buffer: int
    group: int
    hbm: int
    source: str

    @property
    def received(self) -> float:
        """Bytes a chip receives per execution, by the ring algorithms (Patarasu & Yuan, 2009)."""
        if self.kind in ("collective-permute", "collective-broadcast"):
            return self.buffer
        rounds = 2 if self.kind == "all-reduce" else 1
        return rounds * self.buffer * (self.group - 1) / self.group


def collectives(module: Module, devices: int) -> list[Collective]:
    """Every collective of a program that runs on `devices` chips."""
    exchanges = []
    for run in executions(module):
        pairs = [(run.computation, run.instruction)]
        if run.instruction.opcode == "fusion":
            pairs = _inside(module, run.instruction)
        exchanges += [_collective(computation, instruction, run.times, devices)
                      for computation, instruction in pairs if is_collective(instruction)]
    return exchanges


def is_collective(instruction: Instruction) -> bool:
    """The `-done` that ends an asynchronous one is none."""
    return instruction.opcode.removesuffix("-start") in KINDS


def _inside(module: Module, fusion: Instruction) -> Iterator[tuple[Computation, Instruction]]:
    """Instructions of a fusion, of a collective only where it starts.

    A collective that overlaps computation is spread over fusions, each with a copy of it: one that
    starts it, several that advance it (their flags count from 0), one that waits for its end.
    """
    for name in fusion.called():
        computation = module.computations[name]
        ends = any("AsyncCollectiveDone" in instruction.attributes
                   for instruction in computation.instructions.values())
        for instruction in computation.instructions.values():
            if instruction.opcode == "fusion":
                yield from _inside(module, instruction)
            elif not ends and not re.search(r'"flag_start":"\d', instruction.attributes):
                yield computation, instruction


def _collective(computation: Computation, instruction: Instruction, times: int,
                devices: int) -> Collective:
    kind = instruction.opcode.removesuffix("-start")
    if kind == "all-reduce" and computation.name.startswith(_DISGUISED):
        kind = "reduce-scatter"
    operands = [shape for name in instruction.operands if name in computation.instructions
                for shape in computation.instructions[name].shapes]
    results = list(instruction.shapes)
    if instruction.opcode.endswith("-start") and len(results) >= 2 * len(operands):
        results = results[len(operands):2 * len(operands)]  # behind its operands, before its flags
    return Collective(
        kind, times, max(sum(s.nbytes for s in operands), sum(s.nbytes for s in results)),
        group_size(instruction.attributes, devices),
        sum(s.hbm for s in operands) + sum(s.hbm for s in results), instruction.source)


def group_size(attributes: str, devices: int) -> int:
    """Chips per replica group, in any of the three notations of HLO; all chips where none is."""
    if mesh := _MESH_GROUPS.search(attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh.group(1))}
        total = 1
        for name, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh.group(2)):
            total *= int(part or sizes[name])
        return total
    if tiled := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
        return int(tiled.group(2))
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(listed.group(1).split(","))
    return devices


def by_kind(exchanges: Iterable[Collective]) -> dict[str, dict[str, float]]:
    """{kind: {"places" in the program, "count" of executions, "buffer" and "received" bytes}}."""
    out: dict[str, dict[str, float]] = {}
    columns = ("places", "count", "buffer", "received")
    for exchange in exchanges:
        row = out.setdefault(exchange.kind, dict.fromkeys(columns, 0))
        row["places"] += 1
        row["count"] += exchange.times
        row["buffer"] += exchange.times * exchange.buffer
        row["received"] += exchange.times * exchange.received
    return dict(sorted(out.items(), key=lambda item: -item[1]["received"]))
