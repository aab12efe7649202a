"""The full size on one GPU: updates and decoding, against what its data sheet says."""

import dataclasses
import importlib.util

import jax
from rich.console import Console

from legion_jax.chips import Chip
from tools.bench import cases, floors, machine, ours, turns


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


def measure(case: cases.Case, kind: str, chip: Chip, *, work: list[str], rounds: int,
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


def train(case: cases.Case, chip: Chip, rounds: int, device: str | None) -> dict:
    """Updates, tokens per second and MFU of both."""
    batch = cases.train_batch(case)
    entered = {"ours": ours.OurTrain(case, cases.ParamsOnDevice(case), batch)}
    if device:
        from tools.bench.peer import PeerTrain
        entered["peer"] = PeerTrain(case, None, batch, device)
    result = turns.summary(turns.take_turns(entered, rounds=rounds, label="train step"),
                           floors.train_flops(case))
    return result | {
        name: machine.training_figures(chip, case, flops=result["flops"], seconds=seconds)
        for name, seconds in result["seconds"].items()} | {"compile_s": entered["ours"].compile_s}


def answers(case: cases.Case, chip: Chip, rounds: int, device: str | None) -> dict:
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
    seconds = turns.summary(turns.take_turns(entered, rounds=rounds, label="decoding"),
                            0.0)["seconds"]
    result = {"seconds": seconds, "ours": machine.decode_figures(
        chip, case, whole=seconds["ours"], first=seconds["ours, first token"])}
    if device:
        result["peer"] = machine.decode_figures(
            chip, dataclasses.replace(case, photos=1), whole=seconds["peer"],
            first=seconds["peer, first token"])
        result["ratio"] = result["ours"]["tokens_per_s"] / result["peer"]["tokens_per_s"]
    return result


WORK = {"train": train, "answers": answers}
