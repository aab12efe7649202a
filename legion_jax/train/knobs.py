"""The settings of a run: every knob with its type, read once from the config of a recipe."""

import dataclasses
import json
import operator
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from input_pipeline.errors import UserError
from input_pipeline.text.dialogue import Dialogue, dialogue_named


class ConfigError(UserError):
    """A config that cannot be run; the message names the knob."""


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Sizes of a model that starts from scratch, its LoRA, and its arithmetic."""

    name: str
    lora_rank: int
    lora_alpha: float
    lora_dropout: float
    lora_targets: tuple[str, ...]
    dtype: str
    position_dtype: str
    remat: str


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which records a run reads, what it makes of them, and how they are prepared ahead."""

    data_dir: str
    train_split: str
    mixture: tuple
    eval_split: str
    tokenizer: str
    dialogue: str
    instruction: str
    text_length: int
    text_buckets: tuple[int, ...]
    own_questions: bool
    learn_labels: bool
    mask_slots: int
    mask_canvas: int
    soft_masks: bool
    sam_longest: int
    reduced_decoding: bool
    features: str
    threads: int
    workers: int
    buffer: int
    max_bad: float

    @property
    def spoken(self) -> Dialogue:
        """The dialogue of that name. Raises UserError naming the knob."""
        return dialogue_named(self.dialogue, "config.data.dialogue")

    @property
    def question(self) -> str:
        """What is asked where a record does not ask for itself."""
        return self.instruction or self.spoken.instruction


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """Weights of the loss terms; a term of weight 0 is not computed."""

    ce: float
    bce: float
    dice: float
    verdict: float

    @property
    def reads_masks(self) -> bool:
        """Whether a term looks at masks."""
        return bool(self.bce or self.dice)


# Parts that SIDA's published training begins anew in each of its stages.
HEADS = r"^(text_projection|verdict|fusion)/"
# Its pattern of the fusion's parameters also matched these, by their published names.
SECOND_NORMS = r"^language/layers/norm2/"


@dataclasses.dataclass(frozen=True)
class CompatSettings:
    """Faults of SIDA's published training, to repeat it with."""

    doubled_masks: bool
    trained_norms: bool
    fresh_heads: bool
    nan_without_text: bool


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """AdamW, clipping of gradients, and the learning rate over the updates."""

    learning_rate: float
    schedule: str
    warmup: str
    warmup_steps: int
    total_steps: int
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    clip_norm: float


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """How the run's checkpoint answers, and how often the run is scored by its answers."""

    batch_size: int
    max_new_tokens: int
    every: int
    photos: int
    metric: str


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Every knob of a run, in the order of config.json; experiments/base.py says what each means.

    A run that starts again in its work directory may change the knobs of `FREE` alone.
    """

    seed: int
    mesh: tuple[int, ...]
    init_from: str
    trainable: tuple[str, ...]
    frozen_dtype: str
    model: ModelSettings
    data: DataSettings
    batch_size: int
    accumulation: int
    compile_cache: bool
    log_every: int
    log_images_every: int
    checkpoint_every: int
    checkpoint_keep: int
    checkpoint_keep_every: int
    checkpoint_keep_best: int
    stop_above: float
    loss: LossSettings
    compat: CompatSettings
    optimizer: OptimizerSettings
    eval: EvalSettings

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict, *,
                    without_data: bool = False) -> "RunSettings":
        """The settings a config says, refused before anything is loaded or compiled.

        Args:
            without_data: for what needs no data set, so that the config need not name one.

        Raises ConfigError naming a knob that is unknown or missing, or whose value no run could
        use.
        """
        settings = _read(cls, config, "config.")
        _check(settings)
        if not (without_data or settings.data.data_dir or settings.data.mixture):
            raise ConfigError("config.data.data_dir: name the folder tools.prepare_data wrote")
        return settings

    def check_batch(self, batch_shards: int) -> None:
        """Raises ConfigError where a batch does not divide.

        Args:
            batch_shards: devices a batch is split over, data * fsdp.
        """
        if self.batch_size % (self.accumulation * batch_shards):
            raise ConfigError(
                f"config.batch_size: {self.batch_size} rows do not divide into accumulation "
                f"{self.accumulation} x {batch_shards} devices of the mesh axes data and fsdp")

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of the loss terms by their names, as they are used."""
        weights = dataclasses.asdict(self.loss)
        if self.compat.doubled_masks:
            weights |= dict.fromkeys(("bce", "dice"), self.loss.bce + self.loss.dice)
        return weights

    @property
    def stored(self) -> tuple[str, ...]:
        """Patterns over the paths of the parameters that the run trains, or holds as it drew them.
        """
        return (*self.trainable, *[SECOND_NORMS] * self.compat.trained_norms,
                *[HEADS] * self.compat.fresh_heads)

    def is_fresh(self, path: str) -> bool:
        """Whether a parameter is drawn although the run's base has it."""
        return self.compat.fresh_heads and bool(re.search(HEADS, path))

    def is_held(self, path: str) -> bool:
        """Whether a parameter of the run is stored with it, but not trained."""
        return self.is_fresh(path) and not any(
            re.search(pattern, path) for pattern in self.trainable)

    def as_dict(self) -> dict[str, Any]:
        """What config.json holds: groups are dicts, tuples are lists."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


# What a run may change between two of its starts: where it runs and what it keeps, not what it
# computes.
FREE = {"mesh", "compile_cache", "log_every", "log_images_every", "checkpoint_every",
        "checkpoint_keep", "checkpoint_keep_every", "checkpoint_keep_best", "stop_above",
        "data.threads", "data.workers", "data.buffer", "eval.every", "eval.photos", "eval.metric"}

_LEAST = {"seed": 0, "batch_size": 1, "accumulation": 1, "log_every": 1, "log_images_every": 0,
          "checkpoint_every": 1, "checkpoint_keep": 1, "checkpoint_keep_every": 0,
          "checkpoint_keep_best": 0, "stop_above": 0, "model.lora_rank": 0, "data.threads": 0,
          "data.workers": 0, "data.buffer": 1, "data.max_bad": 0, "data.mask_slots": 1,
          "data.mask_canvas": 8, "eval.batch_size": 1, "eval.max_new_tokens": 1,
          "eval.every": 0, "eval.photos": 1,
          "optimizer.learning_rate": 0}
_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text",
          tuple: "a tuple"}


def names(group: type = RunSettings, prefix: str = "") -> Iterator[str]:
    """Every knob as it is written behind `--config.`, the words joined by dots."""
    for name, kind in typing.get_type_hints(group).items():
        if dataclasses.is_dataclass(kind):
            yield from names(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def _read(group: type, config: Mapping, prefix: str):
    """One group of settings; knobs are looked at in the order of their names."""
    kinds, values = typing.get_type_hints(group), {}
    for name in sorted(set(config) | set(kinds)):
        if name not in kinds:
            raise ConfigError(f"{prefix}{name}: no such knob; see experiments/base.py")
        if name not in config:
            raise ConfigError(f"{prefix}{name}: this knob is missing; see experiments/base.py")
        kind, value = kinds[name], config[name]
        if not dataclasses.is_dataclass(kind):
            values[name] = _value(f"{prefix}{name}", kind, value)
        elif isinstance(value, ml_collections.ConfigDict):
            values[name] = _read(kind, value, f"{prefix}{name}.")
        else:
            raise ConfigError(f"{prefix}{name}: a group of knobs, not {value!r}")
    return group(**values)


def _value(knob: str, kind: Any, value: Any):
    """The value as `kind`, which is a type or `tuple[type, ...]`."""
    whole = typing.get_origin(kind) or kind
    if whole is tuple and isinstance(value, list | tuple):
        element = next(iter(typing.get_args(kind)), None)
        return tuple(_value(knob, element, part) if element else part for part in value)
    number = isinstance(value, int) and not isinstance(value, bool)
    if whole is float and number:
        return float(value)
    if not (number if whole is int else isinstance(value, whole)):
        raise ConfigError(f"{knob}: {_KINDS[whole]}, not {value!r}")
    return value


def _check(settings: RunSettings) -> None:
    """Raises ConfigError for a value that no run could use."""
    for knob, least in _LEAST.items():
        if (value := operator.attrgetter(knob)(settings)) < least:
            raise ConfigError(f"config.{knob}: at least {least}, got {value}")
    if settings.optimizer.clip_norm <= 0:
        raise ConfigError(f"config.optimizer.clip_norm: above 0, "
                          f"got {settings.optimizer.clip_norm}")
    if not 0 <= settings.model.lora_dropout < 1:
        raise ConfigError(f"config.model.lora_dropout: 0 to below 1, "
                          f"got {settings.model.lora_dropout}")
    if settings.frozen_dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"config.frozen_dtype: float32 or bfloat16, "
                          f"not {settings.frozen_dtype!r}")
    if not any(dataclasses.astuple(settings.loss)):
        raise ConfigError("config.loss: every weight is 0, there is nothing to train")


def lasting(config: dict, prefix: str = "") -> dict:
    """A config.json without the knobs that may change between two starts of a run."""
    return {name: lasting(value, f"{prefix}{name}.") if isinstance(value, dict) else value
            for name, value in config.items() if f"{prefix}{name}" not in FREE}


def differences(old: dict, new: dict, prefix: str = "") -> str:
    """Readable list of the knobs in which the contents of two config.json differ."""
    changes = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            changes.append(differences(before, after, f"{prefix}{name}."))
        elif before != after:
            changes.append(f"{prefix}{name} was {before!r}, now {after!r}")
    return "; ".join(filter(None, changes))
