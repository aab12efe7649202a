"""Photos in, verdicts, explanations and masks out.

    predictor = Predictor.from_folder(folder)
    for prediction in predictor([image]): ...
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from PIL import Image

from input_pipeline import batches, conversation, examples, regions
from input_pipeline import images as image_lib
from input_pipeline.tokenizer import Tokenizer
from input_pipeline.verdict_words import verdict_of_words
from legion_jax import checkpoint, decoding, partition, sharding
from legion_jax.config import LegionConfig
from legion_jax.models.layers import numerics
from legion_jax.predictions import Prediction, Question, Region, check_explain

SMALLEST_CANVAS, LARGEST_CANVAS = 256, 4096
FLOAT32 = r"(prompt_encoder|mask_decoder|verdict)/"


class Predictor:
    """A model with its tokenizer and question, compiled for one batch size.

    Two programs run per batch: one reads the photo and writes the answer, one draws all masks. The
    second exists once per canvas size, a power of two, so photos of any size share few programs.
    """

    def __init__(self, config: LegionConfig, params: dict[str, Any], tokenizer: Tokenizer, *,
                 question: Question, batch_size: int = 8, mesh: jax.sharding.Mesh | None = None):
        """Wrap parameters {path: array}; `from_folder` is the usual way here."""
        self.config, self.tokenizer, self.question = config, tokenizer, question
        self.batch_size = batch_size
        self.mesh = sharding.make_mesh((1, -1, 1)) if mesh is None else mesh
        self._params = partition.unflatten(params)
        graph = graph_of(config)
        self._prompt = conversation.encode_prompt(tokenizer, question.instruction)
        self.spec = examples.ExampleSpec(
            clip_size=config.clip.image_size, sam_canvas=config.sam.image_size,
            sam_longest=question.sam_longest or config.sam.image_size,
            text_length=len(self._prompt), mask_slots=question.mask_slots,
            mask_canvas=LARGEST_CANVAS, instruction=question.instruction)
        self._answer = jit_answer(
            graph, image_index=conversation.image_index(self._prompt),
            max_new=question.max_new_tokens, slots=question.mask_slots,
            eos_id=tokenizer.eos_id, seg_id=tokenizer.seg_id)
        self._draw = jit_draw(graph)
        self._judge = jax.jit(functools.partial(_judge, graph))

    @classmethod
    def from_folder(cls, folder: epath.PathLike, *, batch_size: int = 8,
                    question: Question | None = None) -> "Predictor":
        """Load a converted checkpoint or a training run, sharded over all devices.

        Without a `question` the run's own is asked. Raises CheckpointError, TokenizerError.
        """
        meta = checkpoint.read_meta(folder)
        config = meta["config"]
        mesh = sharding.make_mesh((1, -1, 1))
        abstract = partition.flatten(abstract_params(config, mesh))
        return cls(config, checkpoint.load_params(folder, abstract),
                   Tokenizer.from_folder(epath.Path(folder) / "tokenizer"),
                   question=question or Question(**meta.get("question", {})),
                   batch_size=batch_size, mesh=mesh)

    @classmethod
    def untrained(cls, config: LegionConfig, tokenizer: Tokenizer, *, question: Question,
                  seed: int = 0, batch_size: int = 8) -> "Predictor":
        """A model with random parameters: the baseline of every trained one."""
        params = partition.flatten(partition.new_params(config, jax.random.key(seed)))
        return cls(config, params, tokenizer, question=question, batch_size=batch_size)

    def __call__(self, images: Sequence[np.ndarray], *,
                 explain: str = "fakes") -> list[Prediction]:
        """Predict for photos uint8[H, W, 3] of any sizes, in their order; see `stream`."""
        found = dict(self.stream(enumerate(images), explain=explain))
        return [found[number] for number in range(len(images))]

    def stream(self, items: Iterable[tuple[Any, np.ndarray]], *,
               explain: str = "fakes") -> Iterator[tuple[Any, Prediction]]:
        """Predict for (key, photo uint8[H, W, 3]) pairs, which are taken only as they are needed.

        Args:
            explain: which photos get explanation and masks, one of `predictions.EXPLAIN`.

        Yields:
            (key, prediction), each key once, in the order in which they are finished.
        """
        check_explain(explain)
        items = iter(items)
        while group := list(itertools.islice(items, self.batch_size)):
            images = [image for _, image in group]
            padded = images + images[:1] * (self.batch_size - len(images))
            for (key, _), result in zip(group, self._predict(padded), strict=False):
                yield key, _shown(result, explain)

    def verdict_logits(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Logits of the verdict head before calibration, float32[N, classes].

        Raises ValueError when the model has no verdict head.
        """
        found = []
        for group, real in batches.padded_batches(images, self.batch_size):
            rows = np.stack([image_lib.clip_image(image, self.spec.clip_size) for image in group])
            with jax.set_mesh(self.mesh):
                logits = self._judge(self._params, _put(rows, mesh=self.mesh))
            found.append(np.asarray(logits)[:real])
        return np.concatenate(found)

    def compiled_programs(self) -> int:
        """Executables made so far; it stops growing once every canvas size has been seen."""
        return self._answer._cache_size() + self._draw._cache_size()

    def _predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        rows = batches.stack([examples.image_fields(image, self.spec) for image in images])
        frames = np.array([examples.frame_size(*image.shape[:2], LARGEST_CANVAS)[:2]
                           for image in images], np.int32)
        ids = np.broadcast_to(self._prompt, (len(images), len(self._prompt)))
        with jax.set_mesh(self.mesh):
            put = functools.partial(_put, mesh=self.mesh)
            decoded, verdict = self._answer(self._params, put(ids), put(rows["clip_image"]))
            if int(decoded.seg_count.max()):
                packed, scores = self._draw(
                    self._params, decoded.seg_states, put(rows["sam_image"]),
                    put(rows["resized_size"]), put(frames), canvas=canvas_for(frames))
            else:  # nothing to draw: SAM is not run at all
                packed = np.zeros((len(images), self.question.mask_slots, 1, 1), np.uint8)
                scores = np.zeros(packed.shape[:2])
        rows = (*jax.device_get((decoded, verdict, packed, scores)), frames)
        return [self._result(image.shape[:2], *jax.tree.map(lambda x, i=i: x[i], rows))
                for i, image in enumerate(images)]

    def _result(self, size, decoded, verdict, packed, scores, frame) -> Prediction:
        tokens = decoded.tokens[:decoded.length].tolist()
        answer = self.tokenizer.decode(tokens)
        parsed = conversation.parse_answer(answer)
        found = []
        for one in parsed.regions:
            index, mask, score = one.seg_index, None, 0.0
            if index is not None and index < self.question.mask_slots:
                mask, score = _unpack(packed[index], frame, size), float(scores[index])
            found.append(Region(one.phrase, one.start, one.end, one.detail, mask, score))
        name = probability = fake = None
        if verdict is not None:
            classes = self.config.verdict_classes
            name, probability = classes[int(verdict.argmax())], float(verdict.max())
            fake = float(1 - verdict[classes.index("real")]) if "real" in classes else None
        words = verdict_of_words(parsed.explanation, parsed.regions)
        return Prediction(name, probability, fake, words, parsed.explanation, answer,
                          finished=bool(tokens and tokens[-1] == self.tokenizer.eos_id),
                          size=tuple(size), regions=found)


def _shown(result: Prediction, explain: str) -> Prediction:
    if explain == "always" or (explain in ("fakes", "skim") and result.verdict != "real"):
        return result
    return dataclasses.replace(
        result, explanation="", answer="", regions=[], withheld=True,
        words=result.words if explain == "fakes" else None)


def canvas_for(sizes: np.ndarray) -> int:
    """Smallest canvas, a power of two, that holds every frame int[B, 2]."""
    return max(SMALLEST_CANVAS, 1 << (int(sizes.max()) - 1).bit_length())


def abstract_params(config: LegionConfig, mesh: jax.sharding.Mesh) -> dict:
    """The sharded tree of parameters prediction holds, without values."""
    # What is always computed in float32 is also held in it.
    return sharding.shard_abstract(partition.unflatten({
        path: jax.ShapeDtypeStruct(a.shape, "float32" if re.match(FLOAT32, path) else config.dtype)
        for path, a in partition.abstract_params(config).items()}), mesh)


def graph_of(config: LegionConfig) -> nnx.GraphDef:
    """The model's structure, for a tree of all parameters."""
    return partition.split_params(partition.abstract_model(config), partition.EVERYTHING)[0]


def jit_answer(graph, **settings) -> Callable:
    """`answer(params, ids, image) -> (Decoded, verdict)`; settings as of `decoding.greedy`."""
    return jax.jit(functools.partial(_answer, graph, **settings))


def jit_draw(graph) -> Callable:
    """`draw(params, *args, canvas=C)`; arguments and result as of `decoding.draw_masks`."""
    return jax.jit(functools.partial(_draw, graph), static_argnames="canvas")


def _answer(graph, params, ids, image, **settings):
    model = partition.merge(graph, params)
    with numerics(model.config):
        seen = model.see(image)
        decoded = decoding.greedy(model, ids, jnp.ones(ids.shape, bool), seen, **settings)
        verdict = None if model.verdict is None else jax.nn.softmax(model.judge(seen))
    return decoded, verdict


def _judge(graph, params, image):
    model = partition.merge(graph, params)
    with numerics(model.config):
        return model.judge(model.see(image))


def _draw(graph, params, seg_states, image, resized, original, *, canvas):
    model = partition.merge(graph, params)
    with numerics(model.config):
        return decoding.draw_masks(model, seg_states, image, resized, original, canvas=canvas)


def _put(x: np.ndarray, *, mesh) -> jax.Array:
    """Rows onto the devices, split over them where the batch divides evenly."""
    spec = sharding.fit(sharding.P(sharding.BATCH), x.shape, mesh)
    return jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))


def _unpack(packed: np.ndarray, frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bits of one mask -> bool[H, W]; photos beyond the largest canvas are scaled up to size."""
    mask = regions.unpack_masks(packed)[:frame[0], :frame[1]].astype(bool)
    if mask.shape == tuple(size):
        return mask
    return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))
