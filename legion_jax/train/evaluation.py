"""Scores of a run while it trains: what evaluation says of the parameters of the moment.

Nothing is loaded or copied for it: the programs of prediction read the arrays the next update will
read, where they lie. So all processes go through the same photos together, and each of them has
all rows and the same scores in the end.
"""

import contextlib
import logging
import math
import re
import time
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from input_pipeline.records import prepared, verdict_classes
from legion_jax.display.numbers import duration
from legion_jax.evaluate.photo_rows import Source, predicted
from legion_jax.evaluate.settings import DEFAULT
from legion_jax.evaluate.summary import summary
from legion_jax.models import param_tree
from legion_jax.predict.prediction import Question
from legion_jax.predict.predictor import Predictor
from legion_jax.sharding import BATCH
from legion_jax.train.knobs import ConfigError, RunSettings
from legion_jax.train.setup import Task

LOG = logging.getLogger("legion_jax")

# What is logged, by its path in metrics.json, and whether more of it is better.
SCORES = {
    "localisation.mean.f1": True, "localisation.mean.miou": True,
    "localisation.mean_with_artifacts.f1": True, "localisation.pooled.f1": True,
    "localisation.false_area_on_real": False, "matching.coco.ap50": True,
    "detection.accuracy": True, "detection.balanced_accuracy": True, "detection.auc": True,
    "detection.ece": False, "detection.nll": False,
    "detection.classes.accuracy": True, "detection.classes.macro_f1": True,
    "text.rouge_l": True, "words.accuracy": True}
PREFIX = "eval/"  # of a score's name in metrics.jsonl and TensorBoard


def of_run(settings: RunSettings, task: Task, mesh: jax.sharding.Mesh) -> "Evaluation | None":
    """The evaluation of a run, its photos opened; None where none is wanted.

    Raises ConfigError where the run cannot be scored as it asks, DataError for a split that is
    not there, ClassError for a verdict head of which no class means real.
    """
    wanted, data = settings.eval, settings.data
    if wanted.metric not in SCORES:
        raise ConfigError(f"config.eval.metric: one of {', '.join(SCORES)}, not {wanted.metric!r}")
    if settings.checkpoint_keep_best and not wanted.every:
        raise ConfigError(f"config.checkpoint_keep_best: {settings.checkpoint_keep_best}, but "
                          f"config.eval.every is 0, so nothing says which are the best")
    if not wanted.every:
        return None
    verdict_classes.real_class(task.model.classes, "config.eval.every")
    if not data.data_dir:
        raise ConfigError("config.eval.every: the photos to score on are of config.data.data_dir, "
                          "which is empty")
    if settings.checkpoint_keep_best and wanted.every % settings.checkpoint_every:
        raise ConfigError(f"config.eval.every: {wanted.every} is no multiple of "
                          f"config.checkpoint_every {settings.checkpoint_every}, so what is scored "
                          f"would not be kept")
    return Evaluation(settings, task, mesh)


class Evaluation:
    """The same records of the eval split, answered anew each time with other parameters."""

    def __init__(self, settings: RunSettings, task: Task, mesh: jax.sharding.Mesh):
        """Opens the split; nothing is compiled before the first call."""
        self._settings, self._task, self._mesh = settings, task, mesh
        split = settings.data.eval_split
        records = prepared.open_split(settings.data.data_dir, split)
        self._source = Source([(re.match(r"\w*", split).group(), records)])
        self.numbers = spaced(len(records), settings.eval.photos)
        self._predictor: Predictor | None = None

    def due(self, done: int) -> bool:
        """Whether the run is scored after `done` updates."""
        return not done % self._settings.eval.every or done == self._settings.optimizer.total_steps

    def __call__(self, params: dict, frozen: dict) -> dict[str, float]:
        """{name of `SCORES`: value} for a trainable and a frozen tree; what has none is left out.

        Every process must call it.
        """
        began = time.monotonic()
        with self._answering(param_tree.flatten(params) | param_tree.flatten(frozen)) as predictor:
            by_number = dict(predicted(predictor, self._source, self.numbers, settings=DEFAULT))
        rows = [by_number[number] for number in self.numbers]
        scores = named_scores(summary(rows, rule=DEFAULT.pixel_rule))
        LOG.info("%d photos of %s in %s: %s", len(rows), self._settings.data.eval_split,
                 duration(time.monotonic() - began),
                 "  ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        return scores

    @contextlib.contextmanager
    def _answering(self, params: Mapping[str, jax.Array]) -> Iterator[Predictor]:
        """The predictor with these parameters, which it lets go afterwards."""
        if self._predictor is None:
            self._predictor = self._new_predictor()
        self._predictor.use(params)
        try:
            yield self._predictor
        finally:
            self._predictor.use({})

    def _new_predictor(self) -> Predictor:
        """Compiled for the run's mesh: as many places as the batch's parts divide."""
        settings, task = self._settings, self._task
        shards = math.prod(self._mesh.shape[axis] for axis in BATCH)
        places = shards * math.ceil(settings.eval.batch_size / shards)
        question = Question(settings.data.question, task.examples.sam_longest,
                            settings.eval.max_new_tokens, settings.data.mask_slots,
                            settings.data.dialogue)
        return Predictor(
            task.model, {}, task.tokenizer, question=question, batch_size=places,
            group=shards * math.ceil(places / 8 / shards), mesh=self._mesh,
            # Every device holds the masks of a group, so the frame is that of the losses.
            canvas=settings.data.mask_canvas, apart=False)


def spaced(total: int, wanted: int) -> list[int]:
    """`wanted` numbers below `total`, evenly spaced and ascending; all where there are no more."""
    if wanted >= total:
        return list(range(total))
    return [int(number) for number in np.arange(wanted) * total // wanted]


def named_scores(numbers: Mapping) -> dict[str, float]:
    """{name of `SCORES`: value} of an evaluation's blocks; what is None or absent is left out."""
    found = {}
    for name in SCORES:
        value = numbers
        for key in name.split("."):
            value = (value or {}).get(key)
        if value is not None:
            found[name] = value
    return found


def rank(scores: Mapping[str, float], metric: str) -> float | None:
    """How good a run with these scores is, more is better; None where the metric has no value."""
    if not scores:
        return None
    if not math.isfinite(scores.get(metric, math.nan)):
        LOG.warning("config.eval.metric: %s has no value over these photos, so no checkpoint is "
                    "kept as one of the best", metric)
        return None
    return scores[metric] if SCORES[metric] else -scores[metric]


def basis(settings: RunSettings) -> str:
    """What ranks of a run go by: those by another metric, or over other photos, do not compare."""
    wanted = settings.eval
    return f"{wanted.metric} over {wanted.photos} photos of {settings.data.eval_split}"


def logged(scores: Mapping[str, float]) -> dict[str, float]:
    """The scores by the names they have in metrics.jsonl and TensorBoard."""
    return {f"{PREFIX}{name}": value for name, value in scores.items()}
