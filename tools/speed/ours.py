"""Our side: the compiled programs of `legion_jax.train` and `legion_jax.inference`."""

import time

import jax
import numpy as np

from legion_jax import inference, optim, partition, sharding, train
from legion_jax.train_step import init_state
from tools.speed.cases import EOS_ID, Case, ParamsOnDevice, run_config, without_lora

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

            trained = _filled(state.params, params)
            self.trained = partition.count(trained)
            self._frozen = _filled(frozen, params)
            self._state = jax.jit(lambda p: init_state(p, optimizer), out_shardings=layout)(trained)

    def __call__(self) -> dict[str, float]:
        """One update; its metrics."""
        with jax.set_mesh(self._mesh):
            self._state, metrics = self._step(self._state, self._frozen, self._batch)
            return {name: float(value) for name, value in jax.device_get(metrics).items()}


class OurAnswers:
    """Photos to tokens and masks, a batch at once. `compile_s`: seconds of compiling."""

    def __init__(self, case: Case, params: Params, asked: dict[str, np.ndarray], *,
                 masks: bool = True):
        """Without `masks` there is only `decode`."""
        model = without_lora(case)
        self._mesh = _mesh()
        with jax.set_mesh(self._mesh):
            self._params = _filled(inference.abstract_params(model, self._mesh), params)
            self._asked = jax.device_put(asked, sharding.batch_sharding(self._mesh))
            graph = inference.graph_of(model)
            answer = inference.jit_answer(
                graph, image_index=case.image_index, max_new=case.new, slots=case.masks,
                eos_id=EOS_ID, seg_id=case.seg_id)
            start, question = time.perf_counter(), (self._asked["ids"], self._asked["clip_image"])
            self._answer = answer.lower(self._params, *question).compile()
            if masks:
                decoded, _ = jax.eval_shape(answer, self._params, *question)
                self._draw = inference.jit_draw(graph).lower(
                    self._params, decoded.seg_states, *self._photos(),
                    canvas=case.canvas).compile()
            self.compile_s = time.perf_counter() - start

    def __call__(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens int[B, M], masks bool[B, K, C, C] and their scores float32[B, K]."""
        with jax.set_mesh(self._mesh):
            decoded = self.decode()
            packed, scores = self._draw(self._params, decoded.seg_states, *self._photos())
            tokens, packed, scores = jax.device_get((decoded.tokens, packed, scores))
        return tokens, np.unpackbits(packed, axis=-1).astype(bool), scores

    def _photos(self):
        return (self._asked[name] for name in ("sam_image", "resized_size", "original_size"))

    def decode(self):
        """The answers' `decoding.Decoded` alone, which may still be on its way."""
        with jax.set_mesh(self._mesh):
            return self._answer(self._params, self._asked["ids"], self._asked["clip_image"])[0]
