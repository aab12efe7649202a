"""A golden case of FakeVLM: its records and photos, and the sizes their rows depend on."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from input_pipeline.photos import images
from input_pipeline.records.record import UNKNOWN
from input_pipeline.text.conversation import Encoded, encode_turns
from input_pipeline.text.dialogue import LLAVA15_CHAT
from input_pipeline.text.tokenizer import IMAGE_ID, IMAGE_TOKEN
from legion_jax.convert import from_torch
from tools.verify_case.case import Case, Loaded, load_converted, need, read_noise
from tools.verify_case.comparisons import Stored

NEEDED = ("meta.json", "case.json", "noise.json", "train.json", "extra.json", "outputs.npz",
          "checkpoint", "images")


@dataclasses.dataclass(kw_only=True)
class FakevlmCase(Case):
    """A case, and what the published code was given.

    Attributes:
        options: lengths of rows and answers, and what the training run is like.
        records: the training batch, as the data set has it; extra: records of a batch each.
    """

    options: dict
    records: list[dict]
    extra: list[dict]

    @property
    def patches(self) -> int:
        """Ids that stand for a photo."""
        return self.config.vision.num_patches

    @property
    def verdict_ids(self) -> tuple[int, ...]:
        """The tokens that " real" and " fake" begin with, of which evaluation takes the scores."""
        return tuple(self.meta[f"{word}_ids"][0] for word in ("real", "fake"))

    def photo_path(self, number: int) -> pathlib.Path:
        """The file of the photo of a training record."""
        return self.folder / "images" / f"image_{number}.png"

    def views(self, size: int) -> np.ndarray:
        """The photos of the training batch as CLIP sees them, uint8[B, size, size, 3]."""
        return np.stack([images.clip_image(images.read_image(self.photo_path(number)), size)
                         for number in range(len(self.records))])

    def encoded(self, record: dict, learned: str = "answers") -> Encoded:
        """A record as a row of training, the image being one id; `learned` as of `encode_turns`."""
        dialogue = dataclasses.replace(LLAVA15_CHAT, system=record.get("system_prompt") or "")
        return encode_turns(self.tokenizer, turns_of(record), dialogue=dialogue, learned=learned,
                            length=self.options["model_max_length"], patches=self.patches)

    def batch(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Training batch of records, by their numbers."""
        rows, count = [self.encoded(self.records[number]) for number in numbers], len(numbers)
        return {"vision_image": self.views(self.config.vision.image_size)[list(numbers)],
                "ids": np.stack([row.ids for row in rows]),
                "valid": np.stack([row.valid for row in rows]),
                "loss_mask": np.stack([row.loss_mask for row in rows]),
                "label": np.full(count, UNKNOWN, np.int32),
                "dropped": np.zeros(count, np.int32), "bad": np.zeros(count, np.int32)}

    def expanded(self, ids: np.ndarray, often: int | None = None) -> np.ndarray:
        """`ids` as published: the id of `<image>` once for each patch, or `often`."""
        times = np.where(ids == IMAGE_ID, self.patches if often is None else often, 1)
        image = self.tokenizer.added[IMAGE_TOKEN]
        return np.repeat(np.where(ids == IMAGE_ID, image, ids), times)


def turns_of(record: dict) -> list[tuple[str, str]]:
    """(question, answer) of every turn of a record."""
    said = [turn["value"] for turn in record["conversations"]]
    return list(zip(said[::2], said[1::2], strict=True))


def question_of(record: dict) -> str:
    """What is asked about a photo in evaluation."""
    return turns_of(record)[0][0]


def open_case(root: pathlib.Path) -> FakevlmCase:
    """Raises CaseError and, where a file is not what it should be, UserError."""
    need(root, NEEDED)
    options, meta, records, extra = (json.loads((root / name).read_text()) for name in (
        "case.json", "meta.json", "train.json", "extra.json"))
    return FakevlmCase(
        folder=root, meta=meta, options=options, records=records, extra=extra,
        reference=Stored(np.load(root / "outputs.npz")), noise=read_noise(root),
        tokenizer=LLAVA15_CHAT.open_tokenizer(root / "checkpoint"), load=lambda: _load(root))


def _load(root: pathlib.Path) -> Loaded:
    return load_converted(lambda folder: from_torch.convert(
        str(root / "checkpoint"), folder, progress=False).config)
