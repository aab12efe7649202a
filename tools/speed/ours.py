"""Our side: the compiled programs of `legion_jax.train` and `legion_jax.inference`."""

import time

import jax
import numpy as np

from legion_jax import inference, optim, partition, sharding, train
from legion_jax.train_step import init_state
from tools.speed.cases import EOS_ID, Case, run_config, without_lora


def _mesh() -> jax.sharding.Mesh:
    return sharding.make_mesh((1, 1, 1), jax.devices()[:1])


class OurTrain:
    """The update of a run, on one device. `compile_s`: seconds of compiling it."""

    def __init__(self, case: Case, params: dict[str, np.ndarray], batch: dict[str, np.ndarray]):
        config, self._mesh = run_config(case), _mesh()
        optimizer = optim.make(config.optimizer)
        with jax.set_mesh(self._mesh):
            graph, state, frozen = train.abstract_state(config, case.model, optimizer, self._mesh)
            layout = jax.tree.map(lambda x: x.sharding, state)
            step = train.jit_step(config, graph, optimizer, layout, image_index=case.image_index,
                                  seg_id=case.seg_id)
            self._batch = jax.device_put(batch, sharding.batch_sharding(self._mesh))
            start = time.perf_counter()
            self._step = step.lower(state, frozen, self._batch).compile()
            self.compile_s = time.perf_counter() - start

            def filled(tree):
                return jax.tree_util.tree_map_with_path(
                    lambda path, x: jax.device_put(
                        params[sharding.path_name(path)].astype(x.dtype), x.sharding), tree)

            trained = filled(state.params)
            self.trained = partition.count(trained)
            self._frozen = filled(frozen)
            self._state = jax.jit(lambda p: init_state(p, optimizer), out_shardings=layout)(trained)

    def __call__(self) -> dict[str, float]:
        """One update; its metrics."""
        with jax.set_mesh(self._mesh):
            self._state, metrics = self._step(self._state, self._frozen, self._batch)
            return {name: float(value) for name, value in jax.device_get(metrics).items()}


class OurAnswers:
    """Photos to tokens and masks, a batch at once. `compile_s`: seconds of compiling."""

    def __init__(self, case: Case, params: dict[str, np.ndarray], asked: dict[str, np.ndarray]):
        model, params = without_lora(case, params)
        self._mesh, self._canvas = _mesh(), case.canvas
        with jax.set_mesh(self._mesh):
            layout = inference.abstract_params(model, self._mesh)
            self._params = jax.tree.map(
                lambda x, value: jax.device_put(value.astype(x.dtype), x.sharding), layout,
                partition.unflatten(params))
            self._asked = jax.device_put(asked, sharding.batch_sharding(self._mesh))
            graph = inference.graph_of(model)
            self._answer = inference.jit_answer(
                graph, image_index=case.image_index, max_new=case.new, slots=case.masks,
                eos_id=EOS_ID, seg_id=case.seg_id)
            self._draw = inference.jit_draw(graph)
        start = time.perf_counter()
        self()
        self.compile_s = time.perf_counter() - start  # the first answer included

    def __call__(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens int[B, M], masks bool[B, K, C, C] and their scores float32[B, K]."""
        asked = self._asked
        with jax.set_mesh(self._mesh):
            decoded, _ = self._answer(self._params, asked["ids"], asked["clip_image"])
            packed, scores = self._draw(
                self._params, decoded.seg_states, asked["sam_image"], asked["resized_size"],
                asked["original_size"], canvas=self._canvas)
            tokens, packed, scores = jax.device_get((decoded.tokens, packed, scores))
        return tokens, np.unpackbits(packed, axis=-1).astype(bool), scores
