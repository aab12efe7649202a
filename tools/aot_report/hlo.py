"""The text of an optimised HLO module, read as far as its costs need it.

Instructions that run more than once stand in the text once. `executions` multiplies them out: the
condition of a loop that `jax.lax.scan` made compares a counter that starts at 0 with a constant,
which is the number of rounds.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2,
          "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8,
          "c128": 16, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"([a-z]\w*)\[([^\]]*)\](\{[^}]*\})?")
_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)="
                     r"%?([\w.\-]+)|branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array. space: 0 is the chip's HBM, 1 its vector memory, others are not for data."""

    dtype: str
    dims: tuple[int, ...]
    space: int

    @property
    def nbytes(self) -> int:
        """Without the padding of the chip's tiles."""
        size = 1 if self.dtype.startswith("f8") else _BYTES.get(self.dtype, 0)
        return int(math.prod(self.dims) * size)

    @property
    def hbm(self) -> int:
        """Bytes in HBM."""
        return self.nbytes if self.space == 0 else 0

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """name = shapes opcode(operands), attributes; `shapes` has one entry unless it is a tuple."""

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    literal: str  # what stands between the parentheses
    attributes: str

    @property
    def source(self) -> str:
        """Where in the model it comes from, as far as the compiler knows."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match.group(1) if match else ""

    def called(self) -> list[str]:
        """Computations this instruction runs, in the order of the text."""
        names = []
        for name, several in _CALLED.findall(self.attributes):
            names += [name] if name else re.findall(r"[\w.\-]+", several)
        return names

    def attribute(self, name: str) -> str:
        """The value of `name=value`, as far as it is one word; empty where it is not there."""
        match = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return match.group(1) if match else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in the order in which they run; the last is not always the root."""

    name: str
    instructions: dict[str, Instruction]
    root: str

    def source_of(self, name: str) -> Instruction | None:
        """The instruction of this name, or what it is a copy of; None where there is none."""
        instruction = self.instructions.get(name)
        while instruction and instruction.opcode in ("copy", "bitcast") and instruction.operands:
            instruction = self.instructions.get(instruction.operands[0])
        return instruction

    def parameters(self) -> list[Instruction]:
        """By number."""
        parameters = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return sorted(parameters, key=lambda i: int(i.literal))


@dataclasses.dataclass(frozen=True)
class Module:
    """All computations by name."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """Read `jax.stages.Compiled.as_text()`. Raises ValueError where there is no entry."""
    computations, entry, name, instructions, root = {}, "", None, {}, ""
    for line in text.splitlines():
        if name is None:
            if head := _HEAD.match(line):
                name, instructions, root = head.group(2), {}, ""
                entry = name if head.group(1) else entry
        elif line.startswith("}"):
            computations[name] = Computation(name, instructions, root)
            name = None
        elif (match := _LINE.match(line)) and (instruction := _instruction(*match.group(2, 3))):
            instructions[instruction.name] = instruction
            root = instruction.name if match.group(1) else root
    if not entry:
        raise ValueError("no ENTRY computation in this text")
    return Module(computations, entry)


def _instruction(name: str, text: str) -> Instruction | None:
    end = _closing(text, 0) if text.startswith("(") else text.find(" ")
    opcode = _OPCODE.match(text, end)
    if end < 0 or not opcode:
        return None
    shapes = tuple(_shape(*parts) for parts in _SHAPE.findall(text[:end]))
    stop = _closing(text, opcode.end() - 1)
    inside = text[opcode.end():stop - 1]
    return Instruction(name, shapes, opcode.group(1),
                       tuple(re.findall(r"%([\w.\-]+)", inside)), inside, text[stop:])


def _shape(dtype: str, dims: str, layout: str) -> Shape:
    space = re.search(r"S\((\d+)\)", layout)
    numbers = tuple(int(d.lstrip("<=")) for d in dims.split(",") if d.strip())
    return Shape(dtype, numbers, int(space.group(1)) if space else 0)


def _closing(text: str, start: int) -> int:
    """Index behind the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match.group() == "(" else -1
        if not depth:
            return match.end()
    return len(text)


@dataclasses.dataclass(frozen=True)
class Execution:
    """An instruction outside fusions, and how many times one run of the program executes it."""

    computation: Computation
    instruction: Instruction
    times: int


def executions(module: Module) -> Iterator[Execution]:
    """Everything that is executed, bodies of loops as often as they run.

    Of a conditional every branch is counted. A loop whose end the data decide counts with the most
    rounds its condition allows, and one without any such bound once.
    """
    yield from _executions(module, module.entry, 1)


def _executions(module: Module, name: str, times: int) -> Iterator[Execution]:
    computation = module.computations[name]
    for instruction in computation.instructions.values():
        yield Execution(computation, instruction, times)
        if instruction.opcode == "while":
            rounds = trip_count(module, computation, instruction)
            yield from _executions(module, instruction.attribute("body"), times * rounds)
        elif instruction.opcode in ("call", "conditional"):
            for called in instruction.called():
                yield from _executions(module, called, times)


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int:
    """Most rounds a `while` can take, 1 where its condition has no constant bound."""
    if known := re.search(r"known_trip_count\W+n\W+(\d+)", loop.attributes):
        return int(known.group(1))
    condition = module.computations[loop.attribute("condition")]
    body = module.computations[loop.attribute("body")]
    first = computation.instructions.get(loop.operands[0])
    started = first.operands if first is not None and first.opcode == "tuple" else ()

    def number(holder: Computation, name: str) -> int | None:
        """A constant, through copies, and through the tuple the loop starts with."""
        source = holder.source_of(name)
        if source is None:
            return None
        if source.opcode == "get-tuple-element" and holder is not computation and started:
            return number(computation, started[int(source.attribute("index"))])
        is_number = source.opcode == "constant" and re.fullmatch(r"-?\d+", source.literal)
        return int(source.literal) if is_number else None

    for counter, bound in _comparisons(module, condition):
        instruction, end = condition.instructions.get(counter), number(condition, bound)
        if instruction is None or instruction.opcode != "get-tuple-element" or end is None:
            continue
        index = int(instruction.attribute("index"))
        start = number(computation, started[index]) if started else 0
        step = _added(body, body.instructions[body.root].operands[index], number)
        return max(-(-(end - (start or 0)) // (step or 1)), 1)
    return 1


def _comparisons(module: Module, computation: Computation) -> Iterator[tuple[str, str]]:
    """Both sides of every `<`, as names of the outermost computation."""
    for instruction in computation.instructions.values():
        if instruction.opcode == "compare" and "direction=LT" in instruction.attributes:
            yield instruction.operands[0], instruction.operands[1]
        elif instruction.opcode == "fusion":
            inner = module.computations[instruction.called()[0]]
            names = [parameter.name for parameter in inner.parameters()]
            outer = dict(zip(names, instruction.operands, strict=True))
            for pair in _comparisons(module, inner):
                if outer.keys() >= set(pair):
                    yield outer[pair[0]], outer[pair[1]]


def _added(body: Computation, name: str, number: Callable) -> int | None:
    """The constant that a round adds to its counter, None where no plain addition makes it."""
    instruction = body.source_of(name)
    if instruction is None or instruction.opcode not in ("add", "fusion"):
        return None
    constants = [value for value in (number(body, o) for o in instruction.operands) if value]
    return constants[0] if instruction.opcode == "add" and len(constants) == 1 else None
