"""The full size on one GPU: updates and decoding, against what its data sheet says."""

import dataclasses
import importlib.util

import jax
from rich.console import Console

from input_pipeline.errors import UserError
from legion_jax import chips
from legion_jax.chips import Chip
from legion_jax.models import param_tree
from tools.bench import cases, floors, ours, turns
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


def peer_device(wanted: bool, console: Console) -> str | None:
    """`cuda`, or None after saying why there is no peer."""
    if not wanted:
        return None
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        import torch
        if torch.cuda.is_available():
            return "cuda"
    console.print("no peer: PyTorch here, if any, is built without CUDA or finds no GPU; "
                  "its figures are left out")
    return None


def measure(case: Case, kind: str, chip: Chip, *, work: list[str], rounds: int,
            device: str | None) -> dict:
    """Everything about this GPU, as JSON.

    Args:
        kind: what JAX calls it; chip: its peak figures.
        device: the peer's, if it takes part.
    """
    result = {"case": case.name, "device": kind, "rounds": rounds,
              "peak": {"name": kind, "flops": chip.flops, "hbm_rate": chip.hbm_rate}}
    for name in work:
        result[name] = WORK[name](case, chip, rounds, device)
    return result


def train(case: Case, chip: Chip, rounds: int, device: str | None) -> dict:
    """Updates, tokens per second and MFU of both."""
    batch = cases.train_batch(case)
    entered = {"ours": ours.OurTrain(case, cases.ParamsOnDevice(case), batch)}
    if device:
        from tools.bench.peer import PeerTrain
        entered["peer"] = PeerTrain(case, None, batch, device)
    result = turns.measure(entered, rounds=rounds, label="train step",
                           flops=floors.train_flops(case))
    return result | {
        name: training_figures(chip, case, flops=result["flops"], seconds=seconds)
        for name, seconds in result["seconds"].items()} | {"compile_s": entered["ours"].compile_s}


def answers(case: Case, chip: Chip, rounds: int, device: str | None) -> dict:
    """Decoding steps: of a whole batch on our side, photo by photo on the peer's."""
    asked, params = cases.questions(case), cases.ParamsOnDevice(case)
    whole, first = case, dataclasses.replace(case, new=1)
    entered = {}
    for label, sized in (("ours", whole), ("ours, first token", first)):
        answering = ours.OurAnswers(sized, params, asked, masks=False)
        entered[label] = lambda run=answering: jax.block_until_ready(run.decode())
    if device:
        from tools.bench.peer import PeerAnswers
        for label, sized in (("peer", whole), ("peer, first token", first)):
            slow = PeerAnswers(sized, None, asked, device)
            entered[label] = lambda run=slow: run.decode(run.photo(0))
    seconds = turns.measure(entered, rounds=rounds, label="decoding")["seconds"]
    result = {"seconds": seconds, "ours": decode_figures(
        chip, case, whole=seconds["ours"], first=seconds["ours, first token"])}
    if device:
        result["peer"] = decode_figures(
            chip, dataclasses.replace(case, photos=1), whole=seconds["peer"],
            first=seconds["peer, first token"])
        result["ratio"] = result["ours"]["tokens_per_s"] / result["peer"]["tokens_per_s"]
    return result


WORK = {"train": train, "answers": answers}
