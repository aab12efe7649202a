"""Scores of a model that is given the true answer, as the published evaluation of SIDA counts them.

The answer, with its class and its [SEG], stands in the input. The class is read at its [CLS] and
the mask at its [SEG], so a model that would say neither is right all the same, and a photo has a
mask where it is tampered and nowhere else. Beside the scores of answers that the model writes, for
comparison with figures that were published.

Masks are compared in the size of the photo as SAM sees it, where true ones are grey at their
borders: of these only what is wholly white counts.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.batches import examples, loader
from input_pipeline.errors import UserError
from input_pipeline.photos import images, perturbations
from input_pipeline.records import verdict_classes
from input_pipeline.records.record import LABELS, UNKNOWN, Record
from input_pipeline.text import conversation
from input_pipeline.text.dialogue import dialogue_named
from legion_jax import sharding
from legion_jax.config import TOKEN
from legion_jax.evaluate import class_scores, weighted
from legion_jax.evaluate.photo_rows import Source
from legion_jax.evaluate.settings import SIDA, Settings
from legion_jax.models import mask_frame, param_tree
from legion_jax.models.layers import numerics
from legion_jax.models.reading import Reading, framed_masks, read_text, see, verdict_logits
from legion_jax.predict.prediction import Question
from legion_jax.predict.predictor import Predictor
from legion_jax.weights.checkpoint import Checkpoint

WHITE = 255
STEP = 64  # texts are padded to a multiple of so many ids, each of which is compiled once
OF_MASKS = ("original_size", "masks", "mask_valid", "sam_image", "resized_size")


def check(checkpoint: Checkpoint, question: Question) -> None:
    """Raise UserError, naming what is missing, of a system that has no [CLS] and [SEG] to read."""
    config, dialogue = checkpoint.meta.config, dialogue_named(question.dialogue)
    reason = ""
    if config.verdict_source != TOKEN or config.sam is None:
        reason = (f"has not both (config.verdict.source is {config.verdict_source!r}, SAM is "
                  f"{'not there' if config.sam is None else 'there'})")
    elif missing := [token for token in config.watched if not dialogue.says(token)]:
        reason = f"is asked in the dialogue {dialogue.name}, whose answers have no {missing[0]}"
    if reason:
        raise UserError(f"--compat={SIDA}: reads verdicts at [CLS] and masks at [SEG] of true "
                        f"answers, but {checkpoint.folder} {reason}")


class TeacherForced:
    """A predictor's model and question, with the answers given."""

    def __init__(self, predictor: Predictor):
        """The parameters are those that the predictor answers with."""
        p = self._predictor = predictor
        dialogue, canvas = p.spec.dialogue, -(-p.longest // 8) * 8
        slots = p.spec.mask_slots if dialogue.masks_phrases else max(
            dialogue.photo_masks(label) for label, _ in dialogue.openings)
        self._spec = dataclasses.replace(p.spec, mask_canvas=canvas, mask_slots=slots,
                                         soft_masks=True)
        prompt = conversation.encode_prompt(p.tokenizer, p.question.instruction,
                                            dialogue=dialogue)
        model = param_tree.abstract_model(p.config, int8=p.int8)
        graph = param_tree.split_params(model, param_tree.EVERYTHING)[0]
        reading = Reading(conversation.image_index(prompt), p.tokenizer.ids_of(p.config.watched))
        self._read = jax.jit(functools.partial(_read, graph, reading=reading))

    def added(self, answered: Iterable[tuple[int, dict]], source: Source,
              settings: Settings) -> Iterator[tuple[int, dict]]:
        """The rows of an evaluation with what the model makes of true answers, as `forced`.

        Args:
            answered: (number, row) of records of `source`, as of `photo_rows.predicted`.
            settings: with which they were made.

        Yields (number, row), each once, as batches become full; `forced` is
        {verdict, logits: as of `Predictor.verdict_logits`, overlaps: [pixels of both masks, of
        either] for each true mask, left_out: why there is nothing of all this, or None}.
        """
        waiting: dict[tuple, list] = {}
        for number, row in answered:
            try:
                example = self._example(source, number, row, settings)
            except UserError as error:
                yield number, row | {"forced": _forced(left_out=str(error))}
                continue
            shapes = tuple(array.shape for array in example.values())
            group = waiting.setdefault((*example, *shapes), [])
            group.append((number, row, example))
            if len(group) == self._predictor.group:
                yield from self._finished(group)
                group.clear()
        for group in filter(None, waiting.values()):
            yield from self._finished(group)

    def _example(self, source: Source, number: int, row: dict,
                 settings: Settings) -> dict[str, np.ndarray]:
        """The training example of a record, without what only masks need where it has none.

        Raises UserError for a record that makes none, with a sentence that says why.
        """
        if row["failed"]:
            raise UserError(row["failed"])
        if row["label"] == UNKNOWN:
            raise UserError("its label is unknown, and so is the true answer")
        _, own_number, records = source.at(number)
        record, tokenizer = records[own_number], self._predictor.tokenizer
        length = examples.text_length(record, tokenizer, self._spec)
        example = examples.training_example(tokenizer, self._spec, record,
                                            -(-length // STEP) * STEP)
        if settings.perturbation:
            example |= examples.image_fields(_damaged(record, settings), self._spec)
        if not example["mask_valid"].any():
            example = {name: array for name, array in example.items() if name not in OF_MASKS}
        return example

    def _finished(self, group: Sequence[tuple[int, dict, dict]]) -> Iterator[tuple[int, dict]]:
        p = self._predictor
        [(rows, _)] = loader.padded_batches([example for *_, example in group], p.group)
        batch = {name: self._put(array) for name, array in loader.stack(rows).items()}
        with jax.set_mesh(p.mesh):
            logits, overlaps = jax.device_get(self._read(p.params, batch))
        for place, (number, row, example) in enumerate(group):
            valid = example.get("mask_valid", np.zeros(0, bool))
            yield number, row | {"forced": _forced(
                verdict=p.config.classes[int(logits[place].argmax())],
                logits=logits[place].tolist(),
                overlaps=[] if overlaps is None else overlaps[place][valid].tolist())}

    def _put(self, rows: np.ndarray) -> jax.Array:
        mesh = self._predictor.mesh
        return jax.device_put(rows, jax.sharding.NamedSharding(
            mesh, sharding.fit(sharding.P(sharding.BATCH), rows.shape, mesh)))


def _damaged(record: Record, settings: Settings) -> np.ndarray:
    return perturbations.perturb(images.read_image(record.image, name=record.id),
                                 settings.perturbation, settings.level, record_id=record.id)


def _forced(*, verdict: str | None = None, logits: Sequence[float] = (),
            overlaps: Sequence[Sequence[int]] = (), left_out: str | None = None) -> dict:
    return {"verdict": verdict, "logits": list(logits), "overlaps": list(overlaps),
            "left_out": left_out}


def _read(graph, params, batch, *, reading):
    """Verdict logits float32[B, classes]; pixels of both masks and of either, int32[B, K, 2], or
    None of a batch without masks.
    """
    model = param_tree.merge(graph, params)
    with numerics(model.config):
        seen = see(model, batch)
        states = read_text(model, batch, seen, reading.image_index)
        logits, _ = verdict_logits(model, batch, seen, states, reading)
        if "masks" not in batch:
            return logits, None
        framed, _ = framed_masks(model, batch, states, reading, logits)
        photo = mask_frame.inside(batch["original_size"], framed.shape[-1])[:, None]
        drawn, true = (framed > 0) & photo, (batch["masks"] == WHITE) & photo
        return logits, jnp.stack([(drawn & true).sum((-2, -1)), (drawn | true).sum((-2, -1))], -1)


def block(rows: Sequence[dict]) -> dict:
    """The published numbers of N rows, {} of an evaluation without them.

    Returns:
        A tree of `weighted` over the rows:
        classes: as of `class_scores.scores`, with `confusion`; its accuracy is the published one,
            and the recall of a class that class's accuracy.
        giou: mean over true masks of the IoU, 1 where neither mask has a pixel; ciou: of the pixels
            of all masks counted together; pixel_accuracy: ciou in per cent.
        f1: harmonic mean of ciou and the accuracy of classes. auc: product of the mean precision
            and the mean recall of the classes.
        num: photos; num_masks: true masks; num_left_out: photos without a number, for want of a
            label, a class of their label, or a photo that can be read.
    """
    classes = class_scores.classes_of(rows)
    own = {number: verdict_classes.class_of(label, classes) for number, label in LABELS.items()
           if classes and number != UNKNOWN}
    read = [k for k, row in enumerate(rows) if (row.get("forced") or {}).get("verdict") is not None
            and own.get(row["label"]) is not None]
    if not read:
        return {}
    truth = np.array([own[rows[k]["label"]] for k in read])
    given = np.array([class_scores.index_of(rows[k]["forced"]["verdict"], classes) for k in read])
    scores = class_scores.scores(truth, given, classes)
    masks = _masks([rows[k]["forced"]["overlaps"] for k in read])
    numbers = np.array(read)
    return weighted.among(numbers, {
        "giou": masks["giou"], "ciou": masks["ciou"],
        "pixel_accuracy": lambda draws: 100 * masks["ciou"](draws),
        "f1": _harmonic(masks["ciou"], scores["accuracy"]), "auc": _published_auc(scores),
        "classes": scores | {"num": len(read), "confusion": class_scores.confusion(
            [LABELS[rows[k]["label"]] for k in read], given, classes)}}) | {
        "num": len(read), "num_masks": masks["num"], "num_left_out": len(rows) - len(read)}


def _masks(overlaps: Sequence[Sequence[Sequence[int]]]) -> dict:
    """giou, ciou and the number of masks; `overlaps`: for each photo those of its masks."""
    both, either, iou, count = (np.array(column, np.float64) for column in zip(*(
        (sum(i for i, _ in photo), sum(u for _, u in photo),
         sum(i / u if u else 1.0 for i, u in photo), len(photo)) for photo in overlaps),
        strict=True))
    return {"giou": lambda draws: weighted.ratio(draws @ iou, draws @ count),
            "ciou": lambda draws: weighted.ratio(draws @ both, draws @ either),
            "num": int(count.sum())}


def _harmonic(a: weighted.Score, b: weighted.Score) -> weighted.Score:
    def score(draws: np.ndarray) -> np.ndarray:
        first, second = a(draws), b(draws)
        return weighted.ratio(2 * first * second, first + second)
    return score


def _published_auc(scores: dict) -> weighted.Score:
    """What SIDA's code calls AUC."""
    def score(draws: np.ndarray) -> np.ndarray:
        means = [np.mean([one[key](draws) for one in scores["by_class"].values()], axis=0)
                 for key in ("precision", "recall")]
        return means[0] * means[1]
    return score
