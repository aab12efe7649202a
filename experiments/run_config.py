"""Check a run's config against experiments/base.py, so that a misspelt knob is one sentence."""

import ml_collections

from experiments import base
from input_pipeline.errors import UserError


class ConfigError(UserError):
    """A config that cannot be run; the message names the knob."""


def check(config: ml_collections.ConfigDict, known: ml_collections.ConfigDict | None = None,
          prefix: str = "config.") -> ml_collections.ConfigDict:
    """The config itself, if its knobs are exactly those of experiments/base.py.

    Raises ConfigError naming an unknown or missing knob.
    """
    known = base.get_config() if known is None else known
    for name in sorted(set(config) | set(known)):
        if name not in known:
            raise ConfigError(f"{prefix}{name}: no such knob; see experiments/base.py")
        if name not in config:
            raise ConfigError(f"{prefix}{name}: this knob is missing; see experiments/base.py")
        if isinstance(known[name], ml_collections.ConfigDict):
            if not isinstance(config[name], ml_collections.ConfigDict):
                raise ConfigError(f"{prefix}{name}: a group of knobs, not {config[name]!r}")
            check(config[name], known[name], f"{prefix}{name}.")
    return config


def differences(old: dict, new: dict, prefix: str = "") -> str:
    """Readable list of the knobs in which two configs, as dicts, differ."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found.append(differences(a, b, f"{prefix}{name}."))
        elif a != b:
            found.append(f"{prefix}{name} was {a!r}, now {b!r}")
    return "; ".join(filter(None, found))
