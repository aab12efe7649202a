"""How many bytes a program moves between a chip and its HBM, counted in the HLO."""

import dataclasses
from collections.abc import Iterable

from tools.aot_report.collectives import Collective, is_collective
from tools.aot_report.hlo import Computation, Instruction, Module, Shape, executions

# What moves nothing by itself.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call",
         "conditional", "custom-call", "partition-id", "replica-id", "after-all", "iota",
         "opt-barrier"}
_SLICES = {"dynamic-slice", "slice", "gather"}


def hbm_bytes(module: Module, exchanges: Iterable[Collective]) -> int:
    """Bytes per chip that one run of the program reads from and writes to HBM.

    Every executed instruction reads its operands and writes its results once, except that slices
    touch the slice alone, updates in place what they update, and collectives what `exchanges` says.
    Arrays the compiler keeps in vector memory cost nothing, nor does the padding of tiles.
    """
    total = sum(exchange.times * exchange.hbm for exchange in exchanges)
    for run in executions(module):
        if not is_collective(run.instruction):
            total += run.times * _moved(module, run.computation, run.instruction)
    return total


def _moved(module: Module, computation: Computation, instruction: Instruction) -> int:
    if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
        return 0
    operands = [computation.instructions[name] for name in instruction.operands
                if name in computation.instructions]
    if instruction.opcode == "fusion":
        inside = module.computations[instruction.called()[0]]
        reads = sum(min(_read(module, inside, parameter.name), parameter.shapes[0].hbm)
                    for parameter in inside.parameters())
        return reads + sum(_written(module, inside, name, shape) for name, shape in
                           zip(_results(inside), instruction.shapes, strict=False))
    if instruction.opcode.endswith("-start"):  # source and destination, in either order
        ends = [shape for shape in instruction.shapes if shape.dims][:2]
        amount = min((shape.nbytes for shape in ends), default=0)
        return sum(amount for shape in ends if shape.space == 0)
    if instruction.opcode in _SLICES:
        return _in_hbm(instruction.shapes, 1) + _in_hbm(operands[0].shapes, 1,
                                                        instruction.shapes[0].nbytes)
    if instruction.opcode in ("dynamic-update-slice", "scatter"):
        changed = operands[-1 if instruction.opcode == "scatter" else 1]
        return 2 * _in_hbm(instruction.shapes, 1, changed.shapes[0].nbytes)
    return _in_hbm(instruction.shapes) + sum(_in_hbm(i.shapes) for i in operands)


def _in_hbm(shapes: Iterable[Shape], first: int | None = None, nbytes: int | None = None) -> int:
    """Bytes of shapes in HBM; of the first one `nbytes`, if given, in place of its size."""
    return sum(s.hbm if nbytes is None or not s.hbm else nbytes for s in list(shapes)[:first])


def _read(module: Module, computation: Computation, name: str) -> int:
    """Bytes of an array that a fusion reads."""
    total, whole = 0, computation.instructions[name].shapes[0].nbytes
    for user in computation.instructions.values():
        if name not in user.operands:
            continue
        if user.opcode in _SLICES and user.operands[0] == name:
            total += user.shapes[0].nbytes
        elif user.opcode == "bitcast":
            total += _read(module, computation, user.name)
        elif user.opcode == "fusion":
            inner = module.computations[user.called()[0]]
            total += sum(_read(module, inner, parameter.name) for parameter, operand in
                         zip(inner.parameters(), user.operands, strict=True) if operand == name)
        elif not _passes(user, name):
            return whole
    return min(total, whole)


def _passes(user: Instruction, name: str) -> bool:
    """Whether an array is handed on, updated in place, or counted with a collective."""
    in_place = user.opcode == "dynamic-update-slice" and user.operands[0] == name
    return in_place or user.opcode in ("tuple", "custom-call") or is_collective(user)


def _results(computation: Computation) -> list[str]:
    root = computation.instructions[computation.root]
    return list(root.operands) if root.opcode == "tuple" else [root.name]


def _written(module: Module, computation: Computation, name: str, shape: Shape) -> int:
    """Bytes of a fusion's result that it writes to HBM."""
    instruction = computation.instructions[name]
    while instruction.opcode == "bitcast":
        instruction = computation.instructions[instruction.operands[0]]
    if (shape.space != 0 or instruction.opcode in ("parameter", "custom-call")
            or is_collective(instruction)):
        return 0
    if instruction.opcode == "dynamic-update-slice":
        return computation.instructions[instruction.operands[1]].shapes[0].nbytes
    if instruction.opcode == "fusion" and len(instruction.shapes) == 1:
        inner = module.computations[instruction.called()[0]]
        return _written(module, inner, _results(inner)[0], shape)
    return shape.nbytes


@dataclasses.dataclass(frozen=True)
class Array:
    """A large intermediate result: shape as text, bytes on a chip, and what makes it."""

    shape: str
    nbytes: int
    opcode: str
    source: str


def largest(module: Module, number: int = 5) -> list[Array]:
    """The largest arrays a program makes in HBM, one of each shape and source."""
    arrays: dict[tuple[str, str], Array] = {}
    for run in executions(module):
        if run.instruction.opcode in _FREE - {"custom-call"}:
            continue
        for shape in run.instruction.shapes:
            if shape.hbm:
                array = Array(str(shape), shape.nbytes, run.instruction.opcode,
                              run.instruction.source)
                arrays.setdefault((array.shape, array.source), array)
    return sorted(arrays.values(), key=lambda a: -a.nbytes)[:number]
