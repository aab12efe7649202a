"""Recipes by name: `base` or a path, in a checkout's experiments/ or in the installed package."""

import contextlib
import importlib.util
import pathlib
import sys
import traceback
import types

import ml_collections
from absl import flags
from ml_collections import config_flags

import legion_jax

flags.disclaim_key_flags()  # --help lists --config as a flag of the command that defines it

_PACKAGE = pathlib.Path(legion_jax.__file__).parent


def folder() -> pathlib.Path:
    """Where the recipes are: a wheel has them in legion_jax/recipes/, made of experiments/."""
    installed = _PACKAGE / "recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "experiments"


def known() -> list[str]:
    """Names of all recipes."""
    return sorted(file.stem for file in folder().glob("*.py") if file.stem != "__init__")


def find(name: str) -> pathlib.Path:
    """The file of a recipe.

    Args:
        name: a path to a file, or the path below `folder()` without its ending: `base`,
            `sweeps/lora_rank`.

    Raises FileNotFoundError naming the recipes there are.
    """
    for file in (pathlib.Path(name), folder() / f"{name}.py"):
        if file.is_file():
            return file
    raise FileNotFoundError(f"{name}: no such file and no recipe; recipes: {', '.join(known())}")


@contextlib.contextmanager
def _compiled_anew():
    """Keeps what is compiled inside out of __pycache__.

    Python takes a kept module for the file's where size and second of its change agree: `rank = 1`
    changed to `rank = 2` within a second of the last run would run as 1, without a word.
    """
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def load(name: str) -> types.ModuleType:
    """Run the file of a recipe, named as in `find`. Raises FileNotFoundError or ImportError."""
    file = find(name)
    spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
    if spec is None:
        raise ImportError(f"{file}: no Python file")
    module = importlib.util.module_from_spec(spec)
    with _compiled_anew():
        spec.loader.exec_module(module)
    return module


class RecipeError(ImportError):
    """A recipe that cannot be read; the message names its file."""


def _line_of(file: pathlib.Path, error: Exception) -> str:
    """The line of a recipe at which it failed, as `, line 3`; nothing where that is elsewhere."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename == str(file)]
    return f", line {lines[-1]}" if lines else ""


class _ByName(flags.ArgumentParser):
    """Lets the parser of a config file take names as well as paths."""

    def __init__(self, parser: flags.ArgumentParser):
        """`parser` takes a path; what follows a colon behind it goes to `get_config`."""
        self._parser = parser

    def parse(self, argument: str):
        name, *rest = argument.split(":", 1)
        file = find(name)
        sys.modules.pop("config_config", None)  # else an earlier file's names would be in this one
        try:
            with _compiled_anew():
                config = self._parser.parse(":".join([str(file), *rest]))
        except Exception as error:  # whatever a user's file raises
            if str(error) == "module 'config_config' has no attribute 'get_config'":
                raise RecipeError(f"--config: {file}: there is no get_config() in it") from error
            raise RecipeError(f"--config: {file}{_line_of(file, error)}: "
                              f"{type(error).__name__}: {error}") from error
        if not isinstance(config, ml_collections.ConfigDict):
            raise RecipeError(f"--config: {file}: get_config() must return an "
                              f"ml_collections.ConfigDict, not {config!r}")
        return config

    def flag_type(self) -> str:
        return self._parser.flag_type()


def define_flag(flag_values: flags.FlagValues = flags.FLAGS,
                arguments: list[str] | None = None) -> flags.FlagHolder:
    """The flag --config, whose value is a ConfigDict with the changes of --config.KNOB=VALUE.

    Args:
        flag_values, arguments: where the flag is defined, and the command line that is going to
            be parsed there; by default those of the process.
    """
    holder = config_flags.DEFINE_config_file(
        "config", None, f"Recipe: {', '.join(known())}, or a file with get_config().",
        flag_values=flag_values, sys_argv=arguments)
    flag = flag_values["config"]
    flag.parser = _ByName(flag.parser)
    return holder
