"""The listing of tools.inspect_params: for readers a table, for programs TSV and JSON."""

import dataclasses
import io
from collections.abc import Sequence

from jax.sharding import AbstractMesh
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from legion_jax.display.console import DataConsole
from legion_jax.weights import tensor_file
from tools.inspect_params.inventory import Inventory, Parameter, layout_on

PIPED_WIDTH = 100_000  # a table takes what it needs of it, so nothing is folded
COLUMNS = ("path", "shape", "dtype", "sharding", "bytes_per_device", "trainable", "parameters",
           "bytes", "source", "files")


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the listing: a parameter, or all that begin with the same words.

    Attributes:
        shape, sharding: of a single parameter, None for several.
        dtype: one name, or several with commas.
        trainable: yes, no or partly.
        parameters, trained: how many values, and how many of them are trainable.
    """

    path: str
    shape: tuple[int, ...] | None
    dtype: str
    sharding: tuple | None
    bytes_per_device: int
    trainable: str
    parameters: int
    trained: int
    bytes: int
    source: str
    files: tuple[str, ...]


def lines_of(parameters: Sequence[Parameter], mesh: AbstractMesh,
             depth: int | None = None) -> list[Line]:
    """A line per parameter, or per first `depth` words of their paths."""
    groups: dict[str, list[Parameter]] = {}
    for p in parameters:
        groups.setdefault("/".join(p.path.split("/")[:depth]), []).append(p)
    return [_line(path, group, mesh) for path, group in groups.items()]


def _line(path: str, group: list[Parameter], mesh: AbstractMesh) -> Line:
    layouts = [layout_on(mesh, p.path, p.shape) for p in group]
    alone = len(group) == 1
    trained = sum(p.count for p in group if p.trainable)
    count = sum(p.count for p in group)
    return Line(
        path=group[0].path if alone else path, shape=group[0].shape if alone else None,
        dtype=", ".join(sorted({p.dtype for p in group})),
        sharding=layouts[0][0] if alone else None,
        bytes_per_device=sum(values * tensor_file.numpy_dtype(p.dtype).itemsize
                             for p, (_, values) in zip(group, layouts, strict=True)),
        trainable="yes" if trained == count else "partly" if trained else "no",
        parameters=count, trained=trained, bytes=sum(p.nbytes for p in group),
        source=group[0].source if alone else f"{len(group)} parameters",
        files=tuple(sorted({file for p in group for file in p.files})))


def totals(lines: Sequence[Line]) -> dict[str, dict[str, int]]:
    """{tower, and "total" at the end: sums over the lines}."""
    names = ("parameters", "trainable", "frozen", "bytes", "bytes_per_device")
    towers: dict[str, dict[str, int]] = {}
    for line in lines:
        tower = towers.setdefault(line.path.split("/")[0], dict.fromkeys(names, 0))
        numbers = (line.parameters, line.trained, line.parameters - line.trained, line.bytes,
                   line.bytes_per_device)
        for name, number in zip(names, numbers, strict=True):
            tower[name] += number
    return towers | {"total": {name: sum(t[name] for t in towers.values()) for name in names}}


def as_dict(inspected: Inventory, lines: Sequence[Line], mesh: AbstractMesh) -> dict:
    """Everything, ready for JSON; bytes are exact."""
    return {
        "inspected": inspected.title, "mesh": dict(mesh.shape), "trainable_by": inspected.rule,
        "parameters": [dataclasses.asdict(line) for line in lines], "totals": totals(lines),
        "absent": inspected.absent, "carried": inspected.carried, "unknown": inspected.unknown,
        "problems": inspected.problems, "notes": inspected.notes}


def as_tsv(inspected: Inventory, lines: Sequence[Line], mesh: AbstractMesh) -> str:
    """A header, the lines, and what else there is to say behind `#`."""
    rows = [COLUMNS, *([_cell(getattr(line, name)) for name in COLUMNS] for line in lines)]
    sums = [f"# {name}\t" + "\t".join(f"{sum_of} {n}" for sum_of, n in numbers.items())
            for name, numbers in totals(lines).items()]
    rest = [*sums, *(f"# {text}" for text in [inspected.title, *remarks(inspected, lines, mesh)])]
    return "\n".join(["\t".join(row) for row in rows] + rest) + "\n"


def _cell(value) -> str:
    if isinstance(value, tuple):
        return ",".join("-" if v is None else "+".join(v) if isinstance(v, tuple) else str(v)
                        for v in value)
    return "" if value is None else str(value)


def remarks(inspected: Inventory, lines: Sequence[Line], mesh: AbstractMesh) -> list[str]:
    """The sentences under the sums."""
    sizes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    shown = sum(line.parameters for line in lines)
    sentences = [
        f"per device: mesh of {sizes} = {mesh.size:,}; parameters alone, no optimizer",
        f"trainable: by {inspected.rule}"]
    if (everything := sum(p.count for p in inspected.parameters)) != shown:
        sentences.append(f"--match: {shown:,} of {everything:,} parameters are listed and counted")
    if inspected.absent:
        sentences.append(f"absent: {', '.join(inspected.absent)}")
    for name, tensors in (("carried", inspected.carried), ("unknown", inspected.unknown)):
        if tensors:
            which = "LEGION never runs them" if name == "carried" else ", ".join(tensors)
            sentences.append(f"{name}: {len(tensors):,} tensors, "
                             f"{gigabytes(sum(tensors.values()))} GB; {which}")
    return sentences + inspected.notes + [f"problem: {problem}" for problem in inspected.problems]


def gigabytes(number: int) -> str:
    """Bytes in units of 10^9, to the kilobyte."""
    return "<0.000001" if 0 < number < 1000 else f"{number / 1e9:,.6f}"


def show(inspected: Inventory, lines: Sequence[Line], mesh: AbstractMesh, console: Console) -> None:
    """Print the table: on a terminal in few columns, otherwise one line each, never cut."""
    console.print(inspected.title, markup=False, highlight=False, soft_wrap=True)
    console.print((_narrow if console.is_terminal else _wide)(lines))
    console.print(_sums(lines))
    for text in remarks(inspected, lines, mesh):
        console.print(text, markup=False, highlight=False)


def as_text(inspected: Inventory, lines: Sequence[Line], mesh: AbstractMesh) -> str:
    """What `show` prints where there is no terminal, as wide as it needs to be."""
    file = io.StringIO()
    show(inspected, lines, mesh, DataConsole(file=file, width=PIPED_WIDTH, force_terminal=False))
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def _wide(lines: Sequence[Line]) -> Table:
    table = _table(("path", "shape", "dtype", "sharding"), ("GB per device",), ("trainable",),
                   ("parameters", "GB"), ("PyTorch tensors", "files"))
    for line in lines:
        table.add_row(*map(Text, (
            line.path, str(line.shape or ""), line.dtype, _sharding(line),
            gigabytes(line.bytes_per_device), line.trainable, f"{line.parameters:,}",
            gigabytes(line.bytes), line.source, ", ".join(line.files))))
    return table


def _narrow(lines: Sequence[Line]) -> Table:
    """Two quantities per column, one under the other."""
    table = _table(("path\nPyTorch tensors", "shape\nsharding", "dtype\ntrainable"),
                   ("parameters", "GB\nper device"))
    for line in lines:
        origin = line.source + (f" in {', '.join(line.files)}" if line.files else "")
        under = ((line.path, origin), (str(line.shape or ""), _sharding(line)),
                 (line.dtype, line.trainable), (f"{line.parameters:,}", ""),
                 (gigabytes(line.bytes), gigabytes(line.bytes_per_device)))
        table.add_row(*(Text.assemble(upper, "\n", (lower, "dim")) for upper, lower in under))
    return table


def _sums(lines: Sequence[Line]) -> Table:
    table = _table(("tower",), ("parameters", "trainable", "frozen", "GB", "GB per device"))
    sums = totals(lines)
    for name, n in sums.items():
        if name == "total":
            table.add_section()
        table.add_row(name, f"{n['parameters']:,}", f"{n['trainable']:,}", f"{n['frozen']:,}",
                      gigabytes(n["bytes"]), gigabytes(n["bytes_per_device"]))
    return table


def _table(*columns: Sequence[str]) -> Table:
    """Columns in groups that are aligned left, right, left and so on."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for number, names in enumerate(columns):
        for name in names:
            table.add_column(name, justify="right" if number % 2 else "left", overflow="fold")
    return table


def _sharding(line: Line) -> str:
    if line.sharding is None:
        return ""
    return _cell(line.sharding).replace(",", ", ") if any(line.sharding) else "copied"
