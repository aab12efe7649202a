"""LoRA outside its kernels: a PEFT adapter folder, or factors beside the weights of a training."""

import functools
import math
import re
from collections.abc import Callable, Iterable

import numpy as np

from legion_jax.config import LoraConfig
from legion_jax.convert.roles import ADAPTER_CONFIG as CONFIG, LORA, Sources
from legion_jax.convert.table import LAYER_MODULES
from legion_jax.weights.checkpoint_error import CheckpointError, read_json

# Where the model may have LoRA.
ADAPTED = re.compile(rf"^model\.layers\.\d+\.({'|'.join(map(re.escape, LAYER_MODULES.values()))})$")
# Variants that compute something else than W + alpha / rank * B A.
PLAIN = {"peft_type": "LORA", "bias": "none", "use_dora": False, "use_rslora": False,
         "fan_in_fan_out": False, "rank_pattern": {}, "alpha_pattern": {}, "lora_bias": False,
         "use_qalora": False, "layer_replication": None, "trainable_token_indices": None,
         "target_parameters": None, "alora_invocation_tokens": None, "megatron_config": None}
# Initialisations that leave the kernel as it is; others, such as PiSSA, LoftQ, OLoRA and CorDA,
# replace it when PEFT opens the adapter.
INITIAL = (None, True, False, "gaussian", "eva", "orthogonal")


def read(sources: Sources, *, alpha: float,
         merge: bool) -> tuple[LoraConfig, dict[str, Callable[[], np.ndarray]]]:
    """What the sources hold of LoRA.

    Args:
        alpha: used where no adapter_config.json tells it.
        merge: fold it into the kernels.

    Returns:
        the model's LoRA, of rank 0 when there is none or it is merged; and, when it is merged,
        {published name of a kernel: function that gives what is added to it, float32[out, in]}.
    """
    factors: dict[str, dict[str, str]] = {}
    for name in sources.entries:
        if match := LORA.match(name):
            factors.setdefault(match["module"], {})[match["factor"]] = name
    holders = [role for role, source in sources.roles.items() if any(map(LORA.match, source.names))]
    if len(holders) > 1:
        paths = " and ".join(str(sources.roles[role].folder.path) for role in holders)
        raise CheckpointError(f"LoRA in {paths}: only one can be kept; merge the first "
                              f"(--merge_lora), export it, and start from there")
    config = _config(sources)
    if (added := sources.roles.get("adapter")) and "adapter" not in holders:
        raise CheckpointError(f"{added.folder.path}: no LoRA in it, so not an adapter")
    if added and not config and added.folder.path.is_dir():
        raise CheckpointError(f"{added.folder.path / CONFIG}: not found, and only it tells the "
                              f"scale of an adapter")
    if not factors:
        if merge or config:
            raise CheckpointError("LoRA is asked for, but there is no lora_A and lora_B in the "
                                  "files")
        return LoraConfig(), {}
    if not 0 < alpha < math.inf:
        raise CheckpointError(f"lora_alpha must be a positive number, not {alpha}")
    lora = LoraConfig(_rank(sources, factors, config), float(config.get("lora_alpha", alpha)),
                      float(config.get("lora_dropout", LoraConfig.dropout)),
                      _targets(factors) or LoraConfig.targets)
    if merge:
        scale = np.float32(lora.alpha / lora.rank)
        return LoraConfig(), {f"{module}.weight": functools.partial(_product, sources, pair, scale)
                              for module, pair in factors.items()}
    if problem := must_merge(sources, factors):
        raise CheckpointError(f"{problem}: --merge_lora folds all of it into the kernels")
    return lora, {}


def must_merge(sources: Sources, adapted: Iterable[str]) -> str | None:
    """Why LoRA of these modules cannot stay apart from its kernels; None if it can."""
    adapted = set(adapted)
    kinds = {LAYER_MODULES[target] for target in _targets(adapted)}
    if others := sorted(module for module in adapted if not ADAPTED.match(module)):
        return f"{others[0]} has LoRA; here only layers of the language model can keep theirs"
    kernels = {name.removesuffix(".weight") for name in sources.entries if name.endswith(".weight")}
    if bare := sorted(name for name in kernels - adapted
                      if (match := ADAPTED.match(name)) and match[1] in kinds):
        return (f"{bare[0]} has no LoRA and {len(adapted)} others have; here all layers have it, "
                f"or none")
    return None


def _targets(modules: Iterable[str]) -> tuple[str, ...]:
    """Which kernels of a layer are among these modules, of any layer."""
    kinds = {match[1] for match in map(ADAPTED.match, modules) if match}
    return tuple(target for target, module in LAYER_MODULES.items() if module in kinds)


def _config(sources: Sources) -> dict:
    """adapter_config.json, {} without one. Raises CheckpointError for a variant of LoRA."""
    for source in sources.roles.values():
        if path := source.small_files.get(CONFIG):
            config = read_json(path)
            for name, wanted in PLAIN.items():
                if (config.get(name) or wanted) != wanted:
                    raise CheckpointError(f"{path}: {name} {config[name]!r} is not supported, only "
                                          f"{wanted!r}")
            if (initial := config.get("init_lora_weights")) not in INITIAL:
                raise CheckpointError(f"{path}: init_lora_weights {initial!r} changes the kernels "
                                      f"when PEFT opens it; let PEFT save it as plain LoRA "
                                      f"(path_initial_model_for_weight_conversion)")
            for name in ("r", "lora_alpha"):
                if type(config.get(name)) not in (int, float) or not 0 < config[name] < math.inf:
                    raise CheckpointError(f"{path}: {name} must be a positive number, not "
                                          f"{config.get(name)!r}")
            dropout = config.get("lora_dropout", LoraConfig.dropout)
            if type(dropout) not in (int, float) or not 0 <= dropout < 1:
                raise CheckpointError(f"{path}: lora_dropout must be from 0 to 1, not {dropout!r}")
            return config
    return {}


def _rank(sources: Sources, factors: dict[str, dict[str, str]], config: dict) -> int:
    """The one rank of all factors. Raises CheckpointError where they do not fit or agree."""
    ranks = {_check(sources, module, pair): module for module, pair in factors.items()}
    if len(ranks) > 1:
        raise CheckpointError(f"LoRA of several ranks: "
                              f"{', '.join(f'{module} {rank}' for rank, module in ranks.items())}")
    (rank,) = ranks
    if config.get("r", rank) != rank:
        raise CheckpointError(f"{CONFIG}: r {config['r']!r}, the files have rank {rank}")
    return rank


def _check(sources: Sources, module: str, pair: dict[str, str]) -> int:
    """Rank of one pair of factors, compared with their kernel."""
    kernel = sources.entries.get(f"{module}.weight")
    if kernel is None:
        raise CheckpointError(f"{module}.weight: missing, LoRA needs it; name its folder")
    shapes = {factor: sources.entries[name].shape for factor, name in pair.items()}
    if set(shapes) != {"A", "B"}:
        raise CheckpointError(f"{module}: lora_{next(iter(shapes))} without its other half")
    (a, b) = shapes["A"], shapes["B"]
    if len(kernel.shape) != 2 or not a or not a[0] or a != (a[0], kernel.shape[1]) or (
            b != (kernel.shape[0], a[0])):
        raise CheckpointError(f"{module}: lora_A {a} and lora_B {b} do not fit weight "
                              f"{kernel.shape}")
    return a[0]


def _product(sources: Sources, pair: dict[str, str], scale: np.float32) -> np.ndarray:
    a, b = (sources.read(pair[factor]).astype(np.float32) for factor in "AB")
    return scale * (b @ a)


def config_file(lora: LoraConfig, *, base: str, layers: str, modules: list[str]) -> dict:
    """adapter_config.json for `peft.PeftModel.from_pretrained`.

    Args:
        base: where the base model came from.
        layers: what its language model's layers are called, such as "model.layers.". A tower may
            have kernels of the same names.
        modules: modules that are stored whole.
    """
    kinds = "|".join(re.escape(LAYER_MODULES[target]) for target in lora.targets)
    return {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base,
            "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout,
            "bias": "none", "target_modules": rf"{re.escape(layers)}\d+\.({kinds})",
            "modules_to_save": modules,
            "fan_in_fan_out": False, "use_dora": False, "use_rslora": False,
            "inference_mode": True}


def with_lora(kernel: np.ndarray, a: np.ndarray, b: np.ndarray, lora: LoraConfig) -> np.ndarray:
    """W + alpha / rank * A B in float32; kernel[in, out], a[in, rank], b[rank, out] or stacks."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    return kernel.astype(np.float32) + lora.alpha / lora.rank * (a @ b)
