"""Pictures of a run in training: photos with their true masks beside those the model draws."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from input_pipeline.batches.loader import Rows
from input_pipeline.photos import regions
from input_pipeline.text import conversation
from legion_jax import distributed, sharding
from legion_jax.display import overlay
from legion_jax.models import param_tree
from legion_jax.models.layers import numerics
from legion_jax.models.reading import framed_masks, read_text, see, verdict_logits
from legion_jax.train.knobs import RunSettings
from legion_jax.train.setup import Task

PHOTOS = 4
TRIES = 8  # records looked at for one with masks, per photo,
APART = 1000  # rows from each other, so that the photos are the same on any mesh
SIDE = 640  # px of a drawn photo's longer side, since TensorBoard keeps every picture


def of_run(settings: RunSettings, graph, rows: Rows, task: Task,
           mesh: jax.sharding.Mesh) -> "Pictures | None":
    """The pictures of a run; None where none are wanted, or no loss looks at masks."""
    if not settings.log_images_every or not settings.loss.reads_masks:
        return None
    return Pictures(graph, rows, task, mesh)


class Pictures:
    """The same few photos of the training data, drawn anew with the parameters of the moment.

    What the model draws is prompted by the true text, as in training. One program of one row per
    device does it, so it needs less memory than an update; every process takes part in it, and
    process 0 draws the rows its own devices hold.
    """

    def __init__(self, graph, rows: Rows, task: Task, mesh: jax.sharding.Mesh):
        """Nothing is read or compiled before the first call.

        Args:
            graph: structure of the model, as of the train step.
            rows: of the run's batches; texts are padded to the longest there may be.
        """
        self._tokenizer, self._dialogue = task.tokenizer, task.examples.dialogue
        text_length = task.examples.text_length
        # Every host counts all rows, so that copies of a row on several hosts are the same.
        self._rows = dataclasses.replace(
            rows, prepare=lambda record, _: rows.prepare(record, text_length),
            blank=lambda _: rows.blank(text_length), places=None, features=(), replaced=())
        self._layout = sharding.batch_sharding(mesh)
        self._shards = mesh.shape["data"] * mesh.shape["fsdp"]
        self._draw = jax.jit(functools.partial(_masks, graph, reading=task.reading),
                             out_shardings=self._layout)
        self._compiled = False

    def __call__(self, params: dict, frozen: dict) -> list[np.ndarray]:
        """uint8[H, W, 3] each on process 0, nothing elsewhere; the mesh must be set."""
        drawn = []
        for examples in self._examples:
            inputs = params, frozen, self._put(examples)
            if not self._compiled:
                distributed.compile_together(self._draw, *inputs)
                self._compiled = True
            packed = self._draw(*inputs)
            if jax.process_index() == 0:
                masks = {_row(shard.index): np.asarray(shard.data)[0]
                         for shard in packed.addressable_shards}
                drawn += [self._picture(examples[row], masks[row]) for row in sorted(masks)]
        return drawn[:PHOTOS]

    @functools.cached_property
    def _examples(self) -> list[dict[int, dict]]:
        """Per call of the program {row: example} of the rows that this process holds."""
        rows = {device: _row(index) for device, index in
                self._layout.devices_indices_map((self._shards,)).items()}
        first = {row for device, row in rows.items() if device.process_index == 0}
        mine = {row for device, row in rows.items()
                if device.process_index == jax.process_index()}
        return [{row: self._example(call * self._shards + row) for row in mine}
                for call in range(math.ceil(PHOTOS / len(first)))]

    def _example(self, number: int) -> dict:
        """The first of some records that has a mask, else the first one."""
        tried = (self._rows[number + APART * k] for k in range(TRIES))
        return next((row for row in tried if row["mask_valid"].any()), None) or self._rows[number]

    def _put(self, examples: dict[int, dict]) -> dict[str, jax.Array]:
        def batched(name, value):
            return jax.make_array_from_callback(
                (self._shards, *np.shape(value)), self._layout,
                lambda index: np.asarray(examples[_row(index)][name])[None])
        fields = next(iter(examples.values()))
        return {name: batched(name, value) for name, value in fields.items()}

    def _picture(self, example: dict, packed: np.ndarray) -> np.ndarray:
        """The photo twice, with true masks and with drawn ones."""
        used = example["mask_valid"]
        truth, drawn = (_unpack(masks[used], example["original_size"])
                        for masks in (example["masks"], packed))
        answer = conversation.parse_answer(
            self._tokenizer.decode(example["ids"][example["loss_mask"]].tolist()),
            dialogue=self._dialogue)
        phrases = {region.seg_index: region.phrase for region in answer.regions}
        lines = [f"{phrases.get(k, '')} (IoU {_iou(*pair):.2f})"
                 for k, pair in enumerate(zip(truth, drawn, strict=True))]
        height, width = example["resized_size"]
        photo = Image.fromarray(example["sam_image"][:height, :width])
        size = _small(example["original_size"])
        masks = [[regions.resized(mask, size[::-1]) for mask in group] for group in (truth, drawn)]
        return np.asarray(overlay.draw_comparison(
            np.asarray(photo.resize(size, Image.Resampling.LANCZOS)), masks, lines,
            titles=["true masks", "masks of the model"]))


def _masks(graph, params, frozen, batch, *, reading):
    """uint8[B, K, C, C / 8]: what is above zero, one bit per pixel."""
    model = param_tree.merge(graph, params, frozen)
    with numerics(model.config):
        seen, verdict = see(model, batch), None
        states = read_text(model, batch, seen, reading.image_index)
        if model.fusion is not None:
            verdict, _ = verdict_logits(model, batch, seen, states, reading)
        logits, _ = framed_masks(model, batch, states, reading, verdict)
    return jnp.packbits(logits > 0, axis=-1)


def _row(index: tuple[slice, ...]) -> int:
    """The row of a batch that a device holds, from what JAX says of its part."""
    return index[0].start or 0


def _unpack(masks: np.ndarray, size: np.ndarray) -> np.ndarray:
    """bool[K, *size] of masks of bits, or of grey ones, of which the brighter half counts."""
    pixels = masks >= 128 if masks.shape[1] == masks.shape[2] else regions.unpack_masks(masks)
    return pixels[:, :size[0], :size[1]].astype(bool)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / max(np.count_nonzero(a | b), 1)


def _small(size: np.ndarray) -> tuple[int, int]:
    """(width, height) of a drawn photo from int[2] rows and columns."""
    scale = min(1.0, SIDE / size.max())
    return max(1, round(size[1] * scale)), max(1, round(size[0] * scale))
