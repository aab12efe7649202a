"""A golden case of SIDA: its photos, masks and descriptions, and the sizes its rows depend on."""

import dataclasses
import json
import pathlib

import numpy as np

from input_pipeline.photos import images
from input_pipeline.records.record import REAL, SYNTHETIC, TAMPERED
from input_pipeline.text.dialogue import SIDA
from input_pipeline.text.tokenizer import Tokenizer
from input_pipeline.text.tokenizer_files import ADDED_FILE, as_json
from legion_jax.convert import from_torch
from legion_jax.convert.plan import Options
from tools.verify_case.case import Case, Loaded, load_converted, need, read_noise
from tools.verify_case.comparisons import Stored

NEEDED = ("meta.json", "case.json", "noise.json", "outputs.npz", "checkpoint", "clip", "data",
          "lora_init.npz", "stage2_end_rows.npz")
CLIP_DEFAULTS = {"image_size": 224, "patch_size": 32}  # of what a short config.json leaves out
SAM_SIZE = 1024
TEXT_LIMIT = 512  # positions of a row in the published training
KINDS = {"real": REAL, "full_synthetic": SYNTHETIC, "tampered": TAMPERED}
GROUPS = {"tam": "tampered", "real": "real", "syn": "full_synthetic"}  # batches of one kind each
DESCRIPTION_END = "[END]"  # the token that the second stage of training adds


@dataclasses.dataclass(kw_only=True)
class SidaCase(Case):
    """A case, and what the published code was given.

    Attributes:
        options: sizes of SAM, names of the photos, length of answers, the learning rate.
        image_size: side of the photo the vision tower sees; patches: ids that stand for it.
        text_limit: positions of a row of training.
    """

    options: dict
    image_size: int
    patches: int
    text_limit: int

    def names(self, group: str) -> list[str]:
        """The photos of a batch, by its name in GROUPS."""
        return self.options["names"][GROUPS[group]]

    def kind(self, name: str) -> str:
        """What a photo is, one of KINDS."""
        return next(kind for kind, names in self.options["names"].items() if name in names)

    def photo(self, name: str) -> np.ndarray:
        """A photo, uint8[H, W, 3]."""
        return images.read_image(self.folder / self.meta["images"][name]["file"])

    def soft_mask(self, name: str) -> np.ndarray:
        """What was changed in a photo, 0 to 1, at the size SAM sees it, float32[1, h, w]."""
        height, width = images.sam_size(*self.photo(name).shape[:2], SAM_SIZE)
        if self.kind(name) != "tampered":
            return np.zeros((1, height, width), np.float32)
        grey = images.read_image(self.folder / "data" / "train" / "masks" / f"{name}_mask.png")
        resized = images.sam_image(grey, SAM_SIZE, SAM_SIZE)[0][:height, :width, 0]
        return (resized / 255).astype(np.float32)[None]

    def description(self, name: str) -> str:
        """What is said about a photo beyond its class; empty where nothing is."""
        kind = self.kind(name)
        path = self.folder / "data" / "train" / "description" / f"{kind}_GT.json"
        texts = json.loads(path.read_text()) if path.exists() else {}
        return texts.get(pathlib.PurePath(self.meta["images"][name]["file"]).name, "")

    def stage2_tokenizer(self) -> Tokenizer:
        """The tokenizer with the token that is added last, in the second stage."""
        added = self.tokenizer.added | {DESCRIPTION_END: self.tokenizer.vocab_size}
        return Tokenizer(self.tokenizer.files | {ADDED_FILE: as_json(added)},
                         name=f"{self.tokenizer.name} with {DESCRIPTION_END}")


def open_case(root: pathlib.Path) -> SidaCase:
    """Raises CaseError and, where a file is not what it should be, UserError."""
    need(root, NEEDED)
    options, meta, clip, texts = (json.loads((root / name).read_text()) for name in (
        "case.json", "meta.json", "clip/config.json", "checkpoint/tokenizer_config.json"))
    clip = CLIP_DEFAULTS | clip
    return SidaCase(
        folder=root, meta=meta, options=options, reference=Stored(np.load(root / "outputs.npz")),
        noise=read_noise(root), tokenizer=SIDA.open_tokenizer(root / "checkpoint"),
        load=lambda: _load(root, options), image_size=clip["image_size"],
        patches=(clip["image_size"] // clip["patch_size"]) ** 2,
        text_limit=texts.get("model_max_length", TEXT_LIMIT))


def _load(root: pathlib.Path, options: dict) -> Loaded:
    return load_converted(lambda folder: from_torch.convert(
        str(root / "checkpoint"), folder, clip=str(root / "clip"), progress=False,
        options=Options(sam=options["sam"])).config)
