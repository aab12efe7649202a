"""legion.json, what a folder of weights says of itself: written here, read back with a type."""

import dataclasses
import math
import typing
from typing import Any

from etils import epath

from input_pipeline import files
from input_pipeline.errors import UserError
from input_pipeline.text.dialogue import DIALOGUES, LEGION
from legion_jax import config as architecture
from legion_jax.config import LegionConfig
from legion_jax.weights.checkpoint_error import CheckpointError, parse_json

META = "legion.json"
FORMAT = 4
LARGEST = 1 << 31  # of any size, and far above all of them
MANY = 10_000  # layers of a tower
LEAST = {"select_layer": -MANY, "rank": 0, "hidden": 0}  # of numbers that may be below 1


@dataclasses.dataclass(frozen=True)
class Base:
    """The folder that a run started from.

    Attributes:
        path: absolute path of the folder.
        fingerprint: SHA-256 of its legion.json, in hexadecimal digits.
        step: which step of it, if it is a training run.
    """

    path: str
    fingerprint: str
    step: int | None


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The vocabulary matrices of the PyTorch files.

    Attributes:
        rows: how many rows they have, rows that belong to no token included.
        image_token: the row that stands for `<image>`; None where an image has no row.
    """

    rows: int
    image_token: int | None


@dataclasses.dataclass(frozen=True)
class Meta:
    """Content of a legion.json.

    Attributes:
        config: the architecture.
        dialogue: name of the `input_pipeline.text.dialogue` that the model is spoken to in.
        base: what a run started from; None of a converted checkpoint and of a run from scratch.
        run: SHA-256 of the knobs that a run keeps, its seed and data among them, so that runs
            which differ in one have another legion.json; "" of a conversion.
        trained: paths of the parameters that a run trained.
        absent: towers that a conversion did not find.
        question: what a run asks of a photo, the fields of `predict.prediction.Question`.
        vocabulary: what a conversion recorded of the vocabulary matrices.
        options: fields of `convert.plan.Options` that a conversion was given.
        sources: {role: {"path": folder, "sha256": {file: hash}, "ignored": {name: why}}} of a
            conversion; ignored is what lies there and was not read.
    """

    config: LegionConfig
    dialogue: str = LEGION.name
    base: Base | None = None
    run: str = ""
    trained: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    question: dict[str, Any] = dataclasses.field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


def write_meta(folder: epath.PathLike, config: LegionConfig, **fields: Any) -> None:
    """Write legion.json; `fields` are those of `Meta`, as JSON, `dialogue` among them."""
    files.write_json(epath.Path(folder) / META,
                     {"format": FORMAT, "config": architecture.to_dict(config)} | fields)


def parse_meta(path: epath.PathLike, content: bytes) -> Meta:
    """The legion.json that `content`, read from `path`, holds, with every field checked.

    Raises CheckpointError naming the file and the field.
    """
    values = parse_json(path, content)
    if values.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {values.get('format')}, this version reads "
                              f"{FORMAT}; what another version made must be converted or trained "
                              f"again")
    config = _parse_config(path, values)
    if problem := _problem_of(config, values):
        raise CheckpointError(f"{path}: {problem}")
    base, vocabulary = values.get("base"), values.get("vocabulary")
    return Meta(
        config=config, dialogue=values.get("dialogue", LEGION.name), run=values.get("run", ""),
        trained=tuple(values.get("trained", ())),
        absent=tuple(values.get("absent", ())), question=values.get("question", {}),
        options=values.get("options", {}), sources=values.get("sources", {}),
        base=base and Base(**{field.name: base[field.name] for field in dataclasses.fields(Base)}),
        vocabulary=vocabulary and Vocabulary(**vocabulary))


def _parse_config(path: epath.PathLike, values: dict) -> LegionConfig:
    if "config" not in values:
        raise CheckpointError(f"{path}: config is missing")
    try:
        config = architecture.from_dict(values["config"], subject=f"{path}: config")
    except UserError as error:
        named = str(path) in str(error)
        raise CheckpointError(str(error) if named else f"{path}: {error}") from error
    except (TypeError, AttributeError, ArithmeticError) as error:
        _check_types(values["config"], LegionConfig, f"{path}: config")
        raise CheckpointError(f"{path}: config: {error}") from error
    _check_types(values["config"], LegionConfig, f"{path}: config")
    return config


def _check_types(values: Any, kind: type, subject: str) -> None:
    """Types and ranges of the config's fields that are there. Raises CheckpointError."""
    if not isinstance(values, dict):
        raise CheckpointError(f"{subject} must be an object, not {values!r}")
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        hint = hints.get(name)
        if value is None and architecture.may_be_absent(hint):
            continue
        if part := architecture.part_of(hint):
            _check_types(value, part, f"{subject}.{name}")
        elif hint and not _fits(name, value, hint):
            raise CheckpointError(f"{subject}.{name} cannot be {value!r}")


def _fits(name: str, value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is tuple:
        item_type = typing.get_args(hint)[0]
        return isinstance(value, list) and all(type(item) is item_type for item in value)
    if hint is float:
        return type(value) in (int, float) and 0 <= value < math.inf
    if type(value) is not hint or hint is not int:
        return type(value) is hint
    largest = MANY if name.endswith("layers") else LARGEST
    return LEAST.get(name, 1) <= value < largest


def _problem_of(config: LegionConfig, values: dict) -> str | None:
    """A field that a conversion or a run would not have written."""
    if (sam := config.sam) and list(sam.global_blocks) != sorted(
            set(sam.global_blocks) & set(range(sam.layers))):
        return f"config.sam.global_blocks {list(sam.global_blocks)} of {sam.layers} layers"
    if (dialogue := values.get("dialogue", LEGION.name)) not in [*DIALOGUES]:
        return f"dialogue must be one of {', '.join(DIALOGUES)}, not {dialogue!r}"
    sources = values.get("sources", {})
    if not isinstance(sources, dict) or not all(
            isinstance(s, dict) and isinstance(s.get("path"), str) for s in sources.values()):
        return "sources must be objects with a path"
    vocabulary = values.get("vocabulary")
    if vocabulary is not None and not (
            isinstance(vocabulary, dict) and vocabulary.keys() == {"rows", "image_token"}
            and type(vocabulary["rows"]) is int
            and type(vocabulary["image_token"]) in (int, type(None))
            and 0 <= (vocabulary["image_token"] or 0) <= vocabulary["rows"] < LARGEST):
        return f"vocabulary cannot be {vocabulary!r}"
    if not isinstance(values.get("run", ""), str):
        return f"run must be a text, not {values['run']!r}"
    for name in ("absent", "trained"):
        names = values.get(name, [])
        if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
            return f"{name} must be a list of names, not {values[name]!r}"
    for name in ("question", "options"):
        if not isinstance(values.get(name, {}), dict):
            return f"{name} must be an object, not {values[name]!r}"
    base = values.get("base")
    if base is not None and not (
            isinstance(base, dict) and {"path", "fingerprint", "step"} <= base.keys()
            and isinstance(base["path"], str) and type(base["step"]) in (int, type(None))):
        return f"base must be an object with path, fingerprint and step, not {base!r}"
    return None
