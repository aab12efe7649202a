"""What a conversion decides before it reads the first value: every tensor's place, and problems."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from input_pipeline.errors import UserError
from input_pipeline.paths import absolute
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax.config import ClipConfig, LanguageConfig, LegionConfig, LoraConfig
from legion_jax.convert import family, lora, sizes
from legion_jax.convert.family import FAKEVLM, LEGION, System
from legion_jax.convert.names import LISA, belongs_to_model
from legion_jax.convert.roles import LORA, Sources
from legion_jax.convert.table import SAM, Rule, lora_rules, rules
from legion_jax.convert.tensor_folder import Entry
from legion_jax.convert.vocabulary import Needs, check_image, tokenizer_of
from legion_jax.models import param_tree
from legion_jax.weights.checkpoint_error import CheckpointError, first_of, read_json
from legion_jax.weights.legion_json import Vocabulary

EMBEDDING = "model.embed_tokens.weight"
# Stands in for a config.json that is not there: no shape depends on it.
ANY_LANGUAGE = {"num_attention_heads": 1, "rms_norm_eps": LanguageConfig.norm_eps}


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
        system: one of `family.SYSTEMS` that the weights are to become, if not the one they are.
    """

    tokenizer: str | None = None
    config: str | None = None
    sam: dict | None = None
    lora_alpha: float = LoraConfig.alpha
    merge_lora: bool = False
    partial: bool = False
    allow_nonfinite: bool = False
    system: str | None = None

    def resolved(self) -> "Options":
        """The same with absolute paths, to be used again from any folder."""
        return dataclasses.replace(self, **{
            name: str(absolute(path)) for name in ("tokenizer", "config")
            if (path := getattr(self, name))})


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where every tensor goes, and why a conversion must refuse the files.

    Attributes:
        config: architecture of the model.
        system: which member of the family it is.
        tokenizer: of the language model; None where a plan went on without one.
        sources: the open folders.
        table: rules of the parameters that are there.
        params: {path: (shape, dtype name)} of the same.
        absent: towers that are not there.
        rest: published names of tensors that no rule uses.
        adapters: published name of a kernel -> what LoRA adds to it; empty unless merged.
        misfits: {path of a parameter: a sentence per tensor of it that is missing or misshapen}.
        notes: what the plan assumed because the files do not tell it, or chose where they tell two
            things, a sentence each.
    """

    config: LegionConfig
    system: System
    tokenizer: Tokenizer | None
    sources: Sources
    table: list[Rule]
    params: dict[str, tuple[tuple[int, ...], str]]
    absent: list[str]
    rest: list[str]
    adapters: dict[str, Callable[[], np.ndarray]]
    misfits: dict[str, list[str]]
    notes: list[str]

    @property
    def problems(self) -> list[str]:
        """Why no conversion takes these files: a sentence per parameter, and one on orphans."""
        return [first_of(sentences) for sentences in self.misfits.values()] + self._orphans() + (
            _leftovers(self.sources))

    def check(self) -> None:
        """Raises CheckpointError that names the tensors at fault, if there are any."""
        if self.misfits:
            raise CheckpointError(first_of([sentence for sentences in self.misfits.values()
                                             for sentence in sentences]))
        if orphans := self._orphans():
            raise CheckpointError(orphans[0])

    def _orphans(self) -> list[str]:
        orphans = [name for name in self.rest if belongs_to_model(name)]
        return [f"{_shown(orphans[0], self.sources)}: part of the model, but config.json leaves no "
                f"place for it; {len(orphans)} such tensors"] if orphans else []

    def vocabulary(self) -> Vocabulary:
        """The vocabulary matrices of the files. Raises CheckpointError for an odd `<image>`."""
        config, image = self.sources.configs.get("main", {}), None
        if self.sources.roles["main"].is_llava:
            image = config.get("image_token_index", config.get("image_token_id"))
        rows = self.sources.entries[EMBEDDING].shape[0]
        if image is not None and (type(image) is not int or not 0 <= image <= rows):
            raise CheckpointError(f"config.json: image_token_index {image!r} is none of the {rows} "
                                  f"rows of {EMBEDDING}")
        return Vocabulary(max(rows, self.config.language.vocab), image)


def make_plan(sources: Sources, options: Options, *, assume: bool = False) -> Plan:
    """Compare configs, tokenizer and tensors with each other.

    Tensors that do not fit are collected in the plan; `Plan.check` refuses them.

    Args:
        assume: go on where the files do not tell something that a conversion needs to know, and
            say so in the plan's notes. It is enough for a listing of what there is.

    Raises CheckpointError or TokenizerError where the sizes of the model cannot be told; unless
    `assume`, also for everything else that a conversion needs and the files do not tell.
    """
    return _Planner(sources, options, assume).plan()


class _Planner:
    """What is known on the way to a plan."""

    def __init__(self, sources: Sources, options: Options, assume: bool):
        self.sources, self.options, self.assume = sources, options, assume
        self.main = sources.roles["main"]
        self.system = family.system_of(sources, asked=options.system, tokenizer=options.tokenizer,
                                        partial=options.partial and not assume)
        self.notes: list[str] = []

    def plan(self) -> Plan:
        if (unread := _leftovers(self.sources)) and not self.assume:
            raise CheckpointError(first_of(unread))
        if self.options.sam and not self.system.masks:
            raise CheckpointError(f"--sam_config: {self.main.folder.path} is a "
                                  f"{self.system.name}, which draws no masks and has no SAM; "
                                  f"--sam takes one, --system says what is to become of it")
        if not self.assume and lora.CONFIG in self.main.small_files and (
                EMBEDDING not in self.sources.entries):
            raise CheckpointError(f"{self.main.folder.path}: an adapter; --adapter takes it, "
                                  f"--checkpoint the model it adds to")
        factors, adapters = self._lora()
        entries = {name: entry for name, entry in self.sources.entries.items()
                   if not (adapters and LORA.match(name))}
        configs, known = self._configs(entries)
        rows = (*known[EMBEDDING].shape, 0)[0]
        tokenizer = self._tokenizer(rows) if EMBEDDING in entries else None
        vocab = tokenizer.vocab_size if tokenizer and tokenizer.rules == "slow" else rows
        config = sizes.read_config(
            configs, known, vocab=vocab, lora=factors, system=self.system,
            sam=self.options.sam or self._any_sam(configs, known))
        abstract = param_tree.abstract_params(config)
        table = rules(config, rows) + lora_rules(config)
        if unfilled := sorted(abstract.keys() - {rule.path for rule in table}):
            raise AssertionError(f"no conversion rule for {unfilled}")
        absent = _missing_towers(table, entries)
        if absent and not self.options.partial:
            raise CheckpointError(f"{self.main.folder.path}: nothing of {', '.join(absent)} is "
                                  f"there; name the folders that hold them (--clip, --sam, "
                                  f"--head), or convert without them (--partial)")
        table = [rule for rule in table if rule.path.split("/")[0] not in absent]
        shapes = {rule.path: tuple(abstract[rule.path].shape) for rule in table}
        used = {name for rule in table for name in rule.keys.ravel()}
        return Plan(
            config, self.system, tokenizer, self.sources, table, absent=absent, adapters=adapters,
            params={rule.path: (shapes[rule.path], _common_dtype(rule, entries)) for rule in table},
            rest=[name for name in entries if name not in used], notes=self.notes,
            misfits={rule.path: sentences for rule in table
                     if (sentences := _misfits(rule, shapes[rule.path], entries, self.sources))})

    def _lora(self) -> tuple[LoraConfig, dict[str, Callable[[], np.ndarray]]]:
        """As `lora.read`."""
        modules = [match["module"] for name in self.sources.entries if (match := LORA.match(name))]
        problem = lora.must_merge(self.sources, modules) if self.assume else None
        if problem:
            self.notes.append(f"{problem}: a conversion needs --merge_lora, which folds these "
                              f"{len(modules):,} factors into their kernels")
        return lora.read(self.sources, alpha=self.options.lora_alpha,
                         merge=self.options.merge_lora or bool(problem))

    def _configs(self, entries: dict[str, Entry]) -> tuple[dict[str, dict], dict[str, Entry]]:
        """({role: config.json}, tensors that tell sizes), with stand-ins where `assume` needs them.

        Raises CheckpointError.
        """
        configs, folder = dict(self.sources.configs), self.main.folder
        if self.options.config:
            configs["main"] = read_json(pathlib.Path(self.options.config))
        if EMBEDDING in entries and "main" in configs:
            self._check_form(configs["main"])
            return configs | {"main": self._resized(configs["main"])}, entries
        if not self.assume:
            raise CheckpointError(
                f"{folder.path}: no language model in it" if "main" in configs else
                f"{folder.root / 'config.json'}: not found; name one with --config")
        if EMBEDDING in entries:
            self.notes.append(
                f"no config.json with {folder.path}: CLIP is taken to be read at its hidden state "
                f"{ClipConfig.select_layer}; a conversion wants --config")
            return configs | {"main": ANY_LANGUAGE}, {
                name: entry for name, entry in entries.items()
                if not name.endswith("rotary_emb.inv_freq")}
        # A tower or a head alone.
        self.notes.append("no language model: for a conversion these go with one")
        alone, language = configs.get("main", {}), LanguageConfig()
        return {"clip": alone, "sam": alone} | configs | {"main": ANY_LANGUAGE}, entries | {
            EMBEDDING: Entry("", (language.vocab, language.width), "float32"),
            "model.layers.0.mlp.up_proj.weight":
                Entry("", (language.mlp, language.width), "float32")}

    def _check_form(self, config: dict) -> None:
        """Raises CheckpointError for a config.json of another system than the names are of."""
        nested = "text_config" in config
        if nested and self.main.spelling == LISA.name:
            raise CheckpointError(f"config.json: has a text_config, as that of a LLaVA; the "
                                  f"tensors of {self.main.folder.path} have LISA's names")
        if not nested and self.main.is_llava and self.system == FAKEVLM:
            raise CheckpointError(f"config.json: has no text_config; the tensors of "
                                  f"{self.main.folder.path} have the names of a "
                                  f"{self.main.spelling}, whose config has one")

    def _resized(self, config: dict) -> dict:
        """config.json of the language model with as many rows as an adapter's vocabulary has."""
        own = self.main.names.get(EMBEDDING)
        if own is None or self.sources.owner[EMBEDDING] == "main":
            return config
        before = self.main.folder.entries[own].shape[0]
        rows = self.sources.entries[EMBEDDING].shape[0]
        text = config.get("text_config", config)
        if not isinstance(text, dict) or text.get("vocab_size") != before:
            return config
        text = text | {"vocab_size": rows}
        return config | {"text_config": text} if "text_config" in config else text

    def _tokenizer(self, rows: int) -> Tokenizer | None:
        """The tokenizer; None where `assume` takes every row of the vocabulary for a token."""
        system = self.system
        becomes = self.options.system is not None or (system == LEGION and self.main.is_llava)
        needs = Needs(system.dialogue, system.tokens if becomes else (),
                      grows=self.options.system is not None)
        try:
            tokenizer = tokenizer_of(self.sources, needs, named=self.options.tokenizer, rows=rows,
                                     notes=self.notes)
            if system == FAKEVLM:
                check_image(self.sources, tokenizer.added, owner=tokenizer.name)
            return tokenizer
        except UserError as error:
            if not self.assume:
                raise
            self.notes.append(f"every row of the vocabulary is taken for a token: {error}")
            return None

    def _any_sam(self, configs: dict[str, dict], known: dict[str, Entry]) -> dict | None:
        """Stands in for the heads of a mask decoder that is not the published one."""
        neck = known.get(f"{SAM}image_encoder.neck.0.weight")
        if not self.assume or sizes.hf_sam(configs.get("sam", {})) or neck is None or (
                neck.shape and neck.shape[0] in sizes.DECODER_HEADS):
            return None
        self.notes.append("SAM is not the published one: a conversion wants --sam_config, with "
                          "decoder_num_heads")
        return {"decoder_num_heads": 1}


def _leftovers(sources: Sources) -> list[str]:
    """A sentence per weights file that a conversion would pass over."""
    return [f"{path}: a weights file that nothing here reads, beside those that are read; give it "
            f"to the flag it is meant for, or move it to another folder"
            for path in sources.leftovers]


def _missing_towers(table: list[Rule], entries: dict[str, Entry]) -> list[str]:
    """Top-level names of the parameters of which no tensor is there."""
    towers = dict.fromkeys(rule.path.split("/")[0] for rule in table)
    present = {rule.path.split("/")[0] for rule in table
               if any(key in entries for key in rule.keys.ravel())}
    return [tower for tower in towers if tower not in present]


def _shown(key: str, sources: Sources) -> str:
    """What a tensor is called in messages: where it has LISA's name, that."""
    return (LISA.from_published(key) or key) if (
        sources.roles["main"].spelling == LISA.name) else key


def _misfits(rule: Rule, shape: tuple[int, ...], entries: dict[str, Entry],
             sources: Sources) -> list[str]:
    """A sentence per tensor of a parameter of this shape that is missing or misshapen."""
    wanted, sentences = rule.layout.torch_shape(shape[rule.keys.ndim:]), []
    for key in rule.keys.ravel():
        name = _shown(key, sources)
        if key not in entries:
            sentences.append(f"{name}: missing, {rule.path} needs {wanted}")
        elif entries[key].shape != wanted:
            sentences.append(f"{name}: file {entries[key].shape}, {rule.path} needs {wanted}")
        elif not entries[key].dtype.startswith(("float", "bfloat")):
            sentences.append(f"{name}: file {entries[key].dtype}, {rule.path} needs a float")
    return sentences


def _common_dtype(rule: Rule, entries: dict[str, Entry]) -> str:
    """The smallest dtype that holds every tensor of a parameter exactly."""
    names = [entries[key].dtype for key in rule.keys.ravel() if key in entries] or ["float32"]
    return str(functools.reduce(jnp.promote_types, names))
