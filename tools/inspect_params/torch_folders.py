"""PyTorch folders as an inventory: what a conversion would make of them, and what would stop it.

Unlike `plan.make_plan`, this goes on after the first problem, and without config or tokenizer.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from experiments import base
from input_pipeline.errors import UserError
from legion_jax.config import ClipConfig, LanguageConfig, LegionConfig, LoraConfig
from legion_jax.convert import carried, lora as lora_lib, plan, sizes, vocabulary
from legion_jax.convert.plan import Options
from legion_jax.convert.roles import LORA, Source, Sources, read_configs
from legion_jax.convert.table import SAM, Rule, lora_rules, rules
from legion_jax.convert.tensor_folder import Entry, SourceError, read_json
from legion_jax.models import param_tree
from tools.inspect_params import inventory
from tools.inspect_params.inventory import Inventory

EMBEDDING = "model.embed_tokens.weight"
# Stands in for a config.json that is not there: no shape depends on it.
ANY_LANGUAGE = {"num_attention_heads": 1, "rms_norm_eps": LanguageConfig.norm_eps}


def of_sources(sources: Sources) -> Inventory:
    """Inventory of what `open_sources` opened, shapes and dtypes as a conversion makes them.

    Raises SourceError where not even the sizes of the model can be told.
    """
    notes = [f"{role}: {source.folder.path} ({source.spelling}, {len(source.folder.entries):,} "
             f"tensors)" for role, source in sources.roles.items()]
    found, lora = _lora(sources, notes)
    model, rows = _architecture(sources, found, lora, notes)
    abstract = param_tree.abstract_params(model)
    table = rules(model, rows) + lora_rules(model)
    absent = plan.missing_towers(table, found)
    table = [rule for rule in table if rule.path.split("/")[0] not in absent]
    described = {rule.path: (tuple(abstract[rule.path].shape), _dtype(rule, found))
                 for rule in table}
    where = {name: (sources.roles[role].names[name], f"{role}/{sources.entries[name].file}")
             for name, role in sources.owner.items()}
    used = {name for rule in table for name in rule.keys.ravel()}
    rest = [name for name in found if name not in used]
    if "language" not in absent:
        notes += inventory.padding(model)
    return Inventory(
        f"{sources.roles['main'].folder.path}: PyTorch weights",
        inventory.entries(described, inventory.matching(base.LOCALISATION, described), table,
                          where),
        inventory.RECIPE, absent=absent,
        carried={where[name][0]: found[name].nbytes for name in rest if carried.is_known(name)},
        unknown={where[name][0]: found[name].nbytes for name in rest
                 if not carried.is_known(name)},
        problems=_problems(table, abstract, found, rest), notes=notes)


def _lora(sources: Sources, notes: list[str]) -> tuple[dict[str, Entry], LoraConfig]:
    """The tensors, and the model's LoRA; factors a conversion can only fold in are left out."""
    factors = {name: match["module"] for name in sources.entries if (match := LORA.match(name))}
    problem = lora_lib.must_merge(sources, factors.values())
    lora, _ = lora_lib.read(sources, alpha=Options.lora_alpha, merge=bool(problem))
    replaced = sum(len(s.folder.entries) for s in sources.roles.values()) - len(sources.entries)
    if replaced:
        notes.append(f"{replaced:,} tensors are not used: an adapter's stand in their place, or "
                     f"PEFT keeps them as they were before training")
    if not problem:
        return dict(sources.entries), lora
    notes.append(f"{problem}: a conversion needs --merge_lora, which folds these "
                 f"{len(factors):,} factors into their kernels")
    return {name: e for name, e in sources.entries.items() if name not in factors}, lora


def _architecture(sources: Sources, found: dict[str, Entry], lora: LoraConfig,
                  notes: list[str]) -> tuple[LegionConfig, int]:
    """Sizes of the model and rows of its vocabulary; what had to be assumed goes to `notes`."""
    configs, main = read_configs(sources), sources.roles["main"]
    known = dict(found)
    if EMBEDDING not in found:  # a tower or a head alone
        notes.append("no language model: for a conversion these go with one")
        alone, language = configs.get("main", {}), LanguageConfig()
        configs = {"clip": alone, "sam": alone} | configs | {"main": ANY_LANGUAGE}
        known |= {EMBEDDING: Entry("", (language.vocab, language.width), "float32"),
                  "model.layers.0.mlp.up_proj.weight":
                      Entry("", (language.mlp, language.width), "float32")}
    elif "main" not in configs:
        configs["main"] = ANY_LANGUAGE
        known = {name: e for name, e in known.items() if not name.endswith("rotary_emb.inv_freq")}
        notes.append(f"no config.json with {main.folder.path}: CLIP is taken to be read at its "
                     f"hidden state {ClipConfig.select_layer}; a conversion wants --config")
    rows = (*known[EMBEDDING].shape, 0)[0]
    vocab = _tokens(main, rows, notes) if EMBEDDING in found else rows
    sam = main.small_files().get("sam_config.json")
    model = sizes.read_config(configs, known, vocab=vocab, lora=lora,
                              sam=read_json(sam) if sam else _any_sam(configs, known, notes))
    return model, rows


def _any_sam(configs: Mapping[str, dict], known: Mapping[str, Entry],
             notes: list[str]) -> dict | None:
    """Stands in for the heads of a mask decoder that is not the published one."""
    neck = known.get(f"{SAM}image_encoder.neck.0.weight")
    if sizes.hf_sam(configs.get("sam", {})) or neck is None or (
            neck.shape and neck.shape[0] in sizes.DECODER_HEADS):
        return None
    notes.append("SAM is not the published one: a conversion wants --sam_config, with "
                 "decoder_num_heads")
    return {"decoder_num_heads": 1}


def _tokens(main: Source, rows: int, notes: list[str]) -> int:
    """Tokens of the tokenizer beside the weights; one per row when there is none that fits."""
    try:
        return vocabulary.read_tokenizer(main.folder.root, rows=rows,
                                         extend=main.is_llava).vocab_size
    except UserError as error:
        notes.append(f"every row of the vocabulary is taken for a token: {error}")
        return rows


def _dtype(rule: Rule, found: Mapping[str, Entry]) -> str:
    """As a conversion chooses it, from those tensors that are there."""
    there = np.array([name for name in rule.keys.ravel() if name in found], object)
    return plan.common_dtype(dataclasses.replace(rule, keys=there), dict(found))


def _problems(table: list[Rule], abstract: dict, found: dict[str, Entry],
              rest: list[str]) -> list[str]:
    """What is missing, misshapen or without a place: a sentence per parameter."""
    out = []
    for rule in table:
        try:
            plan.check([rule], abstract, found)
        except SourceError as error:
            out.append(str(error))
    if orphans := [name for name in rest if carried.belongs_to_model(name)]:
        out.append(f"{orphans[0]}: part of the model, but config.json leaves no place for it; "
                   f"{len(orphans)} such tensors")
    return out
