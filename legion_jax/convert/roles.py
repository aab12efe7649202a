"""The folders a checkpoint comes from, as one set of tensors under their published names."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterable, Mapping

import numpy as np

from legion_jax.convert.names import CLS_TOWER, Spelling, detect, is_llava
from legion_jax.convert.tensor_folder import Entry, TensorFolder, sha256
from legion_jax.weights.checkpoint_error import CheckpointError, read_json

# What training wraps around a name: PEFT's model classes, its layers, and DeepSpeed's engine.
WRAPPERS = ((r"^(module\.)?base_model\.model\.", ""), (r"\.base_layer\.", "."),
            (r"\.modules_to_save\.default\.", "."),
            (r"\.lora_([AB])(\.default)?\.weight$", r".lora_\1.weight"))
# A copy PEFT keeps of a module as it was before training.
ORIGINAL = re.compile(r"\.original_module\.")
LORA = re.compile(r"^(?P<module>.+)\.lora_(?P<factor>[AB])\.weight$")
MODULES = "trained_modules.safetensors"  # beside a PEFT adapter: what PEFT has no place for
ADDED = ("adapter", "modules")  # roles whose tensors take the place of others
# Small files that travel with the weights and are written back on export.
SMALL_FILES = ("config.json", "generation_config.json", "preprocessor_config.json",
               "processor_config.json", "chat_template.jinja", "sam_config.json",
               "adapter_config.json")


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
    def open(cls, path: str | pathlib.Path) -> "Source":
        """Recognise the layout by its names. Raises CheckpointError when it is none of ours."""
        folder = TensorFolder(path)
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
        """Configuration files beside the weights; none for a single file."""
        if self.folder.path.is_file():
            return {}
        return {name: self.folder.root / name for name in SMALL_FILES
                if (self.folder.root / name).is_file()}

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
        roles: {role: Source}: main, clip, sam, head, adapter and modules, as far as given.
        entries: {published name: Entry} of all tensors.
        owner: {published name: role}; an adapter's tensors take the place of the base's.
    """

    def __init__(self, roles: dict[str, Source]):
        self.roles, self.owner = roles, {}
        for role, source in roles.items():
            for name in source.names:
                other = self.owner.get(name)
                if other and role not in ADDED:
                    raise CheckpointError(f"{name}: in {roles[other].folder.path} and again in "
                                          f"{source.folder.path}")
                self.owner[name] = role
        self.entries: dict[str, Entry] = {
            name: roles[role].folder.entries[roles[role].names[name]]
            for name, role in self.owner.items()}

    @functools.cached_property
    def configs(self) -> dict[str, dict]:
        """{role: config.json} of every folder that has one. Raises CheckpointError."""
        return {role: read_json(source.small_files["config.json"])
                for role, source in self.roles.items() if "config.json" in source.small_files}

    def read(self, name: str) -> np.ndarray:
        """The value of a tensor, in the dtype of its file. Raises CheckpointError."""
        source = self.roles[self.owner[name]]
        return source.folder.read(source.names[name])

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
    if (pathlib.Path(main) / "llava").is_dir():
        inside = {"main": "llava", "sam": "sam", "head": "legion_heads.safetensors"}
        for role, name in inside.items():
            if (pathlib.Path(main) / name).exists():
                if role != "main" and parts[role]:
                    raise CheckpointError(f"{main}: holds {name} already, {parts[role]} is another")
                parts[role] = pathlib.Path(main) / name
    if adapter and (pathlib.Path(adapter) / MODULES).is_file():
        parts["modules"] = pathlib.Path(adapter) / MODULES
    return reopen({role: path for role, path in parts.items() if path})


def reopen(paths: Mapping[str, str | pathlib.Path]) -> Sources:
    """Sources in given roles, {role: folder or file}, as a conversion recorded them."""
    return Sources(_with_tower({role: Source.open(path) for role, path in paths.items()}))


def _with_tower(roles: dict[str, Source]) -> dict[str, Source]:
    """Take the vision tower of a detection checkpoint for CLIP when no other is given."""
    main, names = roles["main"], {}
    for name, key in main.names.items():
        tower = CLS_TOWER.to_published(name) if "clip" not in roles else None
        names[tower or name] = key
    return roles | {"main": dataclasses.replace(main, names=names)}
