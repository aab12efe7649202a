"""Checks of evaluation: answers by the programs that prediction runs, and what each step computed.

Both published processors lead to the same answers, so each prompt is answered once.
"""

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.text.conversation import encode_prompt
from input_pipeline.text.dialogue import LLAVA15_CHAT, RAW
from legion_jax.predict.decoding import Rules
from legion_jax.predict.scheduler import Job, Judging
from tools.verify_case.answering import REFILLED, answers, says_nothing
from tools.verify_case.comparisons import FEATURE, Results
from tools.verify_case.fakevlm.fakevlm_case import FakevlmCase, question_of

RUNS = {RAW: ("eval_raw_old_processor", "eval_raw"), LLAVA15_CHAT: ("eval_chat",)}
SCORES = ("first_logits", "logprob_real_fake", "step_lse", "step_top1")


def answer(case: FakevlmCase, prompt: np.ndarray, photos: list[int], *, max_new: int,
           eos_id: int | None = None) -> list[Job]:
    """Jobs with the greedy answers to a prompt int[T] about photos, as of `answers`.

    `eos_id`: the end token, by default the tokenizer's own.
    """
    rules = Rules(max_new, case.tokenizer.eos_id if eos_id is None else eos_id,
                  verdict_ids=case.verdict_ids)
    judging = Judging(source=case.config.verdict_source, real=0, masked=None,
                      read_words=says_nothing)
    views = case.views(case.config.vision.image_size)
    frame = np.array(views.shape[1:3], np.int32)
    return answers(case, prompt, photos, rules=rules, judging=judging, job_of=lambda key, photo:
                   Job(key, tuple(frame.tolist()), photo, {"vision_image": views[photo]}, frame))


def check_answers(case: FakevlmCase, results: Results) -> None:
    """Greedy answers to all prompts, also in places that were used, and their scores."""
    for dialogue, runs in RUNS.items():
        prompts = [encode_prompt(case.tokenizer, question_of(record), dialogue=dialogue)
                   for record in case.records]
        alike = {}
        for number, prompt in enumerate(prompts):
            alike.setdefault(tuple(prompt.tolist()), []).append(number)
        scores = {name: [None] * len(prompts) for name in SCORES}
        for numbers in alike.values():
            _check_prompt(case, results, runs, prompts[numbers[0]], numbers)
            _score(case, runs[0], prompts[numbers[0]], numbers, scores)
        for run in runs:
            for name in SCORES:
                results.of_largest(f"{run}_{name}", np.stack(scores[name]), tolerance=FEATURE)
    _check_early_stop(case, results)


def _check_prompt(case, results, runs, prompt, numbers):
    """Answers about the photos that are asked this, `numbers`, and verdicts' log-probabilities."""
    others = [number for number in range(len(case.records)) if number not in numbers]
    photos = [*numbers, *others, numbers[0]]  # the last one comes into a place that was used
    jobs = answer(case, prompt, photos, max_new=case.options["max_new_tokens"])
    for run in runs:
        ids, scores = (case.reference[f"{run}_{name}"] for name in ("new_ids", "logprob_real_fake"))
        for place, number in (*enumerate(numbers), (len(photos) - 1, numbers[0])):
            job, name = jobs[place], f"{run}_new_ids[{number}]"
            if place == len(photos) - 1:
                name = f"{name} {REFILLED}"
            results.equal(name, job.tokens, ids[number])
            if not np.isin(ids[number], case.verdict_ids).any():  # which would be scored instead
                results.of_largest(f"{name} log-probabilities", job.logits, scores[number],
                                   tolerance=FEATURE)


def _score(case, run, prompt, numbers, scores):
    """Fill in `scores` of these photos, from one uncached pass over the whole recorded answers."""
    new = case.reference[f"{run}_new_ids"][numbers]
    ids = np.concatenate([np.tile(prompt, (len(new), 1)), new[:, :-1]], axis=1).astype(np.int32)
    views = case.views(case.config.vision.image_size)[numbers]
    logits = _logits(case, ids, views, steps=new.shape[1])
    columns = np.array(case.verdict_ids)
    for row, number in enumerate(numbers):
        scores["first_logits"][number] = logits[row, 0]
        scores["logprob_real_fake"][number] = jax.nn.log_softmax(logits[row, 0])[columns]
        scores["step_lse"][number] = jax.nn.logsumexp(logits[row], -1)
        scores["step_top1"][number] = logits[row].max(-1)


def _logits(case, ids, views, *, steps):
    """Logits float32[B, steps, V] of the last positions of texts without padding."""
    logits = case.compute(_read, ids, views, image_index=case.image_index(ids), steps=steps)
    return np.asarray(logits)[..., :case.config.language.vocab]


def _read(model, ids, image, *, image_index, steps):
    x = model.embed(ids, model.see(image), image_index)
    states = model.read(x, jnp.ones(x.shape[:2], bool))
    return model.language.logits(states[:, -steps:])


def _check_early_stop(case, results):
    """An answer that ends by another end token."""
    stop = case.meta["eval"]["early_stop"]
    number, runs = stop["image"], {run: dialogue for dialogue, all in RUNS.items() for run in all}
    prompt = encode_prompt(case.tokenizer, question_of(case.records[number]),
                           dialogue=runs[stop["prompt"]])
    job, = answer(case, prompt, [number], max_new=case.options["max_new_tokens"],
                  eos_id=stop["eos_token_id"])
    results.equal("early_stop new_ids", job.tokens, stop["new_ids"])


def check_forced_prefix(case: FakevlmCase, results: Results) -> None:
    """What comes after an answer's first words, by one pass and by the programs of prediction."""
    forced = case.meta["eval"]["forced_prefix"]
    ids = np.array(case.tokenizer.encode_with_image(forced["text"]), np.int32)
    number = forced["image"]
    views = case.views(case.config.vision.image_size)[[number]]
    logits = _logits(case, ids[None], views, steps=1)[0, 0]
    results.of_largest("forced_prefix_logits", logits, tolerance=FEATURE)
    scores = jax.nn.log_softmax(logits)[np.array(case.verdict_ids)]
    results.of_largest("forced_prefix_logprob_real_fake", scores, tolerance=FEATURE)
    job, = answer(case, ids, [number], max_new=1)
    results.of_largest("forced_prefix log-probabilities as predicted", job.logits,
                       case.reference["forced_prefix_logprob_real_fake"], tolerance=FEATURE)
    results.equal("forced_prefix next token", job.tokens,
                  case.reference["forced_prefix_logits"].argmax()[None])
