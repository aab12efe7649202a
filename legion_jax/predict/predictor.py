"""Photos in, verdicts, explanations and masks out.

    predictor = Predictor.from_folder(folder)
    for prediction in predictor([image]): ...
"""

import dataclasses
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from PIL import Image

from input_pipeline.batches import examples, loader
from input_pipeline.errors import UserError
from input_pipeline.photos import regions
from input_pipeline.records import verdict_classes
from input_pipeline.records.record import LABELS, TAMPERED
from input_pipeline.text import conversation
from input_pipeline.text.dialogue import dialogue_named
from input_pipeline.text.tokenizer import Tokenizer
from input_pipeline.text.verdict_words import verdict_of_words
from legion_jax import memory, sharding
from legion_jax.config import CLS_TOKEN, SEG_TOKEN, TOKEN, VISION, WORDS, LegionConfig
from legion_jax.models import param_tree, tower_views
from legion_jax.predict import calibration
from legion_jax.predict.decoding import NO_TOKEN, Rules, Watched
from legion_jax.predict.prediction import Prediction, Question, Region, check_explain
from legion_jax.predict.programs import (
    LARGEST_CANVAS,
    Answering,
    Programs,
    abstract_params,
    inference_mesh,
)
from legion_jax.predict.quantize import quantize
from legion_jax.predict.sampling import GREEDY, Sampling
from legion_jax.predict.scheduler import Job, Judging, Scheduler
from legion_jax.weights.checkpoint import Checkpoint

# What takes less memory in prediction and evaluation.
LESS = "a smaller batch_size, int8, or more devices"


class Predictor:
    """A model with its tokenizer and question, compiled for one batch size.

    Photos of all sizes share the same few programs (`predict.programs`), which are compiled by
    the first photos and never again.

    Attributes:
        batch_size: answers that are written at the same time; mesh: of the devices they run on.
        temperature: what the verdict's logits are divided by (see `predict.calibration`).
        int8: whether the language model's kernels are held so.
    """

    def __init__(self, config: LegionConfig, params: dict[str, Any], tokenizer: Tokenizer, *,
                 question: Question, batch_size: int = 8, group: int | None = None,
                 sampling: Sampling = GREEDY, int8: bool = False, temperature: float = 1.0,
                 mesh: jax.sharding.Mesh | None = None, canvas: int = LARGEST_CANVAS,
                 apart: bool | None = None):
        """Wrap parameters {path: array}; `from_folder` is the usual way here.

        Args:
            group: photos whose answers begin together, an eighth of the batch by default.
            int8: `params` hold the language model as `quantize` makes it.
            mesh: of this host's devices, `inference_mesh` by default. On a mesh of several
                processes all of them ask the same of the same photos, in one order.
            canvas: px, masks of photos with a longer side are made smaller and scaled up.
            apart: as of `Programs`.
        """
        for name, number in (("batch_size", batch_size), ("group", group)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise UserError(f"{name}: a whole number, 1 or more, got {number!r}")
        self.config, self.tokenizer, self.question = config, tokenizer, question
        self.batch_size, self.temperature, self.int8 = batch_size, temperature, int8
        self.mesh = mesh = inference_mesh(config) if mesh is None else mesh
        self._dialogue = dialogue_named(question.dialogue)
        prompt = conversation.encode_prompt(tokenizer, question.instruction,
                                            dialogue=self._dialogue)
        self.spec = examples.ExampleSpec(
            vision=tower_views.of_vision(config),
            sam=tower_views.of_sam(config, question.sam_longest),
            text_length=len(prompt), mask_slots=question.mask_slots, mask_canvas=canvas,
            instruction=question.instruction, dialogue=self._dialogue)
        self._programs = Programs(
            config, Answering(tuple(prompt.tolist()), conversation.image_index(prompt),
                              answer_rules(config, tokenizer, question, sampling)),
            mesh, places=batch_size, int8=int8, canvas=canvas, apart=apart)
        self._real = verdict_classes.real_class(config.classes)
        self._scheduler = Scheduler(
            self._programs, param_tree.unflatten(params), places=batch_size,
            group=group or max(1, batch_size // 8), temperature=temperature,
            judging=Judging(config.verdict_source, self._real, masked_classes(config),
                            self._words))

    @classmethod
    def from_folder(cls, folder: epath.PathLike, **options: Any) -> "Predictor":
        """As `from_checkpoint`, of a folder."""
        return cls.from_checkpoint(Checkpoint.open(folder), **options)

    @classmethod
    @memory.told("loading a model", LESS)
    def from_checkpoint(cls, checkpoint: Checkpoint, *, batch_size: int = 8,
                        group: int | None = None, question: Question | None = None,
                        sampling: Sampling = GREEDY, int8: bool = False,
                        devices: Sequence[jax.Device] | None = None) -> "Predictor":
        """Load a converted checkpoint or a training run onto this host's devices.

        The verdict is calibrated where tools.calibrate has been at the folder.

        Args:
            devices: of this host; all of them by default.
            question: the run's own by default.
            int8: hold the language model in int8 (see `quantize`).

        Raises CheckpointError, TokenizerError, and ClassError, before anything is loaded, where no
        class of the verdict head means real.
        """
        config = checkpoint.meta.config
        verdict_classes.real_class(config.classes, str(checkpoint.folder))
        mesh = inference_mesh(config, devices)
        abstract = param_tree.flatten(abstract_params(config, mesh))
        sharding.warn_of_copies(abstract, mesh)
        params = checkpoint.load(abstract)
        return cls(config, quantize(params) if int8 else params,
                   checkpoint.tokenizer, question=question or Question.of(checkpoint.meta),
                   batch_size=batch_size, group=group, sampling=sampling, int8=int8, mesh=mesh,
                   temperature=calibration.load(checkpoint) or 1.0)

    @classmethod
    @memory.told("making a model", LESS)
    def untrained(cls, config: LegionConfig, tokenizer: Tokenizer, *, question: Question,
                  batch_size: int = 8, devices: Sequence[jax.Device] | None = None) -> "Predictor":
        """A model with random parameters: the baseline of every trained one."""
        mesh = inference_mesh(config, devices)
        layout = {path: x.sharding for path, x in
                  param_tree.flatten(abstract_params(config, mesh)).items()}
        new = jax.jit(lambda: param_tree.new_params(config, jax.random.key(0)),
                      out_shardings=layout)
        return cls(config, new(), tokenizer, question=question,
                   batch_size=batch_size, mesh=mesh)

    @property
    def longest(self) -> int:
        """Longer side of a photo in SAM's view, px; 0 of a model without SAM."""
        return self.spec.sam_longest

    @property
    def group(self) -> int:
        """Photos that are looked at and drawn at once."""
        return self._scheduler.group

    @property
    def params(self) -> dict:
        """The tree of parameters it answers with."""
        return self._scheduler.params

    def identity(self) -> dict[str, Any]:
        """What predictions depend on beside the parameters, JSON-ready."""
        rules = self._programs.answering.rules
        return {"question": dataclasses.asdict(self.question), "temperature": self.temperature,
                "int8": self.int8, "sampling": dataclasses.asdict(rules.sampling)}

    def __call__(self, images: Sequence[np.ndarray | Image.Image], *,
                 explain: str = "fakes") -> list[Prediction]:
        """Predict for photos of any sizes, in their order; see `stream`."""
        if isinstance(images, Image.Image) or getattr(images, "ndim", 4) == 3:
            raise UserError("a list of photos is wanted, got one photo; write [photo]")
        predictions = dict(self.stream(enumerate(images), explain=explain))
        return [predictions[number] for number in range(len(images))]

    def stream(self, items: Iterable[tuple[Any, np.ndarray | Image.Image]], *,
               explain: str = "fakes") -> Iterator[tuple[Any, Prediction]]:
        """Predict for (key, photo) pairs, which are taken only as they are needed.

        Args:
            items: photos uint8[H, W, 3] or of PIL, in RGB. Random draws depend on a key that is a
                number or a text, and on the photo's place for other keys.
            explain: which photos get explanation and masks, one of `prediction.EXPLAIN`.

        Yields:
            (key, prediction), each key once, in the order in which they are finished.
        """
        check_explain(explain)
        jobs = (self._job(number, item) for number, item in enumerate(items))
        with memory.told("predicting", LESS):
            for job in self._scheduler.run(jobs, explain=explain):
                yield job.key, self._result(job)

    def use(self, params: dict[str, Any]) -> None:
        """Answer with other parameters {path: array} from now on, by the same programs."""
        self._scheduler.use(param_tree.unflatten(params))

    @memory.told("predicting", LESS)
    def verdict_logits(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Logits of the verdict before calibration, float32[N, classes].

        Of a verdict in words these are log-probabilities; NaN where an answer has none of what the
        verdict reads. Raises ValueError when photos are not judged.
        """
        if self.config.verdict is None:
            raise ValueError("this model does not judge photos (config.verdict)")
        if self.config.verdict_source != VISION:
            return self._answered_logits(images)
        logits = []
        for group, real in loader.padded_batches(images, self._scheduler.group):
            logits.append(self._scheduler.logits(
                [self.spec.vision.see(image) for image in group])[:real])
        return np.concatenate(logits)

    def _answered_logits(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """The same where the verdict is known after the answer alone."""
        logits = np.full((len(images), len(self.config.classes)), np.nan, np.float32)
        jobs = (self._job(number, item) for number, item in enumerate(enumerate(images)))
        for job in self._scheduler.run(jobs, explain="never"):
            if job.logits is not None:
                logits[job.key] = job.logits
        return logits

    def _job(self, position: int, item: tuple[Any, np.ndarray | Image.Image]) -> Job:
        if not isinstance(item, tuple) or len(item) != 2:
            raise UserError(f"photo {position} of the stream: (key, photo) is wanted, got "
                            f"{type(item).__name__}")
        key, image = item
        if isinstance(image, jax.Array):
            image = np.asarray(image)
        if not isinstance(image, np.ndarray | Image.Image):
            raise UserError(f"photo {key}: an array uint8[H, W, 3] or a photo of PIL is wanted, "
                            f"got {type(image).__name__}")
        views = examples.image_fields(image, self.spec)
        size = image.size[::-1] if isinstance(image, Image.Image) else image.shape[:2]
        frame = examples.frame_size(*size, self.spec.mask_canvas)[:2]
        number = zlib.crc32(str(key).encode()) if isinstance(key, int | str) else position
        return Job(key, size, number, views, np.array(frame, np.int32))

    def _result(self, job: Job) -> Prediction:
        name, probability, fake = self._verdict(job)
        result = Prediction(name, probability, fake, words=None, explanation="", answer="",
                            finished=True, size=job.size, regions=[], withheld=not job.shown,
                            by_words=self.config.verdict_source == WORDS,
                            classes=self.config.classes)
        if not job.answered:
            return result
        tokens = job.tokens.tolist()
        answer = self.tokenizer.decode(tokens)
        parsed = conversation.parse_answer(answer, dialogue=self._dialogue)
        result = dataclasses.replace(
            result, words=job.words,
            finished=bool(tokens and tokens[-1] == self.tokenizer.eos_id))
        if not job.shown:
            return result
        return dataclasses.replace(result, explanation=parsed.explanation, answer=answer,
                                   regions=[_region(named, job) for named in parsed.regions])


    def _verdict(self, job: Job) -> tuple[str | None, float | None, float | None]:
        """(class, its probability, 1 - the probability of the class that means real)."""
        classes, probabilities = self.config.classes, job.probabilities
        name = probability = fake = None
        if probabilities is not None:
            name, fake = classes[int(probabilities.argmax())], float(1 - probabilities[self._real])
        if self.config.verdict_source == WORDS:
            name = job.words
        if name is not None and probabilities is not None:
            probability = float(probabilities[classes.index(name)])
        return name, probability, fake

    def _words(self, tokens: np.ndarray) -> str | None:
        """What an answer says of its photo: "real", "fake" or, of neither, None."""
        parsed = conversation.parse_answer(self.tokenizer.decode(tokens.tolist()),
                                           dialogue=self._dialogue)
        return verdict_of_words(parsed.explanation, parsed.regions)


def answer_rules(config: LegionConfig, tokenizer: Tokenizer, question: Question,
                 sampling: Sampling = GREEDY) -> Rules:
    """How a model answers. Raises TokenizerError where the tokenizer lacks what it watches."""
    # Of [CLS] the first and the last; the last one's state is judged.
    slots = {SEG_TOKEN: question.mask_slots, CLS_TOKEN: 2}
    watched = tuple(Watched(name, index, slots[name], keep_last=name == CLS_TOKEN)
                    for name, index in tokenizer.ids_of(config.watched).items())
    verdict = None
    if config.verdict_source == WORDS:
        begins = tuple(tokenizer.encode(name, bos=False)[0] for name in config.classes)
        # In a vocabulary of few pieces all words may begin alike, which tells nothing.
        verdict = begins if len(set(begins)) == len(begins) else None
    return Rules(question.max_new_tokens, tokenizer.eos_id, watched,
                 tokenizer.added.get("</p>", NO_TOKEN), verdict, sampling)


def masked_classes(config: LegionConfig) -> frozenset[int] | None:
    """Classes of a verdict on [CLS] whose photos have masks: tampered ones. None: any class."""
    if config.verdict_source != TOKEN:
        return None
    tampered = verdict_classes.class_of(LABELS[TAMPERED], config.classes)
    return frozenset() if tampered is None else frozenset([tampered])


def _region(named: conversation.AnswerRegion, job: Job) -> Region:
    index, mask, score = named.seg_index, None, 0.0
    if index is not None and index < len(job.scores):
        mask, score = _unpack(job.packed[index], job.frame, job.size), float(job.scores[index])
    return Region(named.phrase, named.start, named.end, named.detail, mask, score)


def _unpack(packed: np.ndarray, frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bits of one mask -> bool[H, W]; photos beyond the largest canvas are scaled up to size."""
    mask = regions.unpack_masks(packed)[:frame[0], :frame[1]].astype(bool)
    return mask if mask.shape == tuple(size) else regions.resized(mask, tuple(size))
