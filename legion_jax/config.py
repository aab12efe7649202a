"""Architecture of LEGION as frozen, hashable dataclasses; `legion_7b()` and `tiny()` build them.

Everything here decides the shape or the arithmetic of a parameter or an activation. Knobs of one
run (batch size, learning rate, losses) live in `experiments/base.py` instead.
"""

import dataclasses
import typing
from typing import Any

from input_pipeline.errors import UserError
from input_pipeline.records import verdict_classes


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """CLIP vision tower (Radford et al., 2021, section 2.4).

    `select_layer` indexes the list of hidden states [embeddings, block 1, ..., block `layers`];
    blocks after the selected one are never run and are not built.
    """

    image_size: int = 336
    patch: int = 14
    width: int = 1024
    mlp: int = 4096
    heads: int = 16
    layers: int = 24
    select_layer: int = -2
    norm_eps: float = 1e-5

    @property
    def depth(self) -> int:
        """Number of blocks that are run."""
        return self.select_layer % (self.layers + 1)

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch) ** 2


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """LLaMA decoder (Touvron et al., 2023); `vocab` counts real tokens, without row padding."""

    vocab: int = 32007
    width: int = 4096
    mlp: int = 11008
    heads: int = 32
    layers: int = 32
    norm_eps: float = 1e-5
    rope_base: float = 10000.0
    max_positions: int = 4096
    vocab_multiple: int = 128  # rows are padded to this multiple so that they can be sharded

    @property
    def padded_vocab(self) -> int:
        return -(-self.vocab // self.vocab_multiple) * self.vocab_multiple

    @property
    def head_width(self) -> int:
        return self.width // self.heads


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank update of the query and value projections (Hu et al., 2021); rank 0: none."""

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.05


@dataclasses.dataclass(frozen=True)
class SamConfig:
    """SAM image encoder, prompt encoder and mask decoder (Kirillov et al., 2023, appendix A)."""

    image_size: int = 1024
    patch: int = 16
    width: int = 1280
    mlp: int = 5120
    heads: int = 16
    layers: int = 32
    window: int = 14
    global_blocks: tuple[int, ...] = (7, 15, 23, 31)
    norm_eps: float = 1e-6
    prompt_width: int = 256
    mask_channels: int = 16  # of the mask-prompt branch, which is carried but never run
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    iou_layers: int = 3
    iou_hidden: int = 256

    @property
    def grid(self) -> int:
        """Side of the square grid of image tokens."""
        return self.image_size // self.patch


# Nothing; all of a layer but its products with weights; whole layers from their input.
REMAT = ("none", "attention", "layers")


REMAT_TOWERS = ("clip", "language", "sam_encoder")


def remat_by_tower(text: str) -> dict[str, str]:
    """What each of REMAT_TOWERS computes again, one of `REMAT`.

    `text` is one of REMAT for all towers, TOWER=POLICY for each, or one of REMAT for all but those
    that follow: `layers,language=attention`. Raises UserError.
    """
    policies: dict[str, str] = {}
    for number, part in enumerate(text.split(",")):
        tower, given, policy = part.partition("=")
        if not given and not number:
            policies, policy = dict.fromkeys(REMAT_TOWERS, tower), tower
        elif tower not in REMAT_TOWERS:
            raise UserError(f"remat: no tower {tower!r}; known: {', '.join(REMAT_TOWERS)}")
        else:
            policies[tower] = policy
        if policy not in REMAT:
            raise UserError(f"remat: {', '.join(REMAT)}, not {policy!r}")
    if missing := [tower for tower in REMAT_TOWERS if tower not in policies]:
        raise UserError(f"remat: {text!r} leaves out {', '.join(missing)}")
    return policies


@dataclasses.dataclass(frozen=True)
class LegionConfig:
    """The whole model.

    `dtype` is the arithmetic of the towers; "float32" also raises matrix multiplications to full
    float32 precision on every device (the parity switch). `position_dtype` "bfloat16" evaluates
    rotary tables and SAM's dense positions rounded step by step as the published code does; the
    published weights were trained that way. `verdict_classes` names the classes of the verdict
    head in index order; empty means that the checkpoint has no such head. A photo's label is one of
    them by its name, see `input_pipeline.records.verdict_classes`. `remat` is what the backward
    pass computes again rather than keeps, see `remat_by_tower`.
    """

    clip: ClipConfig = ClipConfig()
    language: LanguageConfig = LanguageConfig()
    lora: LoraConfig = LoraConfig()
    sam: SamConfig = SamConfig()
    verdict_classes: tuple[str, ...] = ()
    verdict_hidden: int = 2048
    dtype: str = "bfloat16"
    position_dtype: str = "float32"
    remat: str = "layers"

    def __post_init__(self):
        for name in ("dtype", "position_dtype"):
            if getattr(self, name) not in ("float32", "bfloat16"):
                raise UserError(f"{name}: float32 or bfloat16, not {getattr(self, name)!r}")
        remat_by_tower(self.remat)
        verdict_classes.check_names(self.verdict_classes)
        for path, value, divisor in (
            ("clip: width / heads", self.clip.width, self.clip.heads),
            ("clip: image_size / patch", self.clip.image_size, self.clip.patch),
            ("language: width / heads", self.language.width, self.language.heads),
            ("sam: width / heads", self.sam.width, self.sam.heads),
            ("sam: image_size / patch", self.sam.image_size, self.sam.patch),
            ("sam: prompt_width / 2 / decoder_heads", self.sam.prompt_width // 2,
             self.sam.decoder_heads),
        ):
            if value < 1 or divisor < 1 or value % divisor:
                raise UserError(f"{path} must divide evenly, got {value} and {divisor}")


def legion_7b(**changes) -> LegionConfig:
    """Published sizes: CLIP ViT-L/14-336, Vicuna-7B v1.5, SAM ViT-H, verdict head."""
    base = LegionConfig(verdict_classes=("synthetic", "real"), position_dtype="bfloat16")
    return dataclasses.replace(base, **changes)


def tiny(vocab: int = 512, **changes) -> LegionConfig:
    """Every part of the architecture at a size that trains on two CPU cores."""
    base = LegionConfig(
        clip=ClipConfig(image_size=128, patch=16, width=96, mlp=192, heads=4, layers=4,
                        select_layer=-1),
        language=LanguageConfig(vocab=vocab, width=96, mlp=192, heads=4, layers=3,
                                max_positions=512),
        sam=SamConfig(image_size=128, patch=8, width=96, mlp=192, heads=4, layers=3, window=8,
                      global_blocks=(2,), prompt_width=64, mask_channels=4, decoder_heads=4,
                      decoder_mlp=128, iou_hidden=32),
        verdict_classes=("tampered", "real"), verdict_hidden=96, dtype="float32", remat="none")
    return dataclasses.replace(base, **changes)


def to_dict(config: Any) -> dict:
    """A JSON-ready nested dict; `from_dict` reads it back."""
    return dataclasses.asdict(config)


def from_dict(values: dict, kind: type = LegionConfig, *, subject: str = "config") -> Any:
    """Rebuild a dataclass from `to_dict`'s output.

    Raises ValueError naming every unknown or missing field.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    if unknown := sorted(values.keys() - fields.keys()):
        raise UserError(f"{subject}: unknown field {', '.join(unknown)}; "
                        f"known: {', '.join(sorted(fields))}")
    if missing := sorted(fields.keys() - values.keys()):
        raise UserError(f"{subject}: missing field {', '.join(missing)}")
    out = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = from_dict(value, hints[name], subject=f"{subject}.{name}")
        elif isinstance(value, list):
            value = tuple(value)
        out[name] = value
    return kind(**out)
