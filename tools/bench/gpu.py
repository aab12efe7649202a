"""The full size on one GPU: updates and decoding, against what its data sheet says.

Each function measures one piece alone, as JAX and PyTorch share no memory of the card:
`gpu_pieces` runs them one after the other, each in a process of its own.
"""

import dataclasses

import jax

from input_pipeline.errors import UserError
from legion_jax import chips
from legion_jax.chips import Chip
from legion_jax.models import param_tree
from tools.bench import cases, floors, operations, ours, turns
from tools.bench.cases import Case, without_lora


def find(kind: str) -> Chip:
    """The GPU that JAX calls `kind`. Raises UserError for one without figures."""
    chip = chips.find(kind)
    if chip is None or chip.hbm_rate is None:
        raise UserError(f"--device=gpu: no peak figures for {kind!r} in legion_jax/chips.py; "
                        f"--device=cpu measures the processor")
    return chip


def training_figures(chip: Chip, case: Case, seconds: float) -> dict:
    """Tokens per second, the image's among them, and MFU of an update."""
    positions = case.text - 1 + case.model.vision.num_patches
    return {"tokens_per_s": case.batch * positions / seconds,
            "mfu": floors.train_flops(case) / (seconds * chip.flops)}


def decode_bytes(case: Case) -> int:
    """Bytes that a decoding step of all photos reads at least: parameters, and its whole cache.

    The embedding is left out, of which a step reads one row per photo.
    """
    model = without_lora(case)
    c = model.language
    number = sum(array.size for path, array in param_tree.abstract_params(model).items()
                 if path.startswith("language/") and "/embed/" not in path)
    length = case.prompt - 1 + model.vision.num_patches + case.new
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


def train(case: Case, chip: Chip, rounds: int) -> dict:
    """Our updates: seconds, tokens per second, MFU, memory, and where the time goes."""
    update = ours.OurTrain(case, cases.ParamsOnDevice(case), cases.train_batch(case))
    result = turns.measure({"ours": update}, rounds=rounds, label="train step")
    return _common(result, "ours") | training_figures(chip, case, result["seconds"]["ours"]) | {
        "compile_s": update.compile_s, "peak_bytes": _peak_bytes(),
        "loss": update()["loss"], "operations": operations.dearest(update)}


def answers(case: Case, chip: Chip, rounds: int) -> dict:
    """Our decoding steps, of all photos at once, and where the time goes."""
    asked, params = cases.questions(case), cases.ParamsOnDevice(case)
    entered = {}
    for label, sized in _lengths(case).items():
        answering = ours.OurAnswers(sized, params, asked, masks=False)
        entered[label] = lambda run=answering: jax.block_until_ready(run.decode())
    result = turns.measure(entered, rounds=rounds, label="decoding")
    return _common(result, "whole") | decode_figures(chip, case, **result["seconds"]) | {
        "peak_bytes": _peak_bytes(), "operations": operations.dearest(entered["whole"])}


def peer_train(case: Case, chip: Chip, rounds: int) -> dict:
    """The peer's updates."""
    from tools.bench import peer
    update = peer.PeerTrain(case, None, cases.train_batch(case), peer.device())
    result = turns.measure({"peer": update}, rounds=rounds, label="peer's train step")
    return _common(result, "peer") | training_figures(chip, case, result["seconds"]["peer"]) | {
        "peak_bytes": peer.peak_bytes(), "remat": update.remat}


def peer_answers(case: Case, chip: Chip, rounds: int) -> dict:
    """The peer's decoding steps, of all photos at once."""
    from tools.bench import peer
    asked, entered = cases.questions(case), {}
    slow = peer.PeerAnswers(case, None, asked, peer.device())
    for label, sized in _lengths(case).items():
        entered[label] = lambda new=sized.new: slow.decode_batch(new)
    result = turns.measure(entered, rounds=rounds, label="peer's decoding")
    return _common(result, "whole") | decode_figures(chip, case, **result["seconds"]) | {
        "peak_bytes": peer.peak_bytes()}


def _lengths(case: Case) -> dict[str, Case]:
    return {"whole": case, "first": dataclasses.replace(case, new=1)}


def _common(result: dict, name: str) -> dict:
    """Median, fastest and slowest of a contestant that ran alone."""
    return {key: result[key][name] for key in ("seconds", "fastest", "slowest")}


def _peak_bytes() -> int | None:
    """The most memory of the card that was in use; None where the device does not say."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


WORK = {"train": train, "answers": answers, "peer_train": peer_train, "peer_answers": peer_answers}
