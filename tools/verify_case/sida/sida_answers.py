"""Checks of inference: answers, classes and masks by the programs that prediction runs.

Where the prompt itself has a [CLS], the published code takes the class from the last [CLS] and the
query of the fusion from the first, for it looks the row of the photo up among all [CLS]. Prediction
takes both from the last one, the answer's, on which alone the class is trained. The recorded masks
are therefore drawn here from the first [CLS]; those that prediction draws are compared wherever
that makes no difference: where there is no other [CLS], or one mask, whose attention is 1 whatever
the query.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.photos import regions
from input_pipeline.text.conversation import encode_prompt
from input_pipeline.text.dialogue import SIDA
from legion_jax.config import CLS_TOKEN, SEG_TOKEN
from legion_jax.models import mask_frame
from legion_jax.models.legion import token_slots
from legion_jax.predict.prediction import Question
from legion_jax.predict.predictor import answer_rules, masked_classes
from legion_jax.predict.scheduler import Job, Judging
from tools.verify_case.answering import REFILLED, answers, says_nothing
from tools.verify_case.comparisons import FEATURE, Results, unpacked
from tools.verify_case.sida.sida_case import SidaCase
from tools.verify_case.sida.sida_forward import check_low, check_mask


@dataclasses.dataclass(frozen=True)
class Entry:
    """A recorded answer.

    Attributes:
        key: its name in the case; photo: of the photo that was asked about.
        prompt: int[T]; new: int[M], the tokens of the answer; most: how many were allowed.
        published: all that the case says of it.
    """

    key: str
    photo: str
    prompt: np.ndarray
    new: list[int]
    most: int
    published: dict

    @property
    def ids(self) -> np.ndarray:
        """Prompt and answer, int[T + M]."""
        return np.concatenate([self.prompt, self.new]).astype(np.int32)


def check_answers(case: SidaCase, results: Results) -> None:
    """All recorded answers, and what each step computed."""
    entries = [_entry(case, key, published) for key, published in case.meta["eval"].items()]
    together: dict[tuple, list[Entry]] = {}
    for entry in entries:
        together.setdefault((entry.most, *entry.prompt.tolist()), []).append(entry)
    for alike in together.values():
        _check_predicted(case, results, alike)
    length = max(len(entry.ids) for entry in entries)
    for entry in entries:
        _check_steps(case, results, entry, length)


def _entry(case, key, published):
    prompt = encode_prompt(case.tokenizer, published["question"], dialogue=SIDA)
    return Entry(key, published["image"], prompt, published["new_ids"],
                 published["max_new_tokens"], published)


def _check_predicted(case, results, entries):
    """Tokens, classes and masks of answers to one prompt, also in a place that was used."""
    photos = [entry.photo for entry in entries]
    others = [name for names in case.options["names"].values() for name in names
              if name not in photos]
    asked = [*photos, *others[:max(0, 2 - len(photos))], photos[0]]
    jobs = _answer(case, entries[0], asked)
    for job, entry in zip(jobs[:len(entries)], entries, strict=True):
        _check_job(case, results, job, entry, "")
    _check_job(case, results, jobs[-1], entries[0], f" {REFILLED}")


def _answer(case: SidaCase, entry: Entry, photos: list[str]) -> list[Job]:
    slots = max(entry.new.count(case.tokenizer.added[SEG_TOKEN]), 1) + 1  # one more would be seen
    rules = answer_rules(case.config, case.tokenizer, Question(
        max_new_tokens=entry.most, mask_slots=slots, dialogue=SIDA.name))
    judging = Judging(case.config.verdict_source, real=0, masked=masked_classes(case.config),
                      read_words=says_nothing)

    def job_of(key, name):
        views = {field: array[0] for field, array in case.views([name]).items()}
        del views["original_size"]
        size = case.photo(name).shape[:2]
        return Job(key, size, key, views, np.array(size, np.int32))

    return answers(case, entry.prompt, photos, rules=rules, judging=judging, job_of=job_of)


def _check_job(case, results, job, entry, suffix):
    name, published, reference = f"eval_{entry.key}", entry.published, case.reference
    ids = np.concatenate([entry.prompt, job.tokens])[None]
    results.equal(f"{name}_output_ids{suffix}", ids, reference[f"{name}_output_ids"])
    results.equal(f"{name} n_cls{suffix}", job.counts[CLS_TOKEN], published.get("n_cls", 0))
    predicted = None if job.logits is None else int(job.logits.argmax())
    results.equal(f"{name} predicted_class{suffix}", str(predicted),
                  str(published["predicted_class"]))
    if predicted is None:
        return
    results.of_largest(f"{name}_cls_logits{suffix}", job.logits,
                       reference[f"{name}_cls_logits"][-1], tolerance=FEATURE)
    has_masks = predicted in masked_classes(case.config)
    shapes = [[job.counts[SEG_TOKEN], *job.size]] if has_masks else []
    results.equal(f"{name} mask_shapes{suffix}", str(shapes), str(published["mask_shapes"]))
    results.equal(f"{name} drawn{suffix}", job.packed is not None,
                  has_masks and job.counts[SEG_TOKEN] > 0)
    one_query = job.counts[CLS_TOKEN] == 1 or job.counts[SEG_TOKEN] == 1
    if job.packed is not None and one_query:
        bits = regions.unpack_masks(job.packed)[..., :job.size[1]]
        results.signs(f"{name} masks as predicted{suffix}", bits, _masks(case, name))


def _masks(case, name):
    return unpacked(case.reference, f"{name}_bits", f"{name}_mask0_shape")


def _check_steps(case, results, entry, length):
    """Logits of every step, classes, prompts and masks, from one uncached pass over the answer."""
    name, ids = f"eval_{entry.key}", entry.ids
    fed = ids[:-1]  # the last token is never fed
    padding = (0, length - len(fed))
    views = case.views([entry.photo])
    states, logits = (np.asarray(x)[0] for x in case.compute(
        _read, np.pad(fed, padding)[None], np.pad(np.ones(len(fed), bool), padding)[None],
        views["vision_image"], image_index=case.image_index(ids[None])))
    first = len(entry.prompt) + case.patches - 2  # what predicts the first token of the answer
    logits = logits[first:first + len(entry.new), :case.config.language.vocab]
    results.of_largest(f"{name}_step_lse", jax.nn.logsumexp(jnp.asarray(logits), -1),
                       tolerance=FEATURE)
    results.of_largest(f"{name}_step_top2", np.sort(logits, axis=-1)[:, :-3:-1], tolerance=FEATURE)
    if f"{name}_cls_logits" not in case.reference:
        return
    at_cls, at_seg = (_places(case, ids, token) for token in (CLS_TOKEN, SEG_TOKEN))
    classes = case.compute(_judge, states[at_cls])
    results.of_largest(f"{name}_cls_logits", classes, tolerance=FEATURE)
    if f"{name}_fused_embeddings" in case.reference:
        views["original_size"] = np.array([case.photo(entry.photo).shape[:2]], np.int32)
        _check_masks(case, results, entry, views, states[at_seg], np.asarray(classes)[:1])


def _places(case, ids, token):
    """Positions of the states that predict a token, int[n]."""
    number = case.tokenizer.added[token]
    count = int((ids == number).sum())
    return np.asarray(token_slots(ids[None], number, max(count, 1), case.patches)[0])[0, :count]


def _read(model, ids, valid, image, *, image_index):
    """States and logits of a text that may have padding at its end."""
    x = model.embed(ids, model.see(image), image_index)
    padding = jnp.ones((len(ids), x.shape[1] - ids.shape[1]), bool)
    states = model.read(x, jnp.concatenate([padding, valid], axis=1))
    return states, model.language.logits(states)


def _judge(model, states):
    return model.judge(states)


def _check_masks(case, results, entry, views, states, query):
    """Prompts and masks of states [K, D] that predict a [SEG]; `query`: the fusion's logits."""
    name, slots = f"eval_{entry.key}", max(len(states), 1)
    valid = (np.arange(slots) < len(states))[None]
    states = np.pad(states, ((0, slots - len(states)), (0, 0)))[None]
    fused, low, framed = (np.asarray(x)[valid] for x in case.compute(
        _draw, states, query, valid, case.embeddings([entry.photo]), views["resized_size"],
        views["original_size"], canvas=case.canvas))
    height, width = views["original_size"][0]
    framed = framed[:, :height, :width]
    results.of_largest(f"{name}_fused_embeddings", fused, tolerance=FEATURE)
    check_low(results, f"{name}_low0", low)
    check_mask(case, results, f"{name}_mask0", framed)
    results.signs(f"{name}_bits", framed > 0, _masks(case, name))


def _draw(model, states, query, valid, embedding, resized, original, *, canvas):
    """Fused prompts, and masks as the decoder draws them and in the frame of the photo."""
    fused = model.fuse(model.prompt(states), query, valid)
    low, _ = model.draw(embedding, fused)
    return fused, low, mask_frame.to_frame(low, resized, original, canvas=canvas,
                                           sam_size=model.config.sam.image_size)
