"""This run beside published results, or the reason why it cannot stand there."""

import dataclasses
import re

from etils import epath

from legion_jax.evaluate.report.folder import Evaluation
from legion_jax.evaluate.report.published_results import TABLES, WITH_TRAINING, Column, Published
from legion_jax.evaluate.report.tables import DASH, Cell, Table, Term, convention

TRAINING = {"train", "val", "validation", "dev"}


@dataclasses.dataclass(frozen=True)
class Standing:
    """Tables with this run's rows first. `reason`: why there is none, what to mind, or ""."""

    tables: list[Table]
    reason: str


def standing(run: Evaluation) -> Standing:
    """The published tables of the run's data set, where its split is the published one."""
    data, split = str(run.metrics.get("data") or ""), str(run.metrics.get("split") or "")
    name = dataset_of(data)
    tables = [table for table in TABLES if table.dataset == name]
    if not tables:
        known = ", ".join(dict.fromkeys(table.dataset for table in TABLES))
        return Standing([], f"Not comparable: no published table is of {data or 'unknown data'}; "
                            f"there are some of {known}.")
    parts = split.split("+")
    bases = {re.match(r"\w*", part).group() for part in parts}
    if bases & TRAINING or "all" in bases and name in WITH_TRAINING:
        return Standing([], f"Not comparable: the published numbers are of test photos alone, "
                            f"these of split {split}.")
    reason = "" if set(parts) == bases else (
        f"Not strictly comparable: {split} is a part of the published split.")
    return Standing([_table(run, table, split) for table in tables], reason)


def dataset_of(data: str) -> str:
    """Which data set with published tables a path such as data/loki/regions/2.0.0 is of, or ""."""
    parts = [part.lower() for part in epath.Path(data).parts]
    names = dict.fromkeys(table.dataset for table in TABLES)
    return next((name for part in reversed(parts) for name in names if part == name), "")


def _table(run: Evaluation, table: Published, split: str) -> Table:
    scale, digits = (100, 2) if table.per_cent else (1, 3)

    def text(value: float | None) -> Cell:
        return DASH if value is None else Cell(f"{value:.{digits}f}")

    ours = {"this run": [_number(run, column, split) for column in table.columns]}
    if table.pooled:
        ours = {"this run, mean over photos": ours["this run"],
                "this run, pooled": [_number(run, _pooled(column), split)
                                     for column in table.columns]}
    rows = [(Term(name), [text(value if value is None else scale * value) for value in values])
            for name, values in ours.items()]
    rows += [(Term(name), [text(value) for value in values]) for name, values in table.rows.items()]
    columns = [Term(column.name, convention(run, *column.path)) for column in table.columns]
    missing = all(value is None for values in ours.values() for value in values)
    note = "This run has none of these numbers. " if missing else ""
    return Table(table.title, columns, rows, note=f"{note}Published: {table.source}. {table.note}",
                 strong=(*ours, table.ours))


def _pooled(column: Column) -> Column:
    return dataclasses.replace(
        column, path=tuple("pooled" if key == "mean" else key for key in column.path))


def _number(run: Evaluation, column: Column, split: str) -> float | None:
    """The run's number for a column; categories and groups are found whatever their case.

    None for a group of test sets that lacks some of them: its mean is not the published one.
    """
    block, name, *rest = column.path
    if column.split and column.split == split.lower():
        return run.number("detection", "accuracy")
    if block in ("categories", "groups"):
        name = next((known for known in run.block(block) if known.lower() == name.lower()), name)
    return None if run.block(block, name).get("missing") else run.number(block, name, *rest)
