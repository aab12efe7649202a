"""What the runs of a sweep reached: table.md, table.csv and plot.svg."""

import csv
import dataclasses
import difflib
import io
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from input_pipeline import files, strict_json
from legion_jax.train.sweep_plan import Sweep, SweepError, short_names
from tools.sweep import plot
from tools.sweep.runs import Run, knob_values

LAST_SHARE = 10  # training metrics are means over the last tenth of the updates


@dataclasses.dataclass(frozen=True)
class Row:
    """A run and its numbers.

    Attributes:
        knobs: {knob: value} of every knob that any run of the sweep sets.
        state: "finished", "failed: REASON", "not begun" or "at update 20 of 60".
        scores: {metric: value} of a finished run, None where a number is not defined; otherwise {}.
    """

    name: str
    knobs: dict[str, Any]
    state: str
    scores: dict[str, float | None]

    def knows(self, metric: str) -> bool:
        """Whether the run wrote it, be it as undefined, alone or with the block it stands in."""
        words = metric.split(".")
        blocks = (".".join(words[:n]) for n in range(1, len(words)))
        return metric in self.scores or any(
            block in self.scores and self.scores[block] is None for block in blocks)


def rows_of(sweep: Sweep, runs: Sequence[Run], failures: Mapping[str, str]) -> list[Row]:
    """A row per run, in the order of the sweep.

    Raises SweepError when runs have finished and none wrote the sweep's metric.
    """
    varied = list(dict.fromkeys(knob for run in runs for knob in run.overrides))
    rows = []
    for run in runs:
        values = knob_values(run.settings)
        finished = run.finished()
        rows.append(Row(run.name, {knob: values[knob] for knob in varied},
                        _state(run, failures.get(run.name), finished),
                        scores_of(run) if finished else {}))
    known = sorted({name for row in rows for name in row.scores})
    for metric in (sweep.metric, *sweep.also):
        if known and not any(row.knows(metric) for row in rows):
            near = difflib.get_close_matches(metric, known, n=3, cutoff=0.4) or known[:5]
            raise SweepError(f"metric {metric}: no run wrote it; they wrote {', '.join(near)}"
                             f"{' and others' if len(near) < len(known) else ''}")
    return rows


def _state(run: Run, failure: str | None, finished: bool) -> str:
    if failure:
        return f"failed: {failure}"
    if finished:
        return "finished"
    step = run.saved_step()
    if step >= run.total:
        return "not evaluated"
    return f"at update {step} of {run.total}" if step else "not begun"


def scores_of(run: Run) -> dict[str, float | None]:
    """{metric: value} of a finished run. Raises SweepError naming a file that cannot be read."""
    scores = {}
    try:
        path = run.folder / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for name in lines[-1] if lines else ():
            last = lines[-max(1, len(lines) // LAST_SHARE):]
            if name != "step":
                scores[f"train.{name}"] = float(np.mean([line[name] for line in last]))
        if run.evaluated:
            path = run.scores
            scores |= _flat(strict_json.read(path, error=SweepError, not_finite=float,
                                             lone_surrogates=True))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SweepError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
    return scores


def _flat(block: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
    numbers = {}
    for name, value in block.items():
        if isinstance(value, Mapping):
            numbers |= _flat(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, (int, float)):
            numbers[prefix + name] = value
    return numbers


def best_of(sweep: Sweep, rows: Sequence[Row]) -> str | None:
    """Name of the run with the best metric, the first of equals; None when none has a number."""
    values = {row.name: row.scores.get(sweep.metric) for row in rows}
    values = {name: v for name, v in values.items() if v is not None and math.isfinite(v)}
    if not values:
        return None
    return (max if sweep.higher_is_better else min)(values, key=values.__getitem__)


def markdown(sweep: Sweep, rows: Sequence[Row]) -> str:
    """The table to read, the best run in bold."""
    metrics = list(dict.fromkeys((sweep.metric, *sweep.also)))
    knobs, best = list(rows[0].knobs), best_of(sweep, rows)
    lines = [["run", *short_names(knobs).values(), *metrics, "state"],
             ["---", *["---"] * len(knobs), *["---:"] * len(metrics), "---"]]
    for row in rows:
        name = f"**{row.name}**" if row.name == best else row.name
        lines.append([name, *(_text(row.knobs[knob]) for knob in knobs),
                      *(_number(row.scores.get(metric)) for metric in metrics), row.state])
    sense = "higher" if sweep.higher_is_better else "lower"
    table = "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)
    return f"Compared by {sweep.metric}, {sense} is better; base {sweep.base}.\n\n{table}\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def csv_text(rows: Sequence[Row]) -> str:
    """The table to compute with: all numbers of all runs, in full."""
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "state", *rows[0].knobs, *names])
    for row in rows:
        scores = [row.scores.get(name) for name in names]
        writer.writerow([row.name, row.state, *row.knobs.values(),
                         *("" if score is None else score for score in scores)])
    return text.getvalue()


def collect(sweep: Sweep, runs: Sequence[Run], output: pathlib.Path,
            failures: Mapping[str, str]) -> None:
    """Write table.md, table.csv and plot.svg, each complete or not at all.

    Raises SweepError when runs have finished and none wrote the metric, or wrote it damaged.
    """
    rows = rows_of(sweep, runs, failures)
    output = epath.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    files.write_text(output / "table.md", markdown(sweep, rows))
    files.write_text(output / "table.csv", csv_text(rows))
    points = [plot.Point(row.name, row.knobs, row.scores.get(sweep.metric)) for row in rows]
    files.write_text(output / "plot.svg", plot.draw(
        points, metric=sweep.metric, best=best_of(sweep, rows)))
