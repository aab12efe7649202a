"""Photos through the programs of prediction: which run in which place, and who waits for whom.

A decoding batch has B places. As soon as R answers have ended, their places go to the next R
photos, so that a long answer does not hold up short ones. The order in which the devices get their
work hides the host's: while they decode, the host prepares the next photos, whose CLIP features
are computed before the next decoding, and unpacks the masks of the last ones. Only answers with a
[SEG] that are to be shown reach SAM.

The verdict is known before the language model reads a photo, where a head on the vision tower
judges it, and else after its answer; then every photo is answered.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from scipy import special

from input_pipeline.text import verdict_words
from legion_jax.config import CLS_TOKEN, SEG_TOKEN, TOKEN, WORDS
from legion_jax.predict.programs import Programs


@dataclasses.dataclass
class Job:
    """One photo on its way.

    Attributes:
        key: the caller's; size: rows and columns of the photo.
        number: what random draws depend on.
        views: as of `examples.image_fields`.
        frame: int[2], rows and columns of its masks.
        logits: float32[classes] of the verdict before calibration; None where nothing tells them.
        probabilities: the same after it.
        seen: `Seen.rows` [1 + P, D], until the language model has read them.
        answered: whether the language model was asked; shown: whether its answer is.
        tokens: int[n], of the answer; words: what these say, one of `verdict_words`, or None.
        states, counts: of the watched tokens, {name: [K, D]} and {name: how many}.
        packed, scores: its masks, see `mask_frame.place`; without any where nothing was drawn.
    """

    key: Any
    size: tuple[int, int]
    number: int
    views: dict[str, np.ndarray]
    frame: np.ndarray
    logits: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    seen: np.ndarray | None = None
    answered: bool = False
    shown: bool = False
    tokens: np.ndarray | None = None
    words: str | None = None
    states: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    packed: np.ndarray | None = None
    scores: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))


@dataclasses.dataclass(frozen=True)
class Judging:
    """How photos come by their verdict, and what follows from it.

    Attributes:
        source: of `VerdictConfig`; None where photos are not judged.
        real: index of the class that means real.
        masked: indices of the classes whose photos have masks; None: all that have a [SEG].
        read_words: tokens int[n] of an answer -> what they say, one of `verdict_words`, or None.
    """

    source: str | None
    real: int | None
    masked: frozenset[int] | None
    read_words: Callable[[np.ndarray], str | None]

    def means_real(self, job: Job) -> bool:
        """Whether the verdict on a job is that the photo is real."""
        if self.source == WORDS:
            return job.words == verdict_words.REAL
        return job.probabilities is not None and int(job.probabilities.argmax()) == self.real

    def has_masks(self, job: Job) -> bool:
        """Whether an answer with its verdict asks for masks."""
        if not job.counts.get(SEG_TOKEN):
            return False
        return self.masked is None or (
            job.probabilities is not None and int(job.probabilities.argmax()) in self.masked)


class Scheduler:
    """Runs jobs through `Programs` with parameters loaded; one run at a time.

    Attributes:
        group: R, photos that are looked at, let in and drawn at once.
    """

    def __init__(self, programs: Programs, params: dict, *, places: int, group: int,
                 judging: Judging, temperature: float = 1.0):
        """`temperature`: see `Predictor`."""
        self._programs, self._params = programs, params
        self._places, self.group, self._judging = places, min(group, places), judging
        self.temperature = temperature
        self._prefix = None

    @property
    def params(self) -> dict:
        """The tree of parameters that jobs are run with."""
        return self._params

    def run(self, jobs: Iterator[Job], *, explain: str) -> Iterator[Job]:
        """Yield every job once, in the order in which they are done; see `prediction.EXPLAIN`."""
        with jax.set_mesh(self._programs.mesh):
            run = _Run(self, iter(jobs), explain)
        while True:
            # The mesh is set for the work only: whoever takes the results has a mesh of his own.
            with jax.set_mesh(self._programs.mesh):
                if not run.turn():
                    return
            while run.done:
                yield run.done.popleft()

    def look(self, views: Sequence[dict[str, np.ndarray]]):
        """Programs.look for at most R photos, whose rows come first in the result."""
        rows = np.stack([view["vision_image"] for view in self._full(views)])
        return self._programs.look(self._params, self._programs.put(rows))

    def logits(self, views: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
        """Logits float32[R, classes] of the head on the vision tower, before calibration."""
        with jax.set_mesh(self._programs.mesh):
            return self._programs.fetch(self.look(views)[1])

    def use(self, params: dict) -> None:
        """Answer with other parameters from now on; no run may be going on."""
        self._params, self._prefix = params, None

    def _full(self, group: Sequence) -> list:
        """R entries: the last group of a run is filled up with its first one."""
        return [*group, *[group[0]] * (self.group - len(group))]


class _Run:
    """The state of one `Scheduler.run`.

    Attributes:
        done: jobs that the caller has not taken yet.
    """

    def __init__(self, scheduler: Scheduler, jobs: Iterator[Job], explain: str):
        self._s, self._p, self._jobs, self._explain = scheduler, scheduler._programs, jobs, explain
        self._places: list[Job | None] = [None] * scheduler._places
        self._looked = None  # (jobs, what their `look` returns)
        self._ready: collections.deque[Job] = collections.deque()  # for a place
        self._to_draw: collections.deque[Job] = collections.deque()
        self._drawing: list[tuple[list[Job], Any]] = []
        self._more, self._state = True, None
        self.done: collections.deque[Job] = collections.deque()

    def turn(self) -> bool:
        """One round; False when nothing is left to do."""
        if self._looked is None and len(self._ready) < self._s.group:
            self._look()
        self._sort()
        self._admit()
        active = sum(job is not None for job in self._places)
        free = len(self._places) - active
        if self._more and free >= self._s.group:
            return True  # fill the places before the first step
        self._draw(everything=not active)
        if active:
            # With nobody waiting, the last answers run to their end.
            waiting = self._more or self._ready
            wanted = free + min(self._s.group, active) if waiting else len(self._places)
            self._state = self._p.decode(self._s._params, self._state, np.int32(wanted))
        if len(self._ready) < self._s.group:
            self._look()  # prepared while the devices decode
        self._finish_drawing()
        if active:
            self._collect()
        return bool(active or self._looked or self._ready or self._to_draw or self._drawing
                    or self.done)

    def _look(self) -> None:
        group = list(itertools.islice(self._jobs, self._s.group))
        self._more = len(group) == self._s.group
        self._looked = (group, self._s.look([job.views for job in group])) if group else None

    def _sort(self) -> None:
        """Who is asked, by the verdict where it is known already."""
        if self._looked is None:
            return
        group, (states, logits) = self._looked[0], self._p.fetch(self._looked[1])
        self._looked = None
        after = self._s._judging.source in (TOKEN, WORDS)
        for row, job in enumerate(group):
            if logits is not None:
                self._set_verdict(job, logits[row])
            job.shown = self._is_shown(job)
            job.answered = job.shown or after or self._explain == "fakes"
            if job.answered:
                job.seen = states[row]
                self._ready.append(job)
            else:
                self.done.append(job)

    def _set_verdict(self, job: Job, logits: np.ndarray) -> None:
        job.logits = logits
        job.probabilities = special.softmax(logits / self._s.temperature)

    def _is_shown(self, job: Job) -> bool:
        """Whether a job's explanation and masks are, by its verdict."""
        return self._explain == "always" or (
            self._explain in ("fakes", "skim") and not self._s._judging.means_real(job))

    def _admit(self) -> None:
        while self._ready:
            free = [place for place, job in enumerate(self._places) if job is None]
            group = [self._ready.popleft() for _ in range(
                min(self._s.group, len(free), len(self._ready)))]
            if len(group) < self._s.group and (self._more or not group):
                self._ready.extendleft(reversed(group))
                return
            if self._state is None:
                self._state = self._p.empty()
            if self._s._prefix is None:
                self._s._prefix = self._p.prefix(self._s._params)
            rows = np.full(self._s.group, len(self._places), np.int32)  # beyond: not put in
            rows[:len(group)] = free[:len(group)]
            full = self._s._full(group)
            self._state = self._p.admit(
                self._s._params, self._s._prefix, self._state,
                self._p.put(np.stack([job.seen for job in full])), rows,
                np.array([job.number for job in full], np.uint32))
            for place, job in zip(free, group, strict=False):
                self._places[place], job.seen = job, None

    def _collect(self) -> None:
        """Take the answers that have ended out of their places."""
        s, logits = self._state, None
        if self._s._judging.source == TOKEN:
            logits = self._p.judge(self._s._params, s.states, s.counts)
        elif self._s._judging.source == WORDS and s.said.shape[1]:
            logits = s.said
        ended, tokens, length, states, counts, logits = self._p.fetch(
            (s.done, s.tokens, s.length, s.states, s.counts, logits))
        for place, job in enumerate(self._places):
            if job is None or not ended[place]:
                continue
            self._places[place] = None
            job.tokens = tokens[place, :length[place]]
            job.counts = {name: int(count[place]) for name, count in counts.items()}
            self._judge(job, None if logits is None else logits[place])
            if job.shown and self._s._judging.has_masks(job):
                job.states = {name: kept[place] for name, kept in states.items()}
                self._to_draw.append(job)
            else:
                self.done.append(job)

    def _judge(self, job: Job, logits: np.ndarray | None) -> None:
        """The verdict of an answer that has ended, where it was not known before."""
        judging = self._s._judging
        job.words = judging.read_words(job.tokens)
        if judging.source not in (TOKEN, WORDS):
            return
        if logits is not None and (judging.source == WORDS or job.counts[CLS_TOKEN]):
            self._set_verdict(job, logits)
        job.shown = self._is_shown(job)

    def _draw(self, *, everything: bool) -> None:
        """Start drawing whole groups; with `everything` also what is left over."""
        size, put = self._s.group, self._p.put
        while len(self._to_draw) >= size or (everything and self._to_draw):
            group = [self._to_draw.popleft() for _ in range(min(size, len(self._to_draw)))]
            full = self._s._full(group)
            resized = put(np.stack([job.views["resized_size"] for job in full]))
            states = {name: put(np.stack([job.states[name] for job in full]))
                      for name in full[0].states}
            counts = {name: put(np.array([job.counts[name] for job in full], np.int32))
                      for name in full[0].states}
            logits = self._p.draw(
                self._s._params, states, counts,
                put(np.stack([job.views["sam_image"] for job in full])), resized)
            wanted = np.array([job.counts[SEG_TOKEN] for job in group] + [0] * (size - len(group)))
            drawn = self._p.place(logits, resized, put(np.stack([job.frame for job in full])),
                                  put(wanted.astype(np.int32)))
            self._drawing.append((group, drawn))

    def _finish_drawing(self) -> None:
        for group, drawn in self._drawing:
            packed, scores = self._p.fetch(drawn)
            for row, job in enumerate(group):
                # Copies of what is used: the whole array has room for the largest photo.
                height, width = job.frame
                number = job.counts[SEG_TOKEN]
                job.packed = packed[row, :number, :height, :-(-width // 8)].copy()
                job.scores = scores[row, :number].copy()
                self.done.append(job)
        self._drawing.clear()
