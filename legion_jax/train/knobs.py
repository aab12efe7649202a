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


def check_values(config: ml_collections.ConfigDict, *, batch_shards: int) -> None:
    """Refuse numbers that no run could use, before anything is loaded or compiled.

    Args:
        batch_shards: devices a batch is split over, data * fsdp.

    Raises ConfigError naming the knob and its value.
    """
    for knob, value, least in (
        ("seed", config.seed, 0), ("batch_size", config.batch_size, 1),
        ("accumulation", config.accumulation, 1), ("log_every", config.log_every, 1),
        ("log_images_every", config.log_images_every, 0),
        ("checkpoint_every", config.checkpoint_every, 1),
        ("checkpoint_keep", config.checkpoint_keep, 1),
        ("checkpoint_keep_every", config.checkpoint_keep_every, 0),
        ("checkpoint_keep_best", config.checkpoint_keep_best, 0),
        ("stop_above", config.stop_above, 0),
        ("model.lora_rank", config.model.lora_rank, 0),
        ("data.threads", config.data.threads, 0), ("data.workers", config.data.workers, 0),
        ("data.buffer", config.data.buffer, 1), ("data.max_bad", config.data.max_bad, 0),
        ("data.mask_slots", config.data.mask_slots, 1),
        ("data.mask_canvas", config.data.mask_canvas, 8),
        ("eval.batch_size", config.eval.batch_size, 1),
        ("eval.max_new_tokens", config.eval.max_new_tokens, 1),
        ("optimizer.learning_rate", config.optimizer.learning_rate, 0),
    ):
        if value < least:
            raise ConfigError(f"config.{knob}: at least {least}, got {value}")
    if not config.data.data_dir and not config.data.mixture:
        raise ConfigError("config.data.data_dir: name the folder tools.prepare_data wrote")
    if config.optimizer.clip_norm <= 0:
        raise ConfigError(f"config.optimizer.clip_norm: above 0, got {config.optimizer.clip_norm}")
    if not 0 <= config.model.lora_dropout < 1:
        raise ConfigError(f"config.model.lora_dropout: 0 to below 1, "
                          f"got {config.model.lora_dropout}")
    if config.frozen_dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"config.frozen_dtype: float32 or bfloat16, not {config.frozen_dtype!r}")
    if not any(config.loss.values()):
        raise ConfigError("config.loss: every weight is 0, there is nothing to train")
    parts = config.accumulation * batch_shards
    if config.batch_size % parts:
        raise ConfigError(
            f"config.batch_size: {config.batch_size} rows do not divide into accumulation "
            f"{config.accumulation} x {batch_shards} devices of the mesh axes data and fsdp")


def check_without_data(config: ml_collections.ConfigDict, *, batch_shards: int) -> None:
    """As `check` and `check_values`, for what needs no data set. Raises ConfigError."""
    probe = check(config).copy_and_resolve_references()
    probe.data.data_dir = config.data.data_dir or "not needed here"
    check_values(probe, batch_shards=batch_shards)


# What a run may change between two of its starts: where it runs and what it keeps, not what it
# computes.
FREE = {"mesh", "compile_cache", "log_every", "log_images_every", "checkpoint_every",
        "checkpoint_keep", "checkpoint_keep_every", "checkpoint_keep_best", "stop_above",
        "data.threads", "data.workers", "data.buffer"}


def lasting(config: dict, prefix: str = "") -> dict:
    """A config, as a dict, without the knobs that may change between two starts of a run."""
    return {name: lasting(value, f"{prefix}{name}.") if isinstance(value, dict) else value
            for name, value in config.items() if f"{prefix}{name}" not in FREE}


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
