"""The two pieces of work: who takes part, in turns, and whether all come to the same."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tools.bench import cases, floors, ours, turns

LOSS_TOLERANCE = 1e-3  # relative, of the first update
PIXEL_TOLERANCE = 1e-3  # share of mask pixels on the other side of zero
CHECKED = ("loss", "ce", "bce", "dice", "grad_norm")


def train(case: cases.Case, params: dict[str, np.ndarray], *, rounds: int, peer: bool) -> dict:
    """Updates by both, from the same parameters on the same batch (see `turns.summary`)."""
    batch = cases.train_batch(case)
    entered: dict[str, Any] = {"ours": ours.OurTrain(case, params, batch)}
    if peer:
        from tools.bench.peer import PeerTrain
        entered["peer"] = PeerTrain(case, params, batch)
    figures = _measure(entered, compare_updates, rounds=rounds, label="train step",
                       flops=floors.train_flops(case))
    return figures | {"photos": case.batch}


def answers(case: cases.Case, params: dict[str, np.ndarray], *, rounds: int, peer: bool) -> dict:
    """Captions and masks for the same photos by both (see `turns.summary`)."""
    asked = cases.questions(case)
    entered: dict[str, Any] = {"ours": ours.OurAnswers(case, params, asked)}
    if peer:
        from tools.bench.peer import PeerAnswers
        entered["peer"] = PeerAnswers(case, params, asked)
    figures = _measure(entered, functools.partial(compare_answers, case=case), rounds=rounds,
                       label="answers", flops=floors.answer_flops(case))
    return figures | {"photos": case.photos, "tokens": case.photos * case.new,
                      "masks": case.photos * case.masks}


WORK: dict[str, Callable[..., dict]] = {"train": train, "answers": answers}


def _measure(entered: dict[str, Any], compare: Callable[..., dict], *, rounds: int, label: str,
             flops: float) -> dict:
    """The summary of all turns; `compare` is given what both returned in their first."""
    first: dict = {}

    def turn(name):
        result = entered[name]()
        first.setdefault(name, result)

    figures = turns.measure({name: functools.partial(turn, name) for name in entered},
                            rounds=rounds, label=label, flops=flops)
    if "peer" in entered:
        figures["check"] = compare(first["ours"], first["peer"])
    return figures | {"compile_s": entered["ours"].compile_s}


def compare_updates(mine: dict[str, float], theirs: dict[str, float]) -> dict:
    """Largest relative difference of the loss and its terms.

    The gradient's norm is shown besides: dropout of LoRA's input, which each side draws for
    itself, is in it, while a second factor that starts at zero keeps it out of the loss.
    """
    relative = {name: abs(mine[name] - theirs[name]) / max(abs(theirs[name]), 1e-9)
                for name in CHECKED}
    largest = max(relative[name] for name in CHECKED if name != "grad_norm")
    return {"loss": [mine["loss"], theirs["loss"]], "loss_difference": largest,
            "grad_norm_difference": relative["grad_norm"], "same": largest <= LOSS_TOLERANCE}


def compare_answers(mine: tuple, theirs: tuple, case: cases.Case) -> dict:
    """Whether all tokens agree, how many masks were asked for, and pixels that differ."""
    height, width = case.photo
    pixels = max(float((a[:, :height, :width] != b).mean())
                 for a, b in zip(mine[1], theirs[1], strict=True))
    tokens = bool((mine[0] == theirs[0]).all())
    segs = int((theirs[0] == case.seg_id).sum())
    scores = float(np.abs(mine[2] - theirs[2]).max())
    return {"tokens_same": tokens, "masks": segs, "pixels_different": pixels,
            "scores_difference": scores,
            "same": tokens and segs == case.photos * case.masks and pixels <= PIXEL_TOLERANCE}


def product_peak(side: int, *, rounds: int, peer: bool) -> dict:
    """GFLOP/s of one square product of matrices by each library (see `turns.summary`)."""
    contestants, flops = floors.square_products(side, peer=peer)
    return turns.measure(contestants, rounds=rounds, label="product", flops=flops)
