"""The plain way: a torch Dataset that prepares whole float32 inputs, for a DataLoader.

Per photo the work of the published loader (PIL in place of OpenCV): decode, both resizes,
normalise and pad in float32, masks at full resolution. The records, the tokenizer and the slots are
those of our pipeline, so that both do the same job.
"""

import io
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

from input_pipeline.batches import examples
from input_pipeline.batches.examples import ExampleSpec
from input_pipeline.records import prepared
from input_pipeline.records.record import Region
from input_pipeline.text import conversation
from input_pipeline.text.tokenizer import Tokenizer

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
SAM_MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
SAM_STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)


def decode(content: bytes) -> Image.Image:
    """The photo as a viewer shows it."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")


def clip_pixels(photo: Image.Image, size: int) -> np.ndarray:
    """uint8[size, size, 3]: short side resized, bicubic, centre crop."""
    short, long = min(photo.size), max(photo.size)
    other = int(size * long / short)
    width, height = (other, size) if photo.width > photo.height else (size, other)
    resized = np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - size) // 2, (width - size) // 2
    return resized[top:top + size, left:left + size]


def clip_tensor(photo: Image.Image, size: int) -> np.ndarray:
    """float32[3, size, size], normalised."""
    pixels = clip_pixels(photo, size).astype(np.float32) * np.float32(1 / 255)
    return np.ascontiguousarray(((pixels - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1))


def sam_tensor(photo: Image.Image, longest: int, canvas: int) -> torch.Tensor:
    """float32[3, canvas, canvas]: longest side resized, normalised, padded with zeros."""
    scale = longest / max(photo.size)
    width, height = (int(side * scale + 0.5) for side in photo.size)
    resized = np.array(photo.resize((width, height), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(resized).permute(2, 0, 1).contiguous()
    pixels = (pixels - SAM_MEAN) / SAM_STD
    return torch.nn.functional.pad(pixels, (0, canvas - width, 0, canvas - height))


class PlainDataset(torch.utils.data.Dataset):
    """One record -> one dict of float32 tensors, masks and padded ids; see the module."""

    def __init__(self, data_dir: str, split: str, tokenizer: Tokenizer, spec: ExampleSpec):
        """The folder is opened in the worker that reads it."""
        self._data_dir, self._split, self._source = data_dir, split, None
        self._tokenizer, self._spec = tokenizer, spec

    def __getitem__(self, index: int) -> dict:
        if self._source is None:
            self._source = prepared.open_split(self._data_dir, self._split)
        spec, record = self._spec, self._source[index]
        photo = decode(record.image)
        *size, scale = examples.frame_size(photo.height, photo.width, spec.mask_canvas)
        chosen = sorted((region for region in record.regions if region.start >= 0),
                        key=lambda region: region.start)[:spec.mask_slots]
        masks = np.zeros((spec.mask_slots, spec.mask_canvas, spec.mask_canvas), np.uint8)
        for slot, region in enumerate(chosen):
            masks[slot, :size[0], :size[1]] = mask(region, tuple(size), scale)
        answer = examples.answer_of(record, [(region.start, region.end) for region in chosen], spec)
        text = conversation.encode_example(
            self._tokenizer, examples.question_of(record, spec), answer, length=spec.text_length)
        return {"clip": clip_tensor(photo, spec.vision.size),
                "sam": sam_tensor(photo, spec.sam.longest, spec.sam.canvas),
                "masks": masks, "mask_valid": np.arange(spec.mask_slots) < len(chosen),
                "ids": text.ids, "valid": text.valid, "loss_mask": text.loss_mask,
                "size": np.array(size, np.int32)}


class Turns(torch.utils.data.Sampler):
    """Indices of one turn after another: `count` of them each, shuffled, without end."""

    def __init__(self, records: int):
        self.count, self._records, self._rng = 0, records, np.random.default_rng(0)

    def __iter__(self) -> Iterator[int]:
        yield from self._rng.integers(self._records, size=self.count).tolist()


def mask(region: Region, size: tuple[int, int], scale: float) -> np.ndarray:
    """A region in a frame of `size`, uint8[H, W]."""
    if region.mask:
        return region.pixels(size, scale)
    codes = coco_mask.frPyObjects([[v * scale for v in p] for p in region.polygons], *size)
    return coco_mask.decode(coco_mask.merge(codes))
