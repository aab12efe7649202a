"""What a batch is good for: against one photo at a time, and how its places are filled."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from tools.bench import cases, floors, ours, turns

STATE_TOLERANCE = 1e-4  # relative to the largest value of a state
ANSWERS = 256
# Tokens of an answer in SynthScars: 136 on average, about 390 at most of 119.
MEAN_LENGTH, SPREAD, LONGEST = 136, 0.45, 512


def batching(case: cases.Case, params: dict[str, np.ndarray], *, rounds: int,
             peer: bool) -> dict:
    """Captions and masks in one batch (ours) and one photo after the other (as the peer)."""
    del peer
    asked = cases.questions(case)
    alone = [{name: rows[row:row + 1] for name, rows in asked.items()}
             for row in range(case.photos)]
    together = ours.OurAnswers(case, params, asked)
    single = ours.OurAnswers(dataclasses.replace(case, photos=1), params, alone[0])

    def one_by_one():
        return [single(photo) for photo in alone]

    batch, singles = together(), one_by_one()
    states = np.concatenate([answer.states for answer in singles])
    tokens = np.concatenate([answer.tokens for answer in singles])
    difference = float(np.abs(batch.states - states).max() / np.abs(states).max())
    masks = np.concatenate([answer.masks for answer in singles])
    same = bool((batch.tokens == tokens).all())
    figures = turns.measure({"ours": together, "peer": one_by_one}, rounds=rounds,
                            label="batching", flops=floors.answer_flops(case))
    return figures | {
        "compile_s": together.compile_s, "photos": case.photos,
        "check": {"tokens_same": same, "states_difference": difference,
                  "pixels_different": float((batch.masks != masks).mean()),
                  "same": same and difference <= STATE_TOLERANCE}}


def policies(case: cases.Case, params: dict[str, np.ndarray], *, rounds: int, peer: bool) -> dict:
    """Seconds of answering ANSWERS photos without masks, by the rule that fills the places.

    What a step and letting photos in cost is measured for every size of batch; how often each
    happens follows from the lengths of the answers, which are drawn.
    """
    del peer
    admit, step = {}, {}
    size = case.photos
    while size:
        admit[size], step[size] = costs(dataclasses.replace(case, photos=size), params, rounds)
        size //= 2
    seconds = {f"refill, {group} at once": refill(lengths(), case.photos, group, admit, step)
               for group in admit}
    seconds |= {"whole batches": whole(lengths(), case.photos, admit, step),
                "batches that shrink": shrinking(lengths(), case.photos, admit, step),
                "whole batches, lengths known and sorted": whole(
                  np.sort(lengths()), case.photos, admit, step)}
    return {"answers": ANSWERS, "tokens": int(lengths().sum()), "places": case.photos,
            "admit_s": {str(n): s for n, s in admit.items()},
            "step_s": {str(n): s for n, s in step.items()}, "policies": seconds}


def lengths() -> np.ndarray:
    """Tokens of ANSWERS answers, int[N], log-normal."""
    rng = np.random.default_rng(0)
    drawn = rng.lognormal(np.log(MEAN_LENGTH) - SPREAD ** 2 / 2, SPREAD, ANSWERS)
    return np.clip(np.rint(drawn), 1, LONGEST).astype(int)


def costs(case: cases.Case, params, rounds: int) -> tuple[float, float]:
    """Seconds of letting a whole batch in, and of a step of it."""
    asked = cases.questions(case)
    entered = {}
    for name, new in (("whole", case.new), ("first", 1)):
        run = ours.OurAnswers(dataclasses.replace(case, new=new), params, asked, masks=False)
        entered[name] = lambda run=run: jax.block_until_ready(run.decode())
    seconds = turns.measure(entered, rounds=rounds, label=f"{case.photos} places")["fastest"]
    step = (seconds["whole"] - seconds["first"]) / (case.new - 1)
    return seconds["first"] - step, step


Costs = dict[int, float]


def whole(lengths: Sequence[int], places: int, admit: Costs, step: Costs) -> float:
    """Every batch runs until its longest answer ends."""
    batches = [lengths[i:i + places] for i in range(0, len(lengths), places)]
    return sum(admit[places] + max(batch) * step[places] for batch in batches)


def shrinking(lengths: Sequence[int], places: int, admit: Costs, step: Costs) -> float:
    """A batch goes on in half as many places, which costs nothing, once those are enough."""
    total = 0.0
    for start in range(0, len(lengths), places):
        ends, size, done = sorted(lengths[start:start + places]), places, 0
        total += admit[places]
        for number, end in enumerate(ends):
            while size > 1 and len(ends) - number <= size // 2:
                size //= 2
            total, done = total + (end - done) * step[size], end
    return total


def refill(lengths: Sequence[int], places: int, group: int, admit: Costs, step: Costs) -> float:
    """As many answers as make a group leave together, and others take their places."""
    waiting, left, total = list(lengths), [], 0.0
    while waiting or left:
        while waiting and (places - len(left) >= group):
            taken, waiting = waiting[:group], waiting[group:]
            left, total = left + taken, total + admit[group]
        steps = sorted(left)[min(group, len(left)) - 1] if waiting else max(left)
        total += steps * step[places]
        left = [rest - steps for rest in left if rest > steps]
    return total


WORK: dict[str, Callable[..., dict]] = {"batching": batching, "policies": policies}
