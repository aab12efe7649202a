"""The folders a checkpoint comes from, as one set of tensors under their published names."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterable, Mapping

import numpy as np

from legion_jax.convert.names import CLS_TOWER, Spelling, detect, is_llava
from legion_jax.convert.tensor_folder import Entry, TensorFolder, sha256
from legion_jax.convert.weight_sets import PARTS, Survey, WeightSet, weights_files
from legion_jax.weights.checkpoint_error import CheckpointError, read_json

# What training wraps around a name: PEFT's model classes, its layers, and DeepSpeed's engine.
WRAPPERS = ((r"^(module\.)?base_model\.model\.", ""), (r"^model\.model\.", "model."),
            (r"\.base_layer\.", "."), (r"\.modules_to_save\.default\.", "."),
            (r"\.lora_([AB])(\.default)?\.weight$", r".lora_\1.weight"))
# A copy PEFT keeps of a module as it was before training.
ORIGINAL = re.compile(r"\.original_module\.")
LORA = re.compile(r"^(?P<module>.+)\.lora_(?P<factor>[AB])\.weight$")
ADDED = ("adapter", *PARTS)  # roles whose tensors take the place of others
ROLES = ("main", "clip", "sam", "head", *ADDED)
ADAPTER_CONFIG = "adapter_config.json"
# Small files that travel with the weights and are written back on export.
SMALL_FILES = ("config.json", "generation_config.json", "preprocessor_config.json",
               "processor_config.json", "chat_template.jinja", "chat_template.json",
               "sam_config.json", ADAPTER_CONFIG)


def unwrapped(key: str) -> str:
    """`key` without what PEFT and DeepSpeed add to it."""
    for pattern, plain in WRAPPERS:
        key = re.sub(pattern, plain, key)
    return key


@dataclasses.dataclass(frozen=True)
class Source:
    """One folder or file of tensors in the role it plays.

    Attributes:
        names: {published name: name in the files}.
        spelling: name of the table that led from one to the other.
    """

    folder: TensorFolder
    names: dict[str, str]
    spelling: str

    @classmethod
    def open(cls, path: str | pathlib.Path, *, is_adapter: bool = False) -> "Source":
        """Recognise the layout by its names. Raises CheckpointError when it is none of ours.

        Args:
            is_adapter: of a folder with an adapter and a whole model, the adapter is meant.
        """
        return cls.of(TensorFolder(path, is_adapter=True) if is_adapter else TensorFolder(path))

    @classmethod
    def of(cls, folder: TensorFolder) -> "Source":
        """As `open`, of a folder that is open."""
        path = folder.path
        plain = {key: unwrapped(key) for key in folder.entries if not ORIGINAL.search(key)}
        table = detect(LORA.sub(r"\g<module>.weight", name) for name in plain.values())
        if table is None:
            raise CheckpointError(f"{path}: none of the known layouts; it begins with "
                                  f"{', '.join(list(folder.entries)[:3]) or 'no tensor'}")
        names = {}
        for key, name in plain.items():
            published = _published(table, name)
            if published in names:
                raise CheckpointError(f"{path}: {key} and {names[published]} are the same tensor, "
                                      f"{published}")
            names[published] = key
        return cls(folder, names, table.name)

    @property
    def is_llava(self) -> bool:
        """Whether this is a LLaVA, which knows nothing of `[SEG]`."""
        return is_llava(self.spelling)

    @functools.cached_property
    def published(self) -> dict[str, str]:
        """{name in the files: published name}, the inverse of `names`."""
        return {key: name for name, key in self.names.items()}

    @functools.cached_property
    def small_files(self) -> dict[str, pathlib.Path]:
        """Configuration files beside the weights; of a single file that of its LoRA alone."""
        names = SMALL_FILES
        if self.folder.path.is_file():
            names = [ADAPTER_CONFIG] if any(map(LORA.match, self.names)) else []
        return {name: self.folder.root / name for name in names
                if (self.folder.root / name).is_file()}

    @property
    def found(self) -> Survey | None:
        """All weights files of the folder; None of a single file."""
        return self.folder.found

    @property
    def chosen(self) -> str:
        """What is read: the name of the file, or of the index."""
        return self.found.chosen.name if self.found else self.folder.path.name

    @property
    def others(self) -> list[WeightSet]:
        """Sets of the same weights in the folder that are not read."""
        return self.found.others if self.found else []

    def read(self, name: str) -> np.ndarray:
        """The value of a tensor by its published name. Raises CheckpointError."""
        return self.folder.read(self.names[name])

    def hashes(self) -> dict[str, str]:
        """SHA-256 of weights and configuration files."""
        return self.folder.sha256() | {n: sha256(p) for n, p in self.small_files.items()}


def _published(table: Spelling, name: str) -> str:
    """Published name of a tensor; one the table does not know keeps its own."""
    lora = LORA.match(name)
    weight = f"{lora['module']}.weight" if lora else name
    published = table.to_published(weight) or weight
    if not lora:
        return published
    return f"{published.removesuffix('.weight')}.lora_{lora['factor']}.weight"


class Sources:
    """Tensors of several folders, each under its published name.

    Attributes:
        roles: {role: Source}: main, clip, sam, head and `ADDED`, as far as given.
        entries: {published name: Entry} of all tensors.
        owner: {published name: role}; the tensors of `ADDED` take the place of others.
        ignored: {role: {name: why it is not read}} of what lies in the folders.
        leftovers: weights files in the folders that no role takes, and of which nothing is known.
    """

    def __init__(self, roles: dict[str, Source]):
        self._main_twice: list[tuple[Source, list[str]]] = []
        self.ignored = {role: dict(source.found.ignored) if source.found else {}
                        for role, source in roles.items()}
        self.roles = _with_tower(self._with_parts(roles))
        self.leftovers = self._leftovers()
        self.owner: dict[str, str] = {}
        for role, source in self.roles.items():
            for name in source.names:
                other = self.owner.get(name)
                if other and role not in ADDED:
                    raise CheckpointError(f"{name}: in {self.roles[other].folder.path} and again "
                                          f"in {source.folder.path}")
                self.owner[name] = role
        self.entries: dict[str, Entry] = {
            name: self.roles[role].folder.entries[self.roles[role].names[name]]
            for name, role in self.owner.items()}

    def twice(self) -> list[tuple[Source, Source, list[str]]]:
        """(a source, another, names of tensors in both) where both should hold the same values."""
        pairs = [(self.roles["main"], part, names) for part, names in self._main_twice]
        added = [self.roles[role] for role in ADDED if role in self.roles]
        for number, left in enumerate(added):
            for right in added[number + 1:]:
                if names := [name for name in left.names if name in right.names]:
                    pairs.append((left, right, names))
        return pairs

    def _with_parts(self, roles: dict[str, Source]) -> dict[str, Source]:
        """The roles, and those of `PARTS` that lie beside the adapter and the language model."""
        roles = dict(roles)
        adapter, main = roles.get("adapter"), roles["main"]
        beside = dict(_parts_beside(adapter)) if adapter else {}
        if adapter and not adapter.found:
            self.ignored["adapter"] |= dict.fromkeys(
                beside.values(), f"only {adapter.chosen} was named")
        elif adapter:
            for role, name in beside.items():
                if part := self._part("adapter", adapter.folder.root / name):
                    roles.setdefault(role, part)
            self.ignored["adapter"] |= {
                f"{path.parent.name}/": "another adapter, which --adapter would take by itself"
                for path in sorted(adapter.folder.root.glob(f"*/{ADAPTER_CONFIG}"))}
        for role, name in _parts_beside(main) if main.found else ():
            if role != "modules" and not (role in beside and _is_same(
                    adapter.folder.root / beside[role], main.folder.root / name)):
                self._add_to_main(roles, role, name)
        return {role: roles[role] for role in ROLES if role in roles}

    def _part(self, beside: str, path: pathlib.Path) -> Source | None:
        """A file of `PARTS`; None where it is empty, as of a training of LoRA alone."""
        folder = TensorFolder(path)
        if not folder.entries:
            self.ignored[beside][path.name] = "holds no tensor"
            return None
        return Source.of(folder)

    def _add_to_main(self, roles: dict[str, Source], role: str, name: str) -> None:
        """Take what a part has and the whole model beside it has not."""
        main = roles["main"]
        part = self._part("main", main.folder.root / name)
        if part is None:
            return
        own = {n: key for n, key in part.names.items() if n not in main.names}
        if shared := [n for n in part.names if n in main.names]:
            self._main_twice.append((part, shared))
        if not own:
            self.ignored["main"][name] = f"{main.chosen} holds its tensors too"
        elif role in roles and not _is_same(roles[role].folder.path, part.folder.path):
            raise CheckpointError(f"{roles[role].folder.path} and {part.folder.path}: both hold "
                                  f"modules trained whole; move what is not meant elsewhere")
        else:
            roles[role] = dataclasses.replace(part, names=own)

    def _leftovers(self) -> list[pathlib.Path]:
        known = [source.folder.root / name for role, source in self.roles.items()
                 for name in [source.chosen, *source.folder.files, *self.ignored.get(role, ()), *(
                     name for other in source.others for name in (other.name, *other.files))]]
        return [path for source in self.roles.values() if source.found
                for path in (source.folder.root / name for name in source.found.rest)
                if not any(_is_same(path, file) for file in known)]

    @functools.cached_property
    def configs(self) -> dict[str, dict]:
        """{role: config.json} of every folder that has one. Raises CheckpointError."""
        return {role: read_json(source.small_files["config.json"])
                for role, source in self.roles.items() if "config.json" in source.small_files}

    def read(self, name: str) -> np.ndarray:
        """The value of a tensor, in the dtype of its file. Raises CheckpointError."""
        return self.roles[self.owner[name]].read(name)

    def in_file_order(self, names: Iterable[str]) -> list[str]:
        """`names` in the order in which reading them reads every file once."""
        position = {name: (number, order)
                    for number, (role, source) in enumerate(self.roles.items())
                    for order, name in enumerate(self._ordered(source)) if self.owner[name] == role}
        return sorted(names, key=position.__getitem__)

    @staticmethod
    def _ordered(source: Source) -> list[str]:
        published = source.published
        return [published[key] for key in source.folder.entries if key in published]


def open_sources(main: str, *, clip: str | None = None, sam: str | None = None,
                 head: str | None = None, adapter: str | None = None) -> Sources:
    """Open what a conversion was given.

    Args:
        main: folder or file with the language model: LEGION, GLaMM, LLaVA, a training's whole
            state, or a folder that `export` made with layout "hf".
        clip, sam, head, adapter: folders or files that add to it.
    """
    parts = {"main": main, "clip": clip, "sam": sam, "head": head, "adapter": adapter}
    inside = {"main": "llava", "sam": "sam", "head": "legion_heads.safetensors"}
    if (pathlib.Path(main) / "llava").is_dir():
        for role, name in inside.items():
            if (pathlib.Path(main) / name).exists():
                if role != "main" and parts[role]:
                    raise CheckpointError(f"{main}: holds {name} already, {parts[role]} is another")
                parts[role] = pathlib.Path(main) / name
    sources = reopen({role: path for role, path in parts.items() if path})
    if pathlib.Path(main) != sources.roles["main"].folder.path:
        sources.leftovers += [pathlib.Path(main) / name for name in weights_files(main)
                              if name not in inside.values()]
    return sources


def reopen(paths: Mapping[str, str | pathlib.Path]) -> Sources:
    """Sources in given roles, {role: folder or file}, as a conversion recorded them."""
    return Sources({role: Source.open(path, is_adapter=role == "adapter")
                    for role, path in paths.items()})


def _parts_beside(source: Source) -> list[tuple[str, str]]:
    """(role, name) of the files of `PARTS` in a source's folder, one of each role."""
    there = {role: [name for name in names if (source.folder.root / name).is_file()
                    and name not in source.folder.files] for role, names in PARTS.items()}
    return [(role, names[0]) for role, names in there.items() if names]


def _is_same(left: pathlib.Path, right: pathlib.Path) -> bool:
    """Whether two files are one, or, of a bucket, copies of one."""
    if not (left.is_file() and right.is_file()):
        return False
    return left.samefile(right) or (
        left.name == right.name and left.stat().st_size == right.stat().st_size
        and sha256(left) == sha256(right))


def _with_tower(roles: dict[str, Source]) -> dict[str, Source]:
    """Take a vision tower that is trained with the rest for CLIP.

    That of a detection checkpoint only when no other is given.
    """
    replaced = dict(roles)
    for role in ("main", *ADDED):
        if role in roles and not (role == "main" and "clip" in roles):
            replaced[role] = dataclasses.replace(roles[role], names={
                CLS_TOWER.to_published(name) or name: key
                for name, key in roles[role].names.items()})
    return replaced
