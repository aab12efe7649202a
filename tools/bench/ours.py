"""Our side: the compiled programs of `legion_jax.train` and `legion_jax.predict.predictor`."""

import time
from typing import NamedTuple

import jax
import numpy as np

from input_pipeline.photos.regions import unpack_masks
from input_pipeline.text.tokenizer import EOS_ID
from legion_jax import sharding
from legion_jax.config import SEG_TOKEN
from legion_jax.models import param_tree
from legion_jax.models.reading import Reading
from legion_jax.predict.decoding import Rules, Watched
from legion_jax.predict.programs import Answering, Programs, abstract_params
from legion_jax.predict.scheduler import Job, Judging, Scheduler
from legion_jax.train import optim, setup
from legion_jax.train.step import init_state
from tools.bench.cases import Case, ParamsOnDevice, run_settings, without_lora

# Nothing is judged, so that nothing is left out, and no words are read.
JUDGING = Judging(source=None, real=None, masked=None, read_words=lambda tokens: None)
Params = dict[str, np.ndarray] | ParamsOnDevice


def _mesh() -> jax.sharding.Mesh:
    return sharding.make_mesh((1, 1, 1), jax.devices()[:1])


def _filled(tree: dict, params: Params) -> dict:
    """The parameters of an abstract tree, where it wants them."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.device_put(params[sharding.path_name(path)].astype(x.dtype),
                                       x.sharding), tree)


class OurTrain:
    """The update of a run, on one device. `compile_s`: seconds of compiling it."""

    def __init__(self, case: Case, params: Params, batch: dict[str, np.ndarray]):
        settings, self._mesh = run_settings(case), _mesh()
        optimizer = optim.make(settings.optimizer)
        with jax.set_mesh(self._mesh):
            graph, state, frozen = setup.abstract_state(
                case.model, optimizer, self._mesh, trainable=settings.trainable,
                frozen_dtype=settings.frozen_dtype)
            layout = jax.tree.map(lambda x: x.sharding, state)
            step = setup.jit_step(settings, graph, optimizer, layout, reading=Reading(
                case.image_index, {SEG_TOKEN: case.seg_id}, case.prompt))
            self._batch = jax.device_put(batch, sharding.batch_sharding(self._mesh))
            start = time.perf_counter()
            self._step = step.lower(state, frozen, self._batch).compile()
            self.compile_s = time.perf_counter() - start

            trained = _filled(state.params, params)
            self.trained = param_tree.count(trained)
            self._frozen = _filled(frozen, params)
            self._state = jax.jit(lambda p: init_state(p, optimizer), out_shardings=layout)(trained)

    def __call__(self) -> dict[str, float]:
        """One update; its metrics."""
        with jax.set_mesh(self._mesh):
            self._state, metrics = self._step(self._state, self._frozen, self._batch)
            return {name: float(value) for name, value in jax.device_get(metrics).items()}


class Answers(NamedTuple):
    """Tokens int[B, M], masks bool[B, K, H, W], scores float32[B, K], [SEG] states [B, K, D]."""

    tokens: np.ndarray
    masks: np.ndarray
    scores: np.ndarray
    states: np.ndarray


class OurAnswers:
    """Photos to tokens and masks, a batch at once. `compile_s`: seconds of the first time."""

    def __init__(self, case: Case, params: Params, asked: dict[str, np.ndarray], *,
                 masks: bool = True):
        """Without `masks` there is only `decode`."""
        model, self._case, self._asked = without_lora(case), case, asked
        self._programs = Programs(model, Answering(
            tuple(asked["ids"][0].tolist()), case.image_index, Rules(
                case.new, EOS_ID, (Watched(SEG_TOKEN, case.seg_id, case.masks),))),
            _mesh(), places=case.photos, canvas=case.canvas)
        with jax.set_mesh(self._programs.mesh):
            self._params = _filled(abstract_params(model, self._programs.mesh), params)
            self._prefix = self._programs.prefix(self._params)
        self._scheduler = Scheduler(self._programs, self._params, places=case.photos,
                                    group=case.photos, judging=JUDGING)
        start = time.perf_counter()
        jax.block_until_ready(self().tokens if masks else self.decode())
        self.compile_s = time.perf_counter() - start

    def __call__(self, asked: dict[str, np.ndarray] | None = None) -> Answers:
        """Answers and masks; of other photos than at the start, if given."""
        asked = self._asked if asked is None else asked
        views = ("vision_image", "sam_image", "resized_size")
        jobs = [Job(row, self._case.photo, row, {name: asked[name][row] for name in views},
                    asked["original_size"][row]) for row in range(self._case.photos)]
        done = sorted(self._scheduler.run(iter(jobs), explain="always"), key=lambda job: job.key)
        width = self._case.photo[1]
        return Answers(
            np.stack([job.tokens for job in done]),
            np.stack([unpack_masks(job.packed)[..., :width].astype(bool) for job in done]),
            np.stack([job.scores for job in done]),
            np.stack([job.states[SEG_TOKEN] for job in done]))

    def decode(self) -> jax.Array:
        """Tokens int[B, M] alone, which may still be on their way."""
        p, rows = self._programs, np.arange(self._case.photos)
        with jax.set_mesh(p.mesh):
            seen, _ = p.look(self._params, p.put(self._asked["vision_image"]))
            state = p.admit(self._params, self._prefix, p.empty(), seen, rows.astype(np.int32),
                            rows.astype(np.uint32))
            return p.decode(self._params, state, np.int32(len(rows))).tokens
