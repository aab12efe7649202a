"""Whole models between layouts at once, for those that fit into memory."""

import numpy as np

from legion_jax.config import LegionConfig
from legion_jax.convert.lora import with_lora
from legion_jax.convert.table import Rule


def assemble(rule: Rule, read, shape: tuple[int, ...]) -> np.ndarray:
    """Read, lay out and stack the tensors of one parameter; `read(published name)` gives one.

    `shape` is the parameter's; a SAM without windowed blocks has stacks of none.
    """
    arrays = [rule.layout.to_jax(read(key)) for key in rule.keys.ravel()]
    return np.stack(arrays).reshape(shape) if arrays else np.zeros(shape, np.float32)


def to_torch_tensors(params: dict[str, np.ndarray], table: list[Rule]) -> dict[str, np.ndarray]:
    """{published name: array in PyTorch layout}, dtypes unchanged.

    Arrays of one tensor (see `convert.table.one_of`) are joined.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for rule in table:
        for index, key in np.ndenumerate(rule.keys):
            parts.setdefault(key, []).append(rule.layout.to_torch(params[rule.path][index]))
    return {key: arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
            for key, arrays in parts.items()}


def merged(params: dict[str, np.ndarray], config: LegionConfig) -> dict[str, np.ndarray]:
    """{path: array} with LoRA factors folded into their kernels."""
    out = {}
    for path, value in params.items():
        base, _, name = path.rpartition("/")
        if name == "kernel" and f"{base}/lora_a" in params:
            value = with_lora(value, params[f"{base}/lora_a"], params[f"{base}/lora_b"],
                              config.lora)
        if name not in ("lora_a", "lora_b"):
            out[path] = value
    return out
