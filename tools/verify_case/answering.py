"""Answers of a case's model, by the programs and the scheduler that prediction runs."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from legion_jax.predict.decoding import Rules
from legion_jax.predict.programs import Answering, Programs, inference_mesh
from legion_jax.predict.scheduler import Job, Judging, Scheduler
from tools.verify_case.case import Case

PLACES = 2  # of the decoding batch, of which one is filled at a time
REFILLED = "in a place that another photo left"


def answers(case: Case, prompt: np.ndarray, photos: Sequence, *, rules: Rules, judging: Judging,
            job_of: Callable[[int, object], Job]) -> list[Job]:
    """Greedy answers to the prompt int[T] about each photo, by the scheduler of prediction.

    Args:
        photos: what `job_of(key, photo)` makes jobs of. Two are answered at a time; others come
            into places, and columns of the cache, that were used before.

    Returns:
        The jobs, in the order of `photos`.
    """
    answering = Answering(tuple(prompt.tolist()), case.image_index(prompt[None]), rules)
    programs = Programs(case.config, answering, inference_mesh(case.config, jax.devices()[:1]),
                        places=PLACES)
    scheduler = Scheduler(programs, case.params, places=PLACES, group=1, judging=judging)
    jobs = (job_of(key, photo) for key, photo in enumerate(photos))
    done = {job.key: job for job in scheduler.run(jobs, explain="always")}
    return [done[key] for key in range(len(photos))]


def says_nothing(tokens: np.ndarray) -> None:
    """`Judging.read_words` of answers that give no verdict in words."""
