"""The runs of a sweep: configs as legion_jax.train reads them, commands, how far they got.

What is on disk is asked of the run itself: its config.json, its checkpoints and its evaluation. So
it makes no difference who started a run, the sweep or a printed command.
"""

import dataclasses
import difflib
import importlib.util
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import flags
from etils import epath
from ml_collections import config_flags

from experiments import base as base_config
from experiments.sweeps.plan import Sweep, SweepError
from legion_jax.train import knobs as knobs_lib
from legion_jax.weights import checkpoint

TRAIN, EVALUATE = ("-m", "legion_jax.train"), ("-m", "legion_jax.evaluate")


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run, and its evaluation if there is one.

    Attributes:
        folder: its work directory.
        base: config file; arguments: the flags that make it `config`.
        overrides: {knob: value} that set it apart from the other runs.
    """

    name: str
    folder: pathlib.Path
    base: str
    arguments: tuple[str, ...]
    overrides: dict[str, Any]
    config: ml_collections.ConfigDict
    evaluated: bool

    @property
    def total(self) -> int:
        """Updates of the whole run."""
        return self.config.optimizer.total_steps

    @property
    def scores(self) -> pathlib.Path:
        return self.folder / "evaluation" / "metrics.json"

    def train_command(self, python: str) -> list[str]:
        return [python, *TRAIN, "--config", self.base, "--workdir", str(self.folder),
                *self.arguments]

    def evaluate_command(self, python: str) -> list[str]:
        config = self.config
        return [python, *EVALUATE, "--checkpoint", str(self.folder),
                "--data_dir", config.data.data_dir, "--split", config.data.eval_split,
                "--output", str(self.scores.parent), "--batch_size", str(config.eval.batch_size)]

    def commands(self, python: str = "python") -> list[list[str]]:
        """All commands of the run, as lists of words."""
        return [self.train_command(python)] + (
            [self.evaluate_command(python)] if self.evaluated else [])

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
    if not pathlib.Path(path).is_file():
        raise SweepError(f"{path}: no such sweep file")
    spec = importlib.util.spec_from_file_location("sweep_file", path)
    if spec is None:
        raise SweepError(f"{path}: no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        sweep = module.get_sweep(size)
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
    if not pathlib.Path(sweep.base).is_file():
        raise SweepError(f"{sweep.base}: no such base config file")
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
    knobs = {**sweep.common, **given, **overrides}
    try:
        known = knob_values(base_config.get_config())
        for knob in knobs:
            if knob not in known:
                close = difflib.get_close_matches(knob, known, n=1)
                raise SweepError(f"{knob}: no such knob" + (f", {close[0]}?" if close else
                                                            "; see experiments/base.py"))
        arguments = tuple(f"--config.{knob}={value}" for knob, value in knobs.items())
        config = parse(sweep.base, arguments)
        knobs_lib.check_values(config, batch_shards=1)
        if sweep.evaluate and not config.data.data_dir:
            raise SweepError("data.data_dir: empty, and the evaluation needs it")
    except (SweepError, knobs_lib.ConfigError) as error:
        raise SweepError(f"run {name}: {error}") from error
    return Run(name, output / "runs" / name, sweep.base, arguments, overrides, config,
               sweep.evaluate)


def parse(base: str, arguments: Sequence[str]) -> ml_collections.ConfigDict:
    """The config legion_jax.train makes of these flags. Raises SweepError where it would fail."""
    own, words = flags.FlagValues(), ["sweep", f"--config={base}", *arguments]
    holder = config_flags.DEFINE_config_file("config", None, flag_values=own, sys_argv=words)
    try:
        own(words)
    except Exception as error:  # whatever the config file does, and words that are no value
        raise SweepError(f"{base}: {' '.join(str(error).split())}") from error
    return knobs_lib.check(holder.value)


def knob_values(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """{knob: value} with the words of groups joined by dots."""
    found = {}
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            found |= {f"{name}.{rest}": inner for rest, inner in knob_values(value).items()}
        else:
            found[name] = value
    return found


def check_folders(runs: Sequence[Run]) -> None:
    """Whether runs can start here: the folders they read are there, and theirs are their own.

    Raises SweepError naming the knob, and both values where a run was made with another one.
    """
    for run in runs:
        for knob in ("init_from", "data.data_dir", "data.tokenizer"):
            folder = knob_values(run.config)[knob]
            if folder and not epath.Path(folder).is_dir():
                raise SweepError(f"{knob}: {folder} is not there (--set {knob}=DIR names another)")
        check_unchanged(run)


def check_unchanged(run: Run) -> None:
    """Refuse a folder with checkpoints of another config. Raises SweepError naming both values."""
    path = run.folder / "config.json"
    if not run.saved_step() or not path.exists():
        return
    try:
        old = json.loads(path.read_text())
    except ValueError as error:
        raise SweepError(f"{path}: not valid JSON ({error})") from error
    new = json.loads(run.config.to_json())
    if old != new:
        raise SweepError(f"run {run.name} was begun with another config: "
                         f"{knobs_lib.differences(old, new)}; name it anew, or remove "
                         f"{run.folder}")
