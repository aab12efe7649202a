"""NVIDIA GPUs by their data sheets, and what a measurement says beside them."""

import dataclasses
import re

from input_pipeline.errors import UserError
from legion_jax import partition
from legion_jax.chips import peak_flops
from tools.speed.cases import Case, without_lora


@dataclasses.dataclass(frozen=True)
class Gpu:
    """bfloat16 operations per second without sparsity, and bytes per second of memory."""

    name: str
    flops: float
    hbm_rate: float


# Bytes per second by NVIDIA's data sheets. The first name that is found in the device's counts.
MEMORY = {
    "B200": 8.0e12, "H200": 4.8e12, "H100 PCIe": 2.0e12, "H100": 3.35e12,
    "A100-SXM4-40GB": 1.555e12, "A100-PCIE-40GB": 1.555e12, "A100 80GB PCIe": 1.935e12,
    "A100": 2.039e12, "L40S": 0.864e12, "L4": 0.3e12}


def find(kind: str) -> Gpu:
    """The GPU that JAX calls `kind`. Raises UserError for one without figures here."""
    name = next((name for name in MEMORY if re.search(rf"\b{name}\b", kind)), None)
    if name is None or (flops := peak_flops(kind)) is None:
        raise UserError(f"--device=gpu: no peak figures for {kind!r}, only for "
                        f"{', '.join(MEMORY)}; add its data sheet's to legion_jax/chips.py and "
                        f"tools/speed/chips.py")
    return Gpu(name, flops, MEMORY[name])


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
    number = sum(array.size for path, array in partition.abstract_params(model).items()
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
