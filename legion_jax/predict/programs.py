"""The compiled programs of prediction; each exists once, whatever photos come."""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from legion_jax import distributed, sharding
from legion_jax.config import CLS_TOKEN, SEG_TOKEN, VISION, LegionConfig
from legion_jax.models import mask_frame, param_tree
from legion_jax.models.layers import numerics
from legion_jax.models.legion import Seen
from legion_jax.predict import decoding
from legion_jax.predict.decoding import DecodeState, Rules

LARGEST_CANVAS = 4096  # pixels; larger photos have their masks made smaller and scaled up
FLOAT32 = r"(prompt_encoder|mask_decoder|verdict|fusion)/"


@dataclasses.dataclass(frozen=True)
class Answering:
    """What all answers have in common.

    Attributes:
        image_index: place of the image in the prompt; prompt: ids of the prompt, int[T].
        rules: by which an answer is written.
    """

    prompt: tuple[int, ...]
    image_index: int
    rules: Rules


def abstract_params(config: LegionConfig, mesh: jax.sharding.Mesh) -> dict:
    """The sharded tree of parameters prediction holds, without values."""
    # What is always computed in float32 is also held in it.
    return sharding.shard_abstract(param_tree.unflatten({
        path: jax.ShapeDtypeStruct(a.shape, "float32" if re.match(FLOAT32, path) else config.dtype)
        for path, a in param_tree.abstract_params(config).items()}), mesh)


class Programs:
    """What runs on the devices, compiled for one number of places and one size of group.

    Attributes:
        look: (params, views uint8[R, S, S, 3]) -> what the vision tower sees, `Seen.rows`
            [R, 1 + P, D], and verdict logits float32[R, classes], or None without a head on it.
        prefix: (params) -> keys and values of the text before the image.
        empty: () -> `DecodeState` of B free places.
        admit: (params, prefix, state, `Seen.rows` [R, 1 + P, D], places int[R],
            numbers uint32[R]) -> state; the one given is used up.
        decode: (params, state, places that must be done) -> state; the one given is used up.
        judge: (params, states, counts) of a `DecodeState` -> verdict logits float32[B, classes] of
            the last [CLS] of each place, which mean nothing where there is none.
        draw: (params, {watched token: states [R, K, D]}, {the same: count int[R]},
            uint8[R, C, C, 3], resized int[R, 2]) -> mask logits.
        place: (logits, resized, frames int[R, 2], wanted int[R]) -> bits and scores, see
            `mask_frame.place`.
    """

    def __init__(self, config: LegionConfig, answering: Answering, mesh: jax.sharding.Mesh, *,
                 places: int, int8: bool = False, canvas: int = LARGEST_CANVAS,
                 apart: bool | None = None):
        """`apart`: whether decoding copies the language model's weights; by default where a copy
        is worth its memory and there is room for it.
        """
        if apart is None:
            apart = _has_room_for_copy(abstract_params(config, mesh), mesh)
        model = param_tree.abstract_model(config, int8=int8)
        graph = param_tree.split_params(model, param_tree.EVERYTHING)[0]
        self.config, self.answering, self.mesh = config, answering, mesh
        a, ids = answering, np.array(answering.prompt, np.int32)[None]
        self.columns = ids.shape[1] - 1 + config.vision.num_patches + a.rules.max_new
        empty = functools.partial(decoding.empty, model, places, a.rules, columns=self.columns)
        self.state = self._laid_out(jax.eval_shape(empty))
        layout = jax.tree.map(lambda x: x.sharding, self.state)
        self.look = jax.jit(functools.partial(_look, graph))
        self.prefix = jax.jit(functools.partial(_prefix, graph, ids[:, :a.image_index]))
        self.empty = jax.jit(empty, out_shardings=layout)
        self.admit = jax.jit(functools.partial(
            _admit, graph, ids, rules=a.rules, image_index=a.image_index),
            donate_argnums=2, out_shardings=layout)
        self.decode = jax.jit(functools.partial(_decode, graph, rules=a.rules, apart=apart),
                              donate_argnums=1, out_shardings=layout)
        self.judge = jax.jit(functools.partial(_judge, graph))
        if config.sam is not None:
            self.draw = jax.jit(functools.partial(_draw, graph))
            self.place = jax.jit(functools.partial(
                mask_frame.place, sam_size=config.sam.image_size, canvas=canvas))
        # A mesh of devices that are not here, to compile for, is nobody's to run on together.
        self._together = mesh.is_multi_process and jax.process_count() > 1
        if self._together:
            masks = () if config.sam is None else ("draw", "place")
            for name in ("look", "prefix", "admit", "decode", "judge", *masks):
                setattr(self, name, distributed.compiled_together(getattr(self, name)))
        self._copied = jax.jit(lambda arrays: arrays, out_shardings=jax.sharding.NamedSharding(
            mesh, sharding.P()))

    def _laid_out(self, state: DecodeState) -> DecodeState:
        """A state's shapes with where they lie, which every program leaves as it is."""
        def laid_out(path, x):
            spec = sharding.P(sharding.BATCH) if x.ndim else sharding.P()
            if sharding.path_name(path).startswith("cache"):
                spec = sharding.P(None, sharding.BATCH, None, sharding.HEADS)
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.sharding.NamedSharding(
                self.mesh, sharding.fit(spec, x.shape, self.mesh)))

        return jax.tree_util.tree_map_with_path(laid_out, state)

    def put(self, x: np.ndarray) -> jax.Array:
        """Rows onto the devices, split over them where they divide evenly.

        On a mesh of several processes each of them gives the same rows.
        """
        spec = sharding.fit(sharding.P(sharding.BATCH), x.shape, self.mesh)
        layout = jax.sharding.NamedSharding(self.mesh, spec)
        return jax.make_array_from_callback(x.shape, layout, lambda index: x[index])

    def fetch(self, arrays):
        """Results as NumPy arrays, the same on every process of the mesh."""
        if self._together:
            arrays = self._copied(arrays)
        return jax.device_get(arrays)


def inference_mesh(config: LegionConfig, devices: Sequence[jax.Device] | None = None):
    """Mesh of one host's devices for prediction: parameters split inside layers.

    With parameters split over the fsdp axis every token would wait for all of them to be gathered
    (35 times as long on a v5e 4x4, see tools/aot_report/README.md). Devices that the heads do not
    divide over hold copies and share the photos.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    tensor = math.gcd(len(devices), config.language.heads)
    return sharding.make_mesh((len(devices) // tensor, 1, tensor), devices)


def _has_room_for_copy(params: dict, mesh: jax.sharding.Mesh) -> bool:
    """Whether decoding shall copy the language model's weights out of their stack.

    On GPUs, XLA copies a layer's weights in every step before it multiplies by them, which takes
    longer than the products (tools/bench/README.md). A copy made once needs the weights' memory
    again: it is made where that of each device holds three times as much as they take, which is
    counted in the model's dtype also where they are held in int8.
    """
    if mesh.devices.flat[0].platform != "gpu":
        return False
    layers = sum(math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize
                 for path, a in param_tree.flatten(params).items()
                 if path.startswith("language/layers/"))
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0)
              for device in mesh.local_devices]
    return min(limits) >= 3 * layers


def _model(graph, params):
    model = param_tree.merge(graph, params)
    return model, numerics(model.config)


def _look(graph, params, image):
    model, precision = _model(graph, params)
    with precision:
        seen = model.see(image)
        on_photo = model.config.verdict_source == VISION
        return seen.rows, model.judge(seen.summary) if on_photo else None


def _prefix(graph, ids, params):
    model, precision = _model(graph, params)
    with precision:
        return decoding.read_prefix(model, jnp.asarray(ids))


def _admit(graph, ids, params, prefix, state, seen, rows, number, *, rules, image_index):
    model, precision = _model(graph, params)
    with precision:
        ids = jnp.broadcast_to(jnp.asarray(ids), (len(rows), ids.shape[1]))
        columns = ids.shape[1] - 1 + model.config.vision.num_patches
        new = decoding.prefill(model, ids, jnp.ones(ids.shape, bool), Seen.from_rows(seen), rules,
                               image_index=image_index, columns=columns, prefix=prefix,
                               number=number)
        return decoding.admit(state, new, rows)


def _decode(graph, params, state, wanted, *, rules, apart):
    model, precision = _model(graph, params)
    with precision:
        return decoding.decode(model, state, wanted, rules, apart=apart)


def _judge(graph, params, states, counts):
    model, precision = _model(graph, params)
    with precision:
        return _verdict(model, states, counts)


def _verdict(model, states, counts):
    """Logits of the last [CLS] of each row."""
    kept = states[CLS_TOKEN]
    last = jnp.clip(counts[CLS_TOKEN] - 1, 0, kept.shape[1] - 1)
    return model.judge(jnp.take_along_axis(kept, last[:, None, None], axis=1)[:, 0])


def _draw(graph, params, states, counts, image, resized):
    model, precision = _model(graph, params)
    with precision:
        kept = states[SEG_TOKEN]
        valid = jnp.arange(kept.shape[1]) < counts[SEG_TOKEN][:, None]
        verdict = _verdict(model, states, counts) if model.fusion is not None else None
        prompts = model.fuse(model.prompt(kept), verdict, valid)
        return model.draw(model.ground(image, resized), prompts)[0]
