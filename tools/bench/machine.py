"""What a measurement on an NVIDIA GPU says beside the peak figures of its maker."""

from input_pipeline.errors import UserError
from legion_jax import chips
from legion_jax.chips import Chip
from legion_jax.models import param_tree
from tools.bench.cases import Case, without_lora


def find(kind: str) -> Chip:
    """The GPU that JAX calls `kind`. Raises UserError for one without figures."""
    chip = chips.find(kind)
    if chip is None or chip.hbm_rate is None:
        raise UserError(f"--device=gpu: no peak figures for {kind!r} in legion_jax/chips.py; "
                        f"--device=cpu measures the processor")
    return chip


def training_figures(chip: Chip, case: Case, *, flops: float, seconds: float) -> dict:
    """Tokens per second, the image's among them, and MFU of an update of `flops` operations."""
    positions = case.text - 1 + case.model.clip.num_patches
    return {"tokens_per_s": case.batch * positions / seconds,
            "mfu": flops / (seconds * chip.flops)}


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


def decode_figures(chip: Chip, case: Case, *, whole: float, first: float) -> dict:
    """From the seconds of an answer of all tokens and of one of a single token.

    Steps are alike, so their time is the difference over their number; `of_bound` is the share of
    the memory's bandwidth that it comes to.
    """
    step = (whole - first) / (case.new - 1)
    bound = decode_bytes(case) / chip.hbm_rate
    return {"ms_per_step": 1e3 * step, "tokens_per_s": case.photos / step,
            "bound_ms_per_step": 1e3 * bound, "of_bound": bound / step}
