"""A golden case of SIDA: its photos, masks and descriptions, and the sizes its rows depend on."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from input_pipeline.photos import images
from input_pipeline.records.record import REAL, SYNTHETIC, TAMPERED
from input_pipeline.text.dialogue import SIDA
from input_pipeline.text.tokenizer import Tokenizer
from input_pipeline.text.tokenizer_files import ADDED_FILE, as_json
from legion_jax.convert import from_torch
from legion_jax.convert.plan import Options
from legion_jax.models import param_tree
from legion_jax.models.legion import Legion
from tools.verify_case.case import Case, Loaded, load_converted, need, read_noise
from tools.verify_case.comparisons import Stored

NEEDED = ("meta.json", "case.json", "noise.json", "outputs.npz", "checkpoint", "clip", "data",
          "lora_init.npz", "stage2_end_rows.npz")
SAM_SIZE = 1024
DECODER_HEADS = 8  # of SAM, whatever its width
TEXT_LIMIT = 512  # positions of a row in the published training
KINDS = {"real": REAL, "full_synthetic": SYNTHETIC, "tampered": TAMPERED}
GROUPS = {"tam": "tampered", "real": "real", "syn": "full_synthetic"}  # batches of one kind each
DESCRIPTION_END = "[END]"  # the token that the second stage of training adds


@dataclasses.dataclass(kw_only=True)
class SidaCase(Case):
    """A case, and what the published code was given.

    Attributes:
        options: sizes of SAM, names of the photos, length of answers, the learning rate.
        text_limit: positions of a row of training.
        seen: what `embeddings` has made.
    """

    options: dict
    text_limit: int
    seen: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def patches(self) -> int:
        """Positions that a photo takes in a row."""
        return self.config.vision.num_patches

    @property
    def canvas(self) -> int:
        """Side of a frame with room for every photo, px."""
        return max(side for photo in self.meta["images"].values() for side in photo["original_hw"])

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
        """What was changed in a photo, 0 to 255, at the size SAM sees it, uint8[h, w]."""
        height, width = images.sam_size(*self.photo(name).shape[:2], SAM_SIZE)
        if self.kind(name) != "tampered":
            return np.zeros((height, width), np.uint8)
        grey = images.read_image(self.folder / "data" / "train" / "masks" / f"{name}_mask.png")
        return images.sam_image(grey, SAM_SIZE, SAM_SIZE)[0][:height, :width, 0]

    def views(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """What the towers see of photos, and the frame of training: the photo as SAM sees it."""
        fields = {"vision_image": [], "sam_image": [], "resized_size": []}
        for name in names:
            photo = self.photo(name)
            sam, size = images.sam_image(photo, SAM_SIZE, SAM_SIZE)
            fields["vision_image"].append(images.clip_image(photo, self.config.vision.image_size))
            fields["sam_image"].append(sam)
            fields["resized_size"].append(np.array(size, np.int32))
        arrays = {name: np.stack(values) for name, values in fields.items()}
        return arrays | {"original_size": arrays["resized_size"]}

    def embeddings(self, names: Sequence[str]) -> np.ndarray:
        """What SAM's encoder, which is never trained, makes of photos, float32[B, Y, X, D]."""
        if missing := [name for name in names if name not in self.seen]:
            views = self.views(missing)
            made = self.compute(Legion.ground, views["sam_image"], views["resized_size"])
            self.seen |= dict(zip(missing, np.asarray(made), strict=True))
        return np.stack([self.seen[name] for name in names])

    def description(self, name: str) -> str:
        """What is said about a photo beyond its class; empty where nothing is."""
        kind = self.kind(name)
        path = self.folder / "data" / "train" / "description" / f"{kind}_GT.json"
        texts = json.loads(path.read_text()) if path.exists() else {}
        return texts.get(pathlib.PurePath(self.meta["images"][name]["file"]).name, "")

    @functools.cached_property
    def stage2(self) -> "SidaCase":
        """The case with the token that the second stage of training adds, and its recorded rows."""
        if DESCRIPTION_END in self.tokenizer.added:
            return self
        vocab = self.tokenizer.vocab_size
        added = self.tokenizer.added | {DESCRIPTION_END: vocab}
        tokenizer = Tokenizer(self.tokenizer.files | {ADDED_FILE: as_json(added)},
                              name=f"{self.tokenizer.name} with {DESCRIPTION_END}")
        return dataclasses.replace(self, tokenizer=tokenizer, load=self._load_stage2)

    def _load_stage2(self) -> Loaded:
        rows, language = np.load(self.folder / "stage2_end_rows.npz"), self.config.language
        config = dataclasses.replace(
            self.config, language=dataclasses.replace(language, vocab=language.vocab + 1))
        flat = param_tree.flatten(self.params)
        for path, name in (("embed/embedding", "embed_tokens"), ("head/kernel", "lm_head")):
            matrix = np.asarray(flat[f"language/{path}"])
            matrix = matrix.T if name == "lm_head" else matrix
            wider = np.zeros((config.language.padded_vocab, language.width), np.float32)
            wider[:language.vocab] = matrix[:language.vocab]
            wider[language.vocab] = rows[name]
            flat[f"language/{path}"] = jnp.asarray(wider.T if name == "lm_head" else wider)
        return Loaded.of(config, flat)


def open_case(root: pathlib.Path) -> SidaCase:
    """Raises CaseError and, where a file is not what it should be, UserError."""
    need(root, NEEDED)
    options, meta, texts = (json.loads((root / name).read_text()) for name in (
        "case.json", "meta.json", "checkpoint/tokenizer_config.json"))
    return SidaCase(
        folder=root, meta=meta, options=options, reference=Stored(np.load(root / "outputs.npz")),
        noise=read_noise(root), tokenizer=SIDA.open_tokenizer(root / "checkpoint"),
        load=lambda: _load(root, options),
        text_limit=texts.get("model_max_length", TEXT_LIMIT))


def _load(root: pathlib.Path, options: dict) -> Loaded:
    return load_converted(lambda folder: from_torch.convert(
        str(root / "checkpoint"), folder, clip=str(root / "clip"), progress=False,
        options=Options(sam=options["sam"] | {"decoder_num_heads": DECODER_HEADS})).config)
