"""What is measured: sizes, random parameters and random inputs, the same for every contestant.

The parameters are random, but a cycle of PERIOD tokens, one of them [SEG], is written into the
vocabulary matrices: their embeddings are so large that no layer changes their direction much, and
the head's column of each points along the embedding of the one before it. Greedy decoding of a
prompt that ends in the last of them therefore goes around the cycle, finds [SEG] once in every
round by argmax over the whole vocabulary, and never comes upon the end token. Every answer has the
same number of tokens and masks, and nobody has to be told so.
"""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from experiments import base
from input_pipeline.batches.examples import ExampleSpec, fields
from input_pipeline.photos.views import CanvasView, CropView
from input_pipeline.text.tokenizer import ADDED_TOKENS, EOS_ID, IMAGE_ID, seg_id_of
from legion_jax.config import (
    ClipConfig,
    LanguageConfig,
    LegionConfig,
    LoraConfig,
    SamConfig,
    legion_7b,
)
from legion_jax.models import param_tree
from legion_jax.train.knobs import RunSettings

PERIOD = 16
_FIRST_WORD = 3  # ids below are special
NOISE = 2 ** 22 - 3  # values; odd, so that no layer begins where another one does
_LOUD = 10.0  # size of the cycle's embeddings; what all layers add up to is about 1


@dataclasses.dataclass(frozen=True)
class Case:
    """One size of everything.

    Attributes:
        model: with LoRA; answers are made without, as its factors are folded in beforehand.
        batch: photos of an update; photos: of a batch to answer.
        text: ids of a training text, its first `prompt` the question, the image at `image_index`.
        masks: per photo, as many as [SEG]s; new: tokens of an answer.
        photo: (height, width) on SAM's canvas and of the photo itself, masks included.
    """

    name: str
    model: LegionConfig
    batch: int
    photos: int
    text: int
    prompt: int
    image_index: int
    masks: int
    new: int
    photo: tuple[int, int]

    @property
    def seg_id(self) -> int:
        return seg_id_of(self.model.language.vocab)

    @property
    def cycle(self) -> list[int]:
        """The tokens of the answer's period; a prompt that asks for no mask ends in the last."""
        words = list(range(_FIRST_WORD, _FIRST_WORD + PERIOD - 1))
        return [*words[:-1], self.seg_id, words[-1]]

    @property
    def canvas(self) -> int:
        return self.model.sam.image_size


MID = Case(
    "mid", LegionConfig(
        vision=ClipConfig(image_size=336, width=256, mlp=1024, heads=4, layers=8),
        language=LanguageConfig(width=512, mlp=1376, heads=8, layers=8),
        lora=LoraConfig(rank=8, alpha=16.0, dropout=0.05),
        sam=SamConfig(image_size=1024, width=192, mlp=768, heads=6, layers=6, window=14,
                      global_blocks=(2, 5)),
        dtype="float32", remat="none"),
    batch=2, photos=8, text=222, prompt=164, image_index=36, masks=4, new=4 * PERIOD,
    photo=(768, 1024))
TINY = Case(
    "tiny", LegionConfig(
        vision=ClipConfig(image_size=28, patch=14, width=32, mlp=64, heads=4, layers=3),
        language=LanguageConfig(vocab=519, width=48, mlp=96, heads=4, layers=3),
        lora=LoraConfig(rank=2, alpha=4.0, dropout=0.05),
        sam=SamConfig(image_size=64, patch=8, width=32, mlp=64, heads=4, layers=4, window=3,
                      global_blocks=(1, 3), prompt_width=32, mask_channels=4, decoder_heads=4,
                      decoder_mlp=64, iou_hidden=16),
        dtype="float32", remat="none"),
    batch=2, photos=2, text=26, prompt=12, image_index=3, masks=2, new=2 * PERIOD, photo=(48, 64))
FULL = Case(  # for GPUs
    "full", legion_7b(lora=LoraConfig(rank=8, alpha=16.0, dropout=0.05), verdict=None),
    batch=8, photos=8, text=320, prompt=164, image_index=36, masks=4, new=128, photo=(768, 1024))


def run_settings(case: Case) -> RunSettings:
    """The recipe of experiments/base.py at these sizes, in the model's dtype."""
    config = base.get_config()
    config.batch_size, config.frozen_dtype = case.batch, case.model.dtype
    config.model.remat, config.model.dtype = case.model.remat, case.model.dtype
    config.model.position_dtype = case.model.position_dtype
    config.data.text_length, config.data.mask_slots = case.text, case.masks
    config.data.mask_canvas = case.canvas
    # From the first update on, so that a peer with another optimizer would be found out.
    config.optimizer.schedule, config.optimizer.warmup_steps = "constant", 0
    return RunSettings.from_config(config, without_data=True)


def spread(path: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Standard deviation and mean of what a parameter of this path may start as."""
    if path.endswith("lora_b"):
        return 0.0, 0.0
    if path.endswith(("kernel", "lora_a")):
        return shape[-2] ** -0.5, 0.0
    if re.search(r"(_token|tokens|frequencies)$", path):
        return 1.0, 0.0
    return 0.1, float(path.endswith("scale"))


def random_params(case: Case) -> dict[str, np.ndarray]:
    """{path: float32 array}, the cycle written in; LoRA starts as recipes start it, at zero."""
    rng, params = np.random.default_rng(0), {}
    for path, array in param_tree.abstract_params(case.model).items():
        deviation, mean = spread(path, array.shape)
        noise = rng.standard_normal(array.shape, np.float32)
        params[path] = np.float32(noise * deviation + mean)
    embed, head = params["language/embed/embedding"], params["language/head/kernel"]
    cycle = case.cycle
    embed[cycle] = _LOUD * rng.normal(size=(PERIOD, embed.shape[1]))
    for token, following in zip(cycle, np.roll(cycle, -1), strict=True):
        head[:, following] = embed[token] / np.linalg.norm(embed[token])
    head[:, EOS_ID] = 0
    return params


class ParamsOnDevice:
    """Random parameters {path: array}, each made on the device when it is asked for.

    All are pieces of the same noise, as a generator compiled for every shape takes a minute. There
    is no cycle in them; the end token never comes here either.
    """

    def __init__(self, case: Case):
        rng = np.random.default_rng(0)
        self._shapes = {path: array.shape
                        for path, array in param_tree.abstract_params(case.model).items()}
        self._begins = {path: rng.integers(NOISE) for path in self._shapes}
        self._noise = jax.device_put(rng.standard_normal(NOISE, np.float32))

    def __getitem__(self, path: str) -> jax.Array:
        shape = self._shapes[path]
        value = _piece(self._noise, self._begins[path], *spread(path, shape), shape=shape)
        return value.at[:, EOS_ID].set(0) if path == "language/head/kernel" else value


@functools.partial(jax.jit, static_argnames="shape")
def _piece(noise, begin, deviation, mean, *, shape: tuple[int, ...]) -> jax.Array:
    """float32[shape] of the noise over and over, from `begin` on."""
    size = math.prod(shape)
    again = jnp.broadcast_to(jnp.roll(noise, -begin), (-(-size // NOISE), NOISE))
    return again.reshape(-1)[:size].reshape(shape) * deviation + mean


def without_lora(case: Case) -> LegionConfig:
    """The model that answers; a fresh LoRA changes no kernel, so it is left out."""
    return dataclasses.replace(case.model, lora=LoraConfig())


def _words(rng, case: Case, shape) -> np.ndarray:
    """Random ids of ordinary words, the image placeholder among them."""
    ids = rng.integers(_FIRST_WORD + PERIOD, case.model.language.vocab - len(ADDED_TOKENS), shape)
    ids[:, case.image_index] = IMAGE_ID
    return ids.astype(np.int32)


def _views(rng, case: Case, rows: int) -> dict[str, np.ndarray]:
    clip, sam = case.model.vision.image_size, case.canvas
    size = np.broadcast_to(np.int32(case.photo), (rows, 2))
    return {"vision_image": rng.integers(0, 256, (rows, clip, clip, 3), np.uint8),
            "sam_image": rng.integers(0, 256, (rows, sam, sam, 3), np.uint8),
            "resized_size": size, "original_size": size}


def train_batch(case: Case) -> dict[str, np.ndarray]:
    """A batch as `input_pipeline.batches.examples` makes them; a mask is a half of its photo."""
    rng, B, K, C = np.random.default_rng(1), case.batch, case.masks, case.canvas
    spec = ExampleSpec(vision=CropView(case.model.vision.image_size), sam=CanvasView(C, C),
                       text_length=case.text, mask_slots=K, mask_canvas=C, instruction="")
    ids = _words(rng, case, (B, case.text))
    ids[:, np.linspace(case.prompt + 1, case.text - 2, K).astype(int)] = case.seg_id
    masks = np.zeros((B, K, C, C), bool)
    for k in range(K):
        masks[:, k, k * case.photo[0] // (2 * K):][:, :case.photo[0] // 2, :case.photo[1]] = True
    rows = {name: np.zeros((B, *shape), dtype) for name, (shape, dtype) in fields(spec).items()}
    rows |= _views(rng, case, B) | {"ids": ids, "masks": np.packbits(masks, axis=-1)}
    rows["loss_mask"] |= np.arange(case.text) >= case.prompt
    for name in ("valid", "mask_valid", "label"):
        rows[name][:] = 1
    return rows


def questions(case: Case) -> dict[str, np.ndarray]:
    """Photos to answer for, and the prompt of each."""
    rng = np.random.default_rng(2)
    ids = _words(rng, case, (case.photos, case.prompt))
    ids[:] = ids[:1]
    ids[:, -1] = case.cycle[-1]
    return _views(rng, case, case.photos) | {"ids": ids}
