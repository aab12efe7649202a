"""The batches of a case: conversations of both stages of training, and what is drawn for them."""

import dataclasses

import numpy as np

from input_pipeline.records.record import LABELS
from input_pipeline.text.conversation import encode_turns
from input_pipeline.text.dialogue import SIDA, SIDA_DESCRIBED
from legion_jax.config import SEG_TOKEN
from tools.verify_case.case import CaseError
from tools.verify_case.sida.sida_case import GROUPS, KINDS, SAM_SIZE, SidaCase

DIALOGUES = {"stage1": SIDA, "stage2": SIDA_DESCRIBED}  # of the stages of training
TWO_MASKS = "twoseg"  # the tampered pair, of which one answer asks for two masks


@dataclasses.dataclass(frozen=True)
class Batch:
    """What the published code was given at once.

    Attributes:
        stage: one of DIALOGUES, whose vocabulary it is read with.
        names: of the photos, all of one kind.
        turns: (question, answer) about each.
        learned: whether the answer is.
    """

    stage: str
    names: list[str]
    turns: list[tuple[str, str]]
    learned: list[bool]


def of_stage(case: SidaCase, stage: str, group: str) -> Batch:
    """A batch of one of DIALOGUES and one of GROUPS."""
    names, dialogue = case.names(group), DIALOGUES[stage]
    label = LABELS[KINDS[GROUPS[group]]]
    turns = [(dialogue.instruction, dialogue.answer_to(label, case.description(name)))
             for name in names]
    return Batch(stage, names, turns, [dialogue.describes(case.description(name))
                                       for name in names])


def of_two_masks(case: SidaCase) -> Batch:
    """The batch TWO_MASKS, whose conversations no data set has."""
    names = case.names("tam")
    turns = [split(text) for text in case.meta["conversations"][TWO_MASKS]]
    return Batch("stage1", names, turns, [False] * len(names))


def batches(case: SidaCase) -> dict[str, Batch]:
    """{name: batch} of all."""
    return {f"{stage}_{group}": of_stage(case, stage, group)
            for stage in DIALOGUES for group in GROUPS} | {TWO_MASKS: of_two_masks(case)}


def split(conversation: str) -> tuple[str, str]:
    """(question, answer) of a conversation, without what SIDA writes around them."""
    question, _, answer = conversation.removesuffix(SIDA.stop).partition(" ASSISTANT: ")
    return question.partition("<im_end>\n")[2], answer


def in_stage(case: SidaCase, stage: str) -> SidaCase:
    """The case with the vocabulary of a stage."""
    return case.stage2 if stage == "stage2" else case


def rows(case: SidaCase, batch: Batch, limit: int | None = None) -> dict[str, np.ndarray]:
    """ids, valid and loss_mask of a batch, as long as the longest of its rows.

    `limit`: positions of a row, by default as many as the case allows.
    """
    tokenizer = in_stage(case, batch.stage).tokenizer
    encoded = [encode_turns(tokenizer, [turn], length=limit or case.text_limit, dialogue=SIDA,
                            patches=case.patches, learned="answers" if learns else "nothing")
               for turn, learns in zip(batch.turns, batch.learned, strict=True)]
    longest = max(row.valid.sum() for row in encoded)
    return {field: np.stack([getattr(row, field)[:longest] for row in encoded])
            for field in ("ids", "valid", "loss_mask")}


def labels(case: SidaCase, batch: Batch) -> np.ndarray:
    """Of the photos, int32[B]."""
    return np.array([KINDS[case.kind(name)] for name in batch.names], np.int32)


def inputs(case: SidaCase, batch: Batch) -> dict[str, np.ndarray]:
    """A batch as the losses take it, its photos seen by SAM's encoder already.

    All batches of a stage have one length and as many slots for masks, so they share programs.
    """
    alike = [each for each in batches(case).values() if each.stage == batch.stage]
    texts = rows(case, batch)
    padding = max(rows(case, each)["ids"].shape[1] for each in alike) - texts["ids"].shape[1]
    texts = {name: np.pad(array, ((0, 0), (0, padding))) for name, array in texts.items()}
    masks = [_masks(case, name, answer.count(SEG_TOKEN))
             for name, (_, answer) in zip(batch.names, batch.turns, strict=True)]
    slots = max(answer.count(SEG_TOKEN) for each in alike for _, answer in each.turns)
    placed = np.zeros((len(masks), slots, SAM_SIZE, SAM_SIZE), np.uint8)
    valid = np.zeros((len(masks), slots), bool)
    for row, of_photo in enumerate(masks):
        for slot, mask in enumerate(of_photo):
            placed[row, slot, :mask.shape[0], :mask.shape[1]] = mask
            valid[row, slot] = True
    seen = case.views(batch.names)
    del seen["sam_image"]
    count = len(batch.names)
    return seen | texts | {
        "sam_embedding": case.embeddings(batch.names), "masks": placed, "mask_valid": valid,
        "label": labels(case, batch), "dropped": np.zeros(count, np.int32),
        "bad": np.zeros(count, np.int32)}


def _masks(case: SidaCase, name: str, number: int) -> list[np.ndarray]:
    """Ground truth of a photo: of two masks the second is the first in a mirror."""
    mask = case.soft_mask(name)
    if number > 2:
        raise CaseError(f"{case.folder}: {name}: {number} masks in an answer, 2 at most are known")
    return [mask, mask[:, ::-1]][:number]
