"""A golden case of LEGION: its arrays, its model in float32, and the batches they describe."""

import dataclasses
import json
import pathlib
import tempfile

import numpy as np

from input_pipeline.photos import images, regions
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax.convert import from_torch
from legion_jax.convert.plan import Options
from legion_jax.weights.checkpoint_error import read_json
from tools.verify_case import slim
from tools.verify_case.case import Case, load_float32, need
from tools.verify_case.comparisons import Stored, unpacked

NEEDED = ("meta.json", "inputs.npz", "outputs.npz", "checkpoint", "clip")


@dataclasses.dataclass(kw_only=True)
class LegionCase(Case):
    """A case, and what the published code computed it from: `inputs`."""

    inputs: Stored

    @property
    def stored(self) -> tuple[Stored, ...]:
        return self.reference, self.inputs

    @property
    def seen_photos(self) -> list[int]:
        """Numbers of the photos whose way through CLIP is recorded."""
        return list(range(len(self.reference["projector_stats"])))

    def loss_weights(self) -> dict[str, float]:
        """Weights of the loss terms in the case's training."""
        weights = self.meta["loss_weights"]
        return {name: weights[name] for name in ("ce", "bce", "dice")} | {"verdict": 0.0}

    def image(self, number: int) -> np.ndarray:
        """A photo of the case, uint8[H, W, 3]."""
        return images.read_image(self.folder / "images" / f"image_{number}.png")

    def canvas(self) -> int:
        """Side of the smallest canvas all photos fit on, a multiple of 8."""
        sides = self.inputs["train_orig_sizes"].ravel().tolist()
        sides += [s for i in range(len(self.meta["eval"]))
                  for s in self.inputs[f"eval{i}_orig_sizes"].ravel().tolist()]
        return -(-max(sides) // 8) * 8

    def photos(self, numbers: list[int], longest: int) -> dict[str, np.ndarray]:
        """Image fields of a batch, prepared by our own pipeline."""
        fields = {"vision_image": [], "sam_image": [], "resized_size": [], "original_size": []}
        for number in numbers:
            photo = self.image(number)
            sam, resized = images.sam_image(photo, longest, self.config.sam.image_size)
            fields["vision_image"].append(images.clip_image(photo, self.config.vision.image_size))
            fields["sam_image"].append(sam)
            fields["resized_size"].append(np.array(resized, np.int32))
            fields["original_size"].append(np.array(photo.shape[:2], np.int32))
        return {key: np.stack(value) for key, value in fields.items()}

    def gt_masks(self, number: int) -> np.ndarray:
        """Ground truth of a training sample, uint8[N, H, W]."""
        return unpacked(self.inputs, f"train_gt_masks_{number}")

    def batch(self, name: str, numbers: list[int], masks: list[np.ndarray]) -> dict:
        """Training batch from the ids `{name}_input_ids`, photos and masks per row.

        Texts that are shorter than those of training are padded to their length, as in training:
        batches that differ in nothing else share a program.
        """
        length = self.inputs["train_input_ids"].shape[1]

        def padded(array):
            return np.pad(array, ((0, 0), (0, max(0, length - array.shape[1]))))

        labels = self.inputs[f"{name}_labels"]
        slots = max((len(m) for m in masks), default=1) or 1
        packed, valid = zip(*(
            regions.place_bits(regions.mask_to_bits(m), slots, self.canvas()) for m in masks),
            strict=True)
        rows = len(numbers)
        return self.photos(numbers, self.meta["train_image_size"]) | {
            "ids": padded(self.inputs[f"{name}_input_ids"].astype(np.int32)),
            "valid": padded(self.inputs[f"{name}_attention_masks"]),
            "loss_mask": padded(labels != self.meta["ignore_index"]),
            "masks": np.stack(packed), "mask_valid": np.stack(valid),
            "label": np.full(rows, -1, np.int32), "dropped": np.zeros(rows, np.int32)}

    def train_batch(self) -> dict:
        """The batch of all training samples."""
        rows = range(len(self.inputs["train_input_ids"]))
        return self.batch("train", list(rows), [self.gt_masks(i) for i in rows])


def open_case(root: pathlib.Path) -> LegionCase:
    """Convert the case's checkpoint and load it in float32. Raises CaseError, CheckpointError."""
    need(root, NEEDED)
    left_out = slim.left_out(root)
    sam = root / "sam" / "sam_config.json"
    head = root / "cls"
    with tempfile.TemporaryDirectory() as scratch:
        converted = f"{scratch}/model"
        config = from_torch.convert(
            str(root / "checkpoint"), converted, clip=str(root / "clip"), progress=False,
            head=str(head) if head.exists() else None,
            options=Options(sam=read_json(sam) if sam.exists() else None)).config
        loaded = load_float32(converted, config)
        tokenizer = Tokenizer.from_folder(f"{converted}/tokenizer")
    return LegionCase(
        folder=root, meta=json.loads((root / "meta.json").read_text()),
        inputs=Stored(np.load(root / "inputs.npz"), left_out["inputs.npz"]),
        reference=Stored(np.load(root / "outputs.npz"), left_out["outputs.npz"]),
        left_out_files=left_out["files"], tokenizer=tokenizer, load=lambda: loaded)
