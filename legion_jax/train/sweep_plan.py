"""What a sweep is: a base config, what each run changes, and the number that is compared.

A sweep file has a function `get_sweep(size)`; `size` is what follows the colon in `file.py:size`
and is empty without one.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from input_pipeline.errors import UserError

_NAME = re.compile(r"[\w+=,-][\w+=,.-]*")


class SweepError(UserError):
    """A sweep that cannot be run; the message names the knob, run or file."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Runs that differ in a few knobs.

    Attributes:
        base: recipe by name or path, as --config of legion_jax.train takes it.
        runs: {name: {knob: value}}, or the overrides alone, which are then named after
            themselves. Knobs are those of experiments/base.py, "model.lora_rank".
        metric: the number to compare. Path in the evaluation's metrics.json, "text.rouge_l", or
            "train." and a key of metrics.jsonl: its mean over the last tenth of the updates.
        common: {knob: value} of all runs; what a run says goes first.
        also: more numbers for the table.
        higher_is_better: how `metric` is read.
        evaluate: score each run on `data.eval_split` when it is trained.
    """

    base: str
    runs: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]]
    metric: str
    common: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    also: Sequence[str] = ()
    higher_is_better: bool = True
    evaluate: bool = True

    def named_runs(self) -> dict[str, dict[str, Any]]:
        """{name: overrides}. Raises SweepError: no run, a name that clashes or is no folder's."""
        if not self.runs:
            raise SweepError("runs: the sweep has none")
        if isinstance(self.runs, Mapping):
            named = [(name, dict(overrides)) for name, overrides in self.runs.items()]
        else:
            named = [(run_name(overrides), dict(overrides)) for overrides in self.runs]
        seen: dict[str, tuple[str, dict]] = {}
        for name, overrides in named:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise SweepError(f"run {name!r}: names a folder, so only letters, digits and "
                                 f"_ + = , . - (not at the start: .)")
            # Some file systems take A and a for one folder.
            other, before = seen.setdefault(name.casefold(), (name, overrides))
            if before is not overrides:
                raise SweepError(f"run {name}: {overrides} and {before} (run {other}) would "
                                 f"share one folder")
        return dict(named)


def grid(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Overrides for every combination of {knob: values}, the last knob changing fastest.

    Raises SweepError when there is no knob, or a knob has no value.
    """
    if not values:
        raise SweepError("grid: no knob to vary")
    for knob, choices in values.items():
        if isinstance(choices, str) or not isinstance(choices, Sequence):
            raise SweepError(f"grid: {knob} needs a list of values, got {choices!r}")
        if not choices:
            raise SweepError(f"grid: {knob} has no values")
    return [dict(zip(values, chosen, strict=True))
            for chosen in itertools.product(*values.values())]


def run_name(overrides: Mapping[str, Any]) -> str:
    """A folder name that says what a run changes: `lora_rank=4,bce=0.4`.

    A knob goes by its last word unless two of them end in the same one.
    """
    return ",".join(f"{label}={_spelled(overrides[knob])}"
                    for knob, label in short_names(overrides).items()) or "base"


def short_names(knobs: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    """{knob: its last word, or all of it where that word stands for several}."""
    last = [knob.rpartition(".")[2] for knob in knobs]
    return {knob: word if last.count(word) == 1 else knob
            for knob, word in zip(knobs, last, strict=True)}


def _spelled(value: Any) -> str:
    """A value within a folder's name."""
    if isinstance(value, (tuple, list)):
        return "+".join(map(_spelled, value)) or "none"
    if isinstance(value, float):
        value = f"{value:g}"
    return re.sub(r"[^\w.+-]+", "-", str(value)).strip("-") or "none"
