"""NVIDIA GPUs by their data sheets, and what a measurement says beside them."""

import dataclasses
import re

from input_pipeline.errors import UserError
from legion_jax import chips
from legion_jax.models import param_tree
from tools.bench.cases import Case, without_lora


@dataclasses.dataclass(frozen=True)
class Gpu:
    """bfloat16 operations per second without sparsity, and bytes per second of memory."""

    name: str
    flops: float
    hbm_rate: float


# NVIDIA's data sheets; the first pattern found in a device's kind counts.
RATES: tuple[tuple[str, float], ...] = (
    (r"\bB200\b", 8.0e12), (r"\bH200\b", 4.8e12), (r"\bH100 NVL\b", 3.9e12),
    (r"\bH100 PCIe\b", 2.0e12), (r"\bH100\b", 3.35e12), (r"\bA100.*40GB\b", 1.555e12),
    (r"\bA100 80GB PCIe\b", 1.935e12), (r"\bA100\b", 2.039e12), (r"\bL40S\b", 0.864e12),
    (r"\bL4\b", 0.3e12), (r"\bA40\b", 0.696e12), (r"\bA10$", 0.6e12))


def find(kind: str) -> Gpu:
    """The GPU that JAX calls `kind`. Raises UserError for one without figures."""
    peak = chips.peak_flops(kind)
    rate = next((rate for pattern, rate in RATES if re.search(pattern, kind)), None)
    if peak is None or rate is None:
        raise UserError(f"--device=gpu: no peak figures for {kind!r} in legion_jax/chips.py and "
                        f"tools/bench/machine.py; --device=cpu measures the processor")
    return Gpu(kind, peak, rate)


def training_figures(gpu: Gpu, case: Case, *, flops: float, seconds: float) -> dict:
    """Tokens per second, the image's among them, and MFU of an update of `flops` operations."""
    positions = case.text - 1 + case.model.clip.num_patches
    return {"tokens_per_s": case.batch * positions / seconds,
            "mfu": flops / (seconds * gpu.flops)}


def decode_bytes(case: Case) -> int:
    """Bytes that a decoding step of all photos reads at least: parameters, and its whole cache.

    The embedding is left out, of which a step reads one row per photo.
    """
    model = without_lora(case)
    c = model.language
    number = sum(array.size for path, array in param_tree.abstract_params(model).items()
                 if path.startswith("language/") and "/embed/" not in path)
    length = case.prompt - 1 + model.clip.num_patches + case.new
    number += 2 * case.photos * c.layers * length * c.width
    return number * (4 if model.dtype == "float32" else 2)


def decode_figures(gpu: Gpu, case: Case, *, whole: float, first: float) -> dict:
    """From the seconds of an answer of all tokens and of one of a single token.

    Steps are alike, so their time is the difference over their number; `of_bound` is the share of
    the memory's bandwidth that it comes to.
    """
    step = (whole - first) / (case.new - 1)
    bound = decode_bytes(case) / gpu.hbm_rate
    return {"ms_per_step": 1e3 * step, "tokens_per_s": case.photos / step,
            "bound_ms_per_step": 1e3 * bound, "of_bound": bound / step}
