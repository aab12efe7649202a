"""PyTorch checkpoint folders -> a converted checkpoint (see `legion_jax.checkpoint`)."""

import dataclasses
import pathlib
import shutil

import numpy as np
import safetensors.numpy
from etils import epath
from tqdm import tqdm

from input_pipeline.tokenizer import Tokenizer
from legion_jax import checkpoint, partition, report
from legion_jax.config import LegionConfig
from legion_jax.convert import carried, sizes
from legion_jax.convert.layout import size
from legion_jax.convert.rules import Rule, rules
from legion_jax.convert.source import Entry, SourceError, TensorFolder, read_json

# Small files that travel with the weights and are written back on export.
LEGION_FILES = ("config.json", "generation_config.json")
CLIP_FILES = ("config.json", "preprocessor_config.json")
LAYOUT, CARRIED = "layout.json", "carried.safetensors"


@dataclasses.dataclass
class Sources:
    """The folders a checkpoint comes from, by role: legion, clip, and head if it is apart."""

    folders: dict[str, TensorFolder]

    def __post_init__(self):
        self.owner: dict[str, str] = {}
        for role, folder in self.folders.items():
            for key in folder.entries:
                if key in self.owner:
                    raise SourceError(f"{key}: in {self.folders[self.owner[key]].path} and again "
                                      f"in {folder.path}")
                self.owner[key] = role

    @property
    def entries(self) -> dict[str, Entry]:
        return {k: e for folder in self.folders.values() for k, e in folder.entries.items()}

    def read(self, key: str) -> np.ndarray:
        return self.folders[self.owner[key]].read(key)


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a conversion found: unmodelled tensors that are known, and those that are not."""

    config: LegionConfig
    parameters: int
    carried: list[str]
    unknown: list[str]


def check(table: list[Rule], abstract: dict, entries: dict[str, Entry]) -> list[str]:
    """Compare the table with model and files; returns the keys no rule uses.

    Raises SourceError naming every missing or misshapen tensor.
    """
    problems, used = [], set()
    for rule in table:
        stack = rule.keys.ndim
        wanted = rule.layout.torch_shape(tuple(abstract[rule.path].shape[stack:]))
        for key in rule.keys.ravel():
            used.add(key)
            if key not in entries:
                problems.append(f"{key}: missing, {rule.path} needs {wanted}")
            elif entries[key].shape != wanted:
                problems.append(f"{key}: file {entries[key].shape}, {rule.path} needs {wanted}")
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise SourceError("; ".join(problems[:5]) + more)
    if unfilled := sorted(abstract.keys() - {rule.path for rule in table}):
        raise AssertionError(f"no conversion rule for {unfilled}")
    return [key for key in entries if key not in used]


def assemble(rule: Rule, read, shape: tuple[int, ...]) -> np.ndarray:
    """Read, lay out and stack the tensors of one parameter; the dtype of the file is kept.

    `shape` is the parameter's; a SAM without windowed blocks has stacks of none.
    """
    arrays = [rule.layout.to_jax(read(key)) for key in rule.keys.ravel()]
    return np.stack(arrays).reshape(shape) if arrays else np.zeros(shape, np.float32)


def convert(legion: str, clip: str, output: str, *, head: str | None = None,
            sam: dict | None = None, progress: bool = True) -> Summary:
    """Write a converted checkpoint.

    Args:
        legion: folder of the published layout; clip: folder of a CLIP vision tower.
        output: new folder; nothing is there unless everything is.
        head: file or folder with `prediction_head.*`, when the LEGION folder has none.
        sam: sizes of a SAM other than the published one (see `sizes.read_config`).

    Raises:
        SourceError, TokenizerError: naming file and tensor. UserError if `output` exists.
    """
    target = epath.Path(output)
    if target.exists():
        raise SourceError(f"{output}: already exists; choose another output folder")
    folders = {"legion": TensorFolder(legion), "clip": TensorFolder(clip)}
    if head:
        folders["head"] = TensorFolder(head)
    sources = Sources(folders)
    config = sizes.read_config(read_json(pathlib.Path(legion) / "config.json"),
                               read_json(pathlib.Path(clip) / "config.json"), sources.entries,
                               sam=sam)
    tokenizer = Tokenizer.from_folder(legion)
    if tokenizer.vocab_size != config.language.vocab:
        raise SourceError(f"{legion}: the tokenizer has {tokenizer.vocab_size} tokens, "
                          f"model.embed_tokens.weight {config.language.vocab} rows")
    table, abstract = rules(config), partition.abstract_params(config)
    rest = check(table, abstract, sources.entries)
    if orphans := [key for key in rest if carried.belongs_to_model(key)]:
        raise SourceError(f"{orphans[0]}: part of the model, but config.json leaves no place for "
                          f"it; {len(orphans)} such tensors")
    params = {rule.path: assemble(rule, sources.read, abstract[rule.path].shape)
              for rule in tqdm(table, desc="reading", unit="parameter", disable=not progress)}
    building = target.parent / f".{target.name}.writing"
    if building.exists():
        building.rmtree()
    building.mkdir(parents=True)
    try:
        checkpoint.save_params(building, params)
        write_source(building / "source", sources, rest)
        tokenizer.save(building / "tokenizer")
        checkpoint.write_meta(
            building, config, base=None, trained=[],
            sources={role: {"path": str(f.path), "sha256": f.sha256()}
                     for role, f in folders.items()})
        building.rename(target)
    except BaseException:
        building.rmtree(missing_ok=True)
        raise
    unknown = [key for key in rest if not carried.is_known(key)]
    return Summary(config, sum(size(a.shape) for a in params.values()),
                   [key for key in rest if key not in unknown], unknown)


def write_source(folder: epath.Path, sources: Sources, rest: list[str]) -> None:
    """What export needs to write the folders back: layout, small files, unmodelled tensors."""
    folder.mkdir(parents=True)
    described = {}
    for role, source in sources.folders.items():
        described[role] = {
            "files": source.files, "index_name": source.index_name, "index": source.index,
            "tensors": {key: dataclasses.asdict(e) for key, e in source.entries.items()}}
        (folder / role).mkdir()
        for name in {"legion": LEGION_FILES, "clip": CLIP_FILES}.get(role, ()):
            if (source.root / name).exists():
                shutil.copyfile(source.root / name, folder / role / name)
    report.write_json(folder / LAYOUT, described)
    safetensors.numpy.save_file({key: np.asarray(sources.read(key), order="C") for key in rest},
                                folder / CARRIED)
