"""What a conversion decides before it reads the first value: every tensor's place, or an error."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from input_pipeline.text.tokenizer import Tokenizer
from legion_jax.config import LegionConfig, LoraConfig
from legion_jax.convert import carried, lora as lora_lib, sizes, vocabulary
from legion_jax.convert.roles import LORA, Sources, read_configs
from legion_jax.convert.table import Rule, lora_rules, rules
from legion_jax.convert.tensor_folder import Entry, SourceError, read_json
from legion_jax.models import param_tree


@dataclasses.dataclass(frozen=True)
class Options:
    """What a conversion may be asked beside its folders.

    Attributes:
        tokenizer: folder of the tokenizer, if it is not with the language model.
        config: config.json of the language model, if it is not beside its weights.
        sam: sizes of a SAM other than the published one (see `sizes.read_config`).
        lora_alpha: scale of an unmerged LoRA, where no adapter_config.json tells it.
        merge_lora: fold LoRA into its kernels, in float32, whatever kernels it adapts.
        partial: convert what is there, even if whole towers are missing.
        allow_nonfinite: take NaN and infinity as they are.
    """

    tokenizer: str | None = None
    config: str | None = None
    sam: dict | None = None
    lora_alpha: float = LoraConfig.alpha
    merge_lora: bool = False
    partial: bool = False
    allow_nonfinite: bool = False

    def resolved(self) -> "Options":
        """The same with absolute paths, to be used again from any folder."""
        return dataclasses.replace(self, **{
            name: os.path.realpath(path) for name in ("tokenizer", "config")
            if (path := getattr(self, name))})


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where everything goes.

    Attributes:
        table: rules of the parameters that are there.
        params: {path: (shape, dtype name)} of the same.
        absent: towers that are not.
        rest: published names of tensors that no rule uses.
        adapters: published name of a kernel -> what LoRA adds to it; empty unless merged.
    """

    config: LegionConfig
    tokenizer: Tokenizer
    sources: Sources
    table: list[Rule]
    params: dict[str, tuple[tuple[int, ...], str]]
    absent: list[str]
    rest: list[str]
    adapters: dict[str, Callable[[], np.ndarray]]

    def vocabulary(self) -> dict:
        """Rows of the vocabulary matrices in the files, and the id of a LLaVA's `<image>`."""
        config, image = read_configs(self.sources).get("main", {}), None
        if self.sources.roles["main"].is_llava:
            image = config.get("image_token_index", config.get("image_token_id"))
        rows = self.sources.entries["model.embed_tokens.weight"].shape[0]
        if image is not None and (type(image) is not int or not 0 <= image <= rows):
            raise SourceError(f"config.json: image_token_index {image!r} is none of the {rows} "
                              f"rows of model.embed_tokens.weight")
        return {"rows": rows, "image_token": image}


def make_plan(sources: Sources, options: Options) -> Plan:
    """Read configs and tokenizer and compare them with the tensors. Raises SourceError."""
    main = sources.roles["main"]
    if lora_lib.CONFIG in main.small_files() and "model.embed_tokens.weight" not in sources.entries:
        raise SourceError(f"{main.folder.path}: an adapter; --adapter takes it, --checkpoint the "
                          f"model it adds to")
    configs = read_configs(sources)
    if options.config:
        configs["main"] = read_json(pathlib.Path(options.config))
    if "main" not in configs:
        raise SourceError(f"{main.folder.root / 'config.json'}: not found; name one with --config")
    if "model.embed_tokens.weight" not in sources.entries:
        raise SourceError(f"{main.folder.path}: no language model in it")
    rows = (*sources.entries["model.embed_tokens.weight"].shape, 0)[0]
    tokenizer = vocabulary.read_tokenizer(
        pathlib.Path(options.tokenizer or main.folder.root), rows=rows,
        extend=main.is_llava)
    lora, adapters = lora_lib.read(sources, alpha=options.lora_alpha, merge=options.merge_lora)
    config = sizes.read_config(configs, sources.entries, vocab=tokenizer.vocab_size, lora=lora,
                               sam=options.sam)
    abstract = param_tree.abstract_params(config)
    table = rules(config, rows) + lora_rules(config)
    if unfilled := sorted(abstract.keys() - {rule.path for rule in table}):
        raise AssertionError(f"no conversion rule for {unfilled}")
    entries = {n: e for n, e in sources.entries.items() if not (adapters and LORA.match(n))}
    absent = missing_towers(table, entries)
    if absent and not options.partial:
        raise SourceError(f"{main.folder.path}: nothing of {', '.join(absent)} is there; name the "
                          f"folders that hold them (--clip, --sam, --head), or convert without "
                          f"them (--partial)")
    table = [rule for rule in table if rule.path.split("/")[0] not in absent]
    rest = check(table, abstract, entries)
    if orphans := [name for name in rest if carried.belongs_to_model(name)]:
        raise SourceError(f"{orphans[0]}: part of the model, but config.json leaves no place for "
                          f"it; {len(orphans)} such tensors")
    params = {rule.path: (tuple(abstract[rule.path].shape), common_dtype(rule, entries))
              for rule in table}
    return Plan(config, tokenizer, sources, table, params, absent, rest, adapters)


def missing_towers(table: list[Rule], entries: dict[str, Entry]) -> list[str]:
    """Top-level names of the parameters of which no tensor is there."""
    towers = dict.fromkeys(rule.path.split("/")[0] for rule in table)
    there = {rule.path.split("/")[0] for rule in table
             if any(key in entries for key in rule.keys.ravel())}
    return [tower for tower in towers if tower not in there]


def check(table: list[Rule], abstract: dict, entries: dict[str, Entry]) -> list[str]:
    """Compare the table with model and files; returns the names no rule uses.

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
            elif not entries[key].dtype.startswith(("float", "bfloat")):
                problems.append(f"{key}: file {entries[key].dtype}, {rule.path} needs a float")
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise SourceError("; ".join(problems[:5]) + more)
    return [key for key in entries if key not in used]


def common_dtype(rule: Rule, entries: dict[str, Entry]) -> str:
    """The smallest dtype that holds every tensor of a parameter exactly."""
    names = [entries[key].dtype for key in rule.keys.ravel()] or ["float32"]
    return str(functools.reduce(jnp.promote_types, names))


