"""Which weights files of a folder are read, and what is known of those that are not.

The order among several sets is that of transformers' `from_pretrained`, and of PEFT's for adapters.
"""

import collections
import dataclasses
import pathlib
import re
from typing import Any

from legion_jax.weights.checkpoint_error import CheckpointError, read_json

MODEL = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
         "pytorch_model.bin.index.json")
ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")
INDEXES = tuple(name for name in MODEL if name.endswith(".index.json"))
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
MODULES = "trained_modules.safetensors"  # beside a PEFT adapter: what PEFT has no place for
# What adds to the weights it lies beside, {role: its names}: besides MODULES, what LLaVA's training
# saves of modules that are trained whole, with LoRA and in its first stage.
PARTS = {"modules": (MODULES,),
         "trainables": ("non_lora_trainables.bin", "non_lora_state_dict.bin"),
         "projector": ("mm_projector.bin",)}
# Read only where somebody asks for a variant, such as fp16, by its name.
VARIANT = re.compile(r"(model|adapter_model)\.[^.]+\.safetensors"
                     r"|(pytorch_model|adapter_model)\.[^.]+\.bin"
                     r"|(model\.safetensors|pytorch_model\.bin)\.index\.[^.]+\.json")
SHARD = re.compile(r"(?P<stem>(adapter_|pytorch_)?model)(?P<first>\.[^.]+?)?-(?P<number>\d+)-of-"
                   r"(?P<total>\d+)(?P<last>(\.[^.]+)?\.(safetensors|bin))")
# What a training needs to go on, beside its weights.
TRAINING = re.compile(
    r"(optimizer|scheduler|lr_scheduler|scaler|sampler|dl_state_dict|rng_state|random_states)"
    r"([_-]?\d+)*\.(safetensors|bin|pth|pt|ckpt)|training_args\.bin|.*optim_states\.pt")
FOREIGN = (".h5", ".msgpack", ".ot", ".onnx", ".gguf")  # weights of other programs


@dataclasses.dataclass(frozen=True)
class WeightSet:
    """Files that hold the weights of one model together.

    Attributes:
        name: of the single file, or of the index; of shards without an index, a pattern.
        files: names of the weights files that are there.
        index: content of the index; None without one.
        lacks: name of a file of the set that is not there; None of a set that is whole.
    """

    name: str
    files: tuple[str, ...]
    index: dict[str, Any] | None = None
    lacks: str | None = None


@dataclasses.dataclass(frozen=True)
class Survey:
    """The weights files of a folder.

    Attributes:
        chosen: the set to read.
        others: sets of the same weights, whole, or what there is of one that would come first.
        ignored: {name: why it is not read}.
        rest: names of weights files that are none of these.
    """

    chosen: WeightSet
    others: list[WeightSet]
    ignored: dict[str, str]
    rest: list[str]


def survey(folder: pathlib.Path, *, is_adapter: bool = False) -> Survey:
    """Choose among the weights of a folder, which must be there.

    Args:
        is_adapter: an adapter is looked for first, not a whole model.

    Raises CheckpointError where no set is whole.
    """
    return _Surveyor(folder, is_adapter).survey()


class _Surveyor:
    """The names in a folder, each accounted for once."""

    def __init__(self, folder: pathlib.Path, is_adapter: bool):
        self.folder = folder
        self.kinds = (ADAPTER, MODEL) if is_adapter else (MODEL, ADAPTER)
        # What is no plain file, such as a link to nothing, is named too.
        self.names = sorted(path.name for path in folder.iterdir())
        for name in self.names:
            if name.endswith((*SUFFIXES, ".json")) and not is_text(name):
                raise CheckpointError(f"{folder}: {name!a} is not UTF-8 and cannot be recorded; "
                                      f"rename it")
        self.ignored: dict[str, str] = {}

    def survey(self) -> Survey:
        for kind in self.kinds:
            found = {name: self._open(name) for name in kind if name in self.names}
            if chosen := next((s for s in found.values() if s and not s.lacks), None):
                return self._rest(kind, found, chosen)
            if found:
                self._refuse(next(iter(found)))
        loose = self._loose()
        return self._rest(self.kinds[0], {}, WeightSet(loose, (loose,)))

    def _open(self, name: str) -> WeightSet | None:
        """The set that a file or an index begins; None, and ignored, where it cannot be read."""
        if not (self.folder / name).is_file():
            self.ignored[name] = "not a plain file"
            return None
        if not name.endswith(".json"):
            return WeightSet(name, (name,))
        try:
            index, files = read_index(self.folder / name)
        except CheckpointError as error:
            self.ignored[name] = str(error)
            return None
        there = tuple(file for file in files if (self.folder / file).is_file())
        lacks = next((file for file in files if file not in there), None)
        return WeightSet(name, there, index, lacks)

    def _refuse(self, name: str) -> None:
        """Raises CheckpointError: why the set that this begins cannot be read."""
        weights = self._open(name)
        if weights is None:
            named = self.ignored[name]
            raise CheckpointError(named if name in named else f"{self.folder / name}: {named}")
        raise CheckpointError(f"{self.folder / weights.lacks}: listed in {name}, not there")

    def _loose(self) -> str:
        """The one file of another name. Raises CheckpointError where there are none or several."""
        loose = [name for name in self.names if name.endswith(SUFFIXES) and name[0] != "."]
        parts = [name for names in PARTS.values() for name in names]
        for is_none in (TRAINING.fullmatch, parts.__contains__):
            if len(loose) > 1:
                loose = [name for name in loose if not is_none(name)]
        if len(loose) == 1:
            return loose[0]
        raise CheckpointError(f"{self.folder}: expected one of {', '.join(MODEL + ADAPTER)}, found "
                              f"{', '.join(loose) or 'no weights file'}")

    def _rest(self, kind: tuple[str, ...], found: dict[str, WeightSet | None],
              chosen: WeightSet) -> Survey:
        """Everything but the chosen set, which is of this kind."""
        others, seen = [], {chosen.name, *chosen.files}
        found |= {name: self._open(name) for name in self.names if self._is_variant(name, kind)}
        before = chosen.name in found
        for name, weights in found.items():
            seen.add(name)
            before = before and weights is not chosen
            if weights is chosen:
                continue
            if weights is None:
                if before and (self.folder / name).is_file():  # an index that is damaged
                    raise CheckpointError(self.ignored[name])
                continue
            seen.update(weights.files)
            if set(weights.files) == set(chosen.files):
                self.ignored[name] = f"lists the files of {chosen.name}"
            elif weights.lacks and not (before and weights.files):
                self.ignored[name] = f"{weights.lacks}, which it lists, is not there"
            else:
                others.append(weights)
        for weights in self._without_index(kind, seen):
            seen.update(weights.files)
            if weights.lacks:
                self.ignored |= dict.fromkeys(
                    weights.files, f"no index lists it, and {weights.lacks} is not there")
            else:
                others.append(weights)
        return Survey(chosen, others, self.ignored, self._unknown(seen))

    @staticmethod
    def _is_variant(name: str, kind: tuple[str, ...]) -> bool:
        is_of_adapter = name.startswith("adapter_model.")
        return bool(VARIANT.fullmatch(name)) and name not in MODEL + ADAPTER and (
            is_of_adapter == (kind is ADAPTER))

    def _without_index(self, kind: tuple[str, ...], seen: set[str]) -> list[WeightSet]:
        """Shards that no index lists, put together by their names."""
        groups = collections.defaultdict(dict)
        for name in self.names:
            match = SHARD.fullmatch(name)
            if match and name not in seen and (match["stem"] == "adapter_model") == (
                    kind is ADAPTER) and (self.folder / name).is_file():
                pattern = f"{match['stem']}{match['first'] or ''}-*-of-{match['total']}" + (
                    match["last"])
                groups[pattern][int(match["number"])] = name
        sets = []
        for pattern, files in groups.items():
            total = int(pattern.split("-of-")[1].split(".")[0])
            missing = next((n for n in range(1, total + 1) if n not in files), None)
            sets.append(WeightSet(pattern, tuple(files.values()), lacks=None if missing is None
                                  else pattern.replace("*", f"{missing:05d}")))
        return sets

    def _unknown(self, seen: set[str]) -> list[str]:
        rest = []
        for name in self.names:
            if name in seen or (self.folder / name).is_dir():
                continue
            if TRAINING.fullmatch(name):
                self.ignored[name] = "state of a training, no weights"
            elif name.endswith(FOREIGN):
                self.ignored[name] = "weights in the format of another program"
            elif name in INDEXES or (VARIANT.fullmatch(name) and name.endswith(".json")):
                weights = self._open(name)
                if weights and weights.files:
                    rest.append(name)
                elif weights:
                    self.ignored[name] = f"{weights.lacks}, which it lists, is not there"
            elif name.endswith((*SUFFIXES, ".ckpt")) and name[0] != ".":
                rest.append(name)
        return rest


def weights_files(folder: str | pathlib.Path) -> list[str]:
    """Names of the weights files in a folder."""
    return sorted(path.name for path in pathlib.Path(folder).iterdir()
                  if path.name.endswith((*SUFFIXES, ".ckpt")) and path.name[0] != "."
                  and not TRAINING.fullmatch(path.name) and not path.is_dir())


def is_text(name: str) -> bool:
    """Whether it can be written as UTF-8; names of files need not be text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_index(path: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
    """An index file, and the names of the weights files that it lists. Raises CheckpointError."""
    index = read_json(path)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: no weight_map")
    for key, name in weight_map.items():
        if not isinstance(name, str) or pathlib.PurePath(name).name != name:
            raise CheckpointError(f"{path}: {key}: {name!r} is not a file name")
        if pathlib.PurePath(name).suffix not in SUFFIXES:
            raise CheckpointError(f"{path}: {key}: {name!r} is no weights file")
    return index, sorted(set(weight_map.values()))
