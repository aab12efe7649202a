"""The runs of a sweep: settings as legion_jax.train reads them, commands, how far they got.

What is on disk is asked of the run itself: its config.json, its checkpoints and its evaluation. So
it makes no difference who started a run, the sweep or a printed command.
"""

import dataclasses
import difflib
import operator
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from input_pipeline import paths, strict_json
from legion_jax.train import knobs, recipes
from legion_jax.train.knobs import ConfigError, RunSettings
from legion_jax.train.sweep_plan import Sweep, SweepError
from legion_jax.weights import checkpoint

TRAIN, EVALUATE = ("-m", "legion_jax.train"), ("-m", "legion_jax.evaluate")


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run, and its evaluation if there is one.

    Attributes:
        folder: its work directory.
        base: recipe by name or path; arguments: the flags that make it `settings`.
        overrides: {knob: value} that set it apart from the other runs.
    """

    name: str
    folder: pathlib.Path
    base: str
    arguments: tuple[str, ...]
    overrides: dict[str, Any]
    settings: RunSettings
    evaluated: bool

    @property
    def total(self) -> int:
        """Updates of the whole run."""
        return self.settings.optimizer.total_steps

    @property
    def scores(self) -> pathlib.Path:
        return self.folder / "evaluation" / "metrics.json"

    def train_command(self, python: str) -> list[str]:
        return [python, *TRAIN, "--config", self.base, "--workdir", str(self.folder),
                *self.arguments]

    def evaluate_command(self, python: str) -> list[str]:
        data, batch_size = self.settings.data, self.settings.eval.batch_size
        return [python, *EVALUATE, "--checkpoint", str(self.folder),
                "--data_dir", data.data_dir, "--split", data.eval_split,
                "--output", str(self.scores.parent), "--batch_size", str(batch_size)]

    def commands(self) -> list[list[str]]:
        """All commands of the run, as lists of words."""
        return [self.train_command("python")] + (
            [self.evaluate_command("python")] if self.evaluated else [])

    def saved_step(self) -> int:
        """Updates its newest checkpoint holds; 0 without one."""
        return checkpoint.latest_step(self.folder) or 0

    def trained(self) -> bool:
        return self.saved_step() >= self.total

    def finished(self) -> bool:
        return self.trained() and (not self.evaluated or self.scores.exists())


def read_sweep(name: str) -> Sweep:
    """The sweep of `FILE` or `FILE:SIZE`. Raises SweepError when there is none in it."""
    path, _, size = name.partition(":")
    try:
        file = recipes.find(path)
    except FileNotFoundError:
        raise SweepError(f"{path}: no such sweep file") from None
    try:
        sweep = recipes.load(str(file)).get_sweep(size)
    except Exception as error:  # whatever the file does
        raise SweepError(f"{path}: {error}" if isinstance(error, SweepError) else
                         f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(sweep, Sweep):
        raise SweepError(f"{path}: get_sweep() returned {type(sweep).__name__}, not a Sweep")
    if not sweep.evaluate and not sweep.metric.startswith("train."):
        raise SweepError(f"{path}: metric {sweep.metric} comes from an evaluation, and "
                         f"this sweep makes none")
    return sweep


def make_runs(sweep: Sweep, output: pathlib.Path, settings: Sequence[str] = ()) -> list[Run]:
    """Every run of a sweep, its config checked as far as it can be before it is started.

    Args:
        output: folder of the sweep; runs go to OUTPUT/runs/NAME.
        settings: "KNOB=VALUE", as in --config.KNOB=VALUE of legion_jax.train, for all runs.

    Raises SweepError or ConfigError naming the run, the knob and its value.
    """
    named = sweep.named_runs()
    try:
        recipes.find(sweep.base)
    except FileNotFoundError as error:
        raise SweepError(f"{sweep.base}: no such base config file ({error})") from error
    varied = {knob for overrides in named.values() for knob in overrides}
    given = {}
    for setting in settings:
        knob, equals, value = setting.partition("=")
        if not equals:
            raise SweepError(f"--set {setting}: KNOB=VALUE is wanted")
        if knob in varied:
            raise SweepError(f"--set {setting}: the sweep itself varies {knob}")
        given[knob] = value
    return [_make_run(sweep, output, name, overrides, given)
            for name, overrides in named.items()]


def _make_run(sweep: Sweep, output: pathlib.Path, name: str, overrides: dict, given: dict) -> Run:
    changes = {**sweep.common, **given, **overrides}
    try:
        known = list(knobs.names())
        for knob in changes:
            if knob not in known:
                close = difflib.get_close_matches(knob, known, n=1)
                raise SweepError(f"{knob}: no such knob" + (f", {close[0]}?" if close else
                                                            "; see experiments/base.py"))
        arguments = tuple(f"--config.{knob}={value}" for knob, value in changes.items())
        settings = parse(sweep.base, arguments)
        settings.check_batch(1)
        if sweep.evaluate and not settings.data.data_dir:
            raise SweepError("data.data_dir: empty, and the evaluation needs it")
    except (SweepError, ConfigError) as error:
        raise SweepError(f"run {name}: {error}") from error
    return Run(name, output / "runs" / name, sweep.base, arguments, overrides, settings,
               sweep.evaluate)


def parse(base: str, arguments: Sequence[str]) -> RunSettings:
    """The settings legion_jax.train makes of these flags.

    Raises SweepError or ConfigError where it would fail.
    """
    own, words = flags.FlagValues(), ["sweep", f"--config={base}", *arguments]
    holder = recipes.define_flag(own, words)
    try:
        own(words)
    except Exception as error:  # whatever the config file does, and words that are no value
        raise SweepError(f"{base}: {' '.join(str(error).split())}") from error
    return RunSettings.from_config(holder.value)


def knob_values(settings: RunSettings) -> dict[str, Any]:
    """{knob: value} with the words of groups joined by dots."""
    return {knob: operator.attrgetter(knob)(settings) for knob in knobs.names()}


def check_folders(runs: Sequence[Run]) -> None:
    """Whether runs can start here: the folders they read are there, and theirs are their own.

    Raises SweepError naming the knob, and both values where a run was made with another one.
    """
    for run in runs:
        for knob in ("init_from", "data.data_dir", "data.tokenizer"):
            folder = knob_values(run.settings)[knob]
            if folder and not paths.find(folder, knob).is_dir():
                raise SweepError(f"{knob}: {folder} is not there (--set {knob}=DIR names another)")
        check_unchanged(run)


def check_unchanged(run: Run) -> None:
    """Refuse a folder with checkpoints of another config. Raises SweepError naming both values."""
    path = run.folder / "config.json"
    if not run.saved_step() or not path.exists():
        return
    old = strict_json.read(path, error=SweepError, lone_surrogates=True)
    new = run.settings.as_dict()
    if old != new:
        raise SweepError(f"run {run.name} was begun with another config: "
                         f"{knobs.differences(old, new)}; name it anew, or remove "
                         f"{run.folder}")
