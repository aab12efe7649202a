"""Architectures as frozen, hashable dataclasses; `legion_7b()`, `tiny()` and others build them.

A model is a composition of parts, some of which may be absent: a vision tower, a projector, a
language model, SAM, a verdict, a fusion of verdict and masks. Everything here decides the shape or
the arithmetic of a parameter or an activation. Knobs of one run (batch size, learning rate, losses)
live in `experiments/base.py` instead.
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
    """LLaMA decoder (Touvron et al., 2023).

    `vocab` counts the rows of the vocabulary that are scored, without those that pad it here. They
    are the tokens, and in a LLaVA the rows behind them too, as in its published code.
    """

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


# Of a layer of the language model.
LAYER_KERNELS = ("query", "key", "value", "out", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank update of kernels in the language model's layers (Hu et al., 2021); rank 0: none.

    `targets` are the names of these kernels, of LAYER_KERNELS.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("query", "value")

    def __post_init__(self):
        if not self.targets or len(set(self.targets)) < len(self.targets) or (
                set(self.targets) - set(LAYER_KERNELS)):
            raise UserError(f"lora.targets: some of {', '.join(LAYER_KERNELS)}, each once, not "
                            f"{', '.join(map(repr, self.targets)) or 'none'}")


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


REMAT_TOWERS = ("vision", "language", "sam_encoder")


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


FUSION_HEADS = 8  # of SIDA's attention, fixed in the published code
PROJECTORS = ("mlp2x_gelu", "linear")
VISION, TOKEN, WORDS = SOURCES = ("vision", "token", "words")
CLS_TOKEN, SEG_TOKEN = "[CLS]", "[SEG]"


@dataclasses.dataclass(frozen=True)
class VerdictConfig:
    """Where the verdict on a photo comes from, and what it can be.

    Attributes:
        source: "vision": a head on the vision tower's summary. "token": a head on the state that
            predicts `[CLS]`. "words": what the answer says; there is no head.
        classes: names in index order. A photo's label is one of them by its name, see
            `input_pipeline.records.verdict_classes`.
        hidden: width of the head's hidden layer; 0 without a head.
    """

    source: str = VISION
    classes: tuple[str, ...] = ("synthetic", "real")
    hidden: int = 2048

    def __post_init__(self):
        if self.source not in SOURCES:
            raise UserError(f"verdict.source: {', '.join(SOURCES)}, not {self.source!r}")
        if not self.classes or (self.hidden < 1) == self.has_head:
            raise UserError(f"verdict: source {self.source!r} with the classes {self.classes!r} "
                            f"and a hidden layer of {self.hidden}")
        verdict_classes.check_names(self.classes)

    @property
    def has_head(self) -> bool:
        """Whether a head judges, rather than the words."""
        return self.source != WORDS


@dataclasses.dataclass(frozen=True)
class LegionConfig:
    """The whole model.

    `projector` leads from vision to language, one of PROJECTORS. Without `sam` no masks are drawn;
    without `verdict` photos are not judged. `fusion`: the class logits look at the mask prompts
    before these are used, as in SIDA. `dtype` is the arithmetic of the towers; "float32" also
    raises matrix multiplications to full float32 precision on every device (the parity switch).
    `position_dtype` "bfloat16" evaluates rotary tables and SAM's dense positions rounded step by
    step as the published code does; the published weights were trained that way. `remat` is what
    the backward pass computes again rather than keeps, see `remat_by_tower`.
    """

    vision: ClipConfig = ClipConfig()
    projector: str = "mlp2x_gelu"
    language: LanguageConfig = LanguageConfig()
    lora: LoraConfig = LoraConfig()
    sam: SamConfig | None = SamConfig()
    verdict: VerdictConfig | None = None
    fusion: bool = False
    dtype: str = "bfloat16"
    position_dtype: str = "float32"
    remat: str = "layers"

    def __post_init__(self):
        for name in ("dtype", "position_dtype"):
            if getattr(self, name) not in ("float32", "bfloat16"):
                raise UserError(f"{name}: float32 or bfloat16, not {getattr(self, name)!r}")
        if self.projector not in PROJECTORS:
            raise UserError(f"projector: {', '.join(PROJECTORS)}, not {self.projector!r}")
        remat_by_tower(self.remat)
        if self.fusion and (self.sam is None or self.verdict_source != TOKEN):
            raise UserError("fusion: joins a verdict on [CLS] with masks, so it needs sam and a "
                            "verdict whose source is 'token'")
        for path, value, divisor in self._divisions():
            if value < 1 or divisor < 1 or value % divisor:
                raise UserError(f"{path} must divide evenly, got {value} and {divisor}")

    def _divisions(self) -> list[tuple[str, int, int]]:
        """(name, whole, parts) of what must divide evenly."""
        vision, sam = self.vision, self.sam
        needed = [("vision: width / heads", vision.width, vision.heads),
                  ("vision: image_size / patch", vision.image_size, vision.patch),
                  ("language: width / heads", self.language.width, self.language.heads)]
        if sam is not None:
            needed += [("sam: width / heads", sam.width, sam.heads),
                       ("sam: image_size / patch", sam.image_size, sam.patch),
                       ("sam: prompt_width / 2 / decoder_heads", sam.prompt_width // 2,
                        sam.decoder_heads)]
        if self.fusion:
            needed.append(("sam: prompt_width / FUSION_HEADS", sam.prompt_width, FUSION_HEADS))
        return needed

    @property
    def verdict_source(self) -> str | None:
        """`verdict.source`; None where photos are not judged."""
        return self.verdict and self.verdict.source

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the verdict's classes; none where photos are not judged."""
        return self.verdict.classes if self.verdict else ()

    @property
    def watched(self) -> tuple[str, ...]:
        """Tokens whose predicting states are kept: heads and mask prompts are made of them."""
        return ((CLS_TOKEN,) if self.verdict_source == TOKEN else ()) + (
            (SEG_TOKEN,) if self.sam is not None else ())


def legion_7b(**changes) -> LegionConfig:
    """Published sizes: CLIP ViT-L/14-336, Vicuna-7B v1.5, SAM ViT-H, verdict head."""
    base = LegionConfig(verdict=VerdictConfig(), position_dtype="bfloat16")
    return dataclasses.replace(base, **changes)


def tiny(vocab: int = 512, **changes) -> LegionConfig:
    """Every part of the architecture at a size that trains on two CPU cores."""
    base = LegionConfig(
        vision=ClipConfig(image_size=128, patch=16, width=96, mlp=192, heads=4, layers=4,
                        select_layer=-1),
        language=LanguageConfig(vocab=vocab, width=96, mlp=192, heads=4, layers=3,
                                max_positions=512),
        sam=SamConfig(image_size=128, patch=8, width=96, mlp=192, heads=4, layers=3, window=8,
                      global_blocks=(2,), prompt_width=64, mask_channels=4, decoder_heads=4,
                      decoder_mlp=128, iou_hidden=32),
        verdict=VerdictConfig(classes=("tampered", "real"), hidden=96), dtype="float32",
        remat="none")
    return dataclasses.replace(base, **changes)


def fakevlm_7b(**changes) -> LegionConfig:
    """FakeVLM (Wen et al., 2025), a LLaVA-1.5: CLIP ViT-L/14-336 and Vicuna-7B v1.5, no masks."""
    base = LegionConfig(language=LanguageConfig(vocab=32064), sam=None,
                        verdict=VerdictConfig(WORDS, ("real", "fake"), hidden=0))
    return dataclasses.replace(base, **changes)


def sida_7b(**changes) -> LegionConfig:
    """SIDA (Huang et al., 2025), a LISA: CLIP ViT-L/14-224, LLaMA-7B, SAM ViT-H, three classes."""
    language = LanguageConfig(vocab=32004, norm_eps=1e-6, max_positions=2048)
    return dataclasses.replace(_sida(language), **changes)


def sida_13b(**changes) -> LegionConfig:
    """The same with LLaMA-2-13B."""
    language = LanguageConfig(vocab=32004, width=5120, mlp=13824, heads=40, layers=40)
    return dataclasses.replace(_sida(language), **changes)


def _sida(language: LanguageConfig) -> LegionConfig:
    verdict = VerdictConfig(TOKEN, ("real", "synthetic", "tampered"), hidden=language.width // 2)
    return LegionConfig(vision=ClipConfig(image_size=224), projector="linear", language=language,
                        verdict=verdict, fusion=True, position_dtype="bfloat16")


def tiny_fakevlm(vocab: int = 512, **changes) -> LegionConfig:
    """`tiny` without what FakeVLM lacks."""
    return tiny(vocab, **{"sam": None, "verdict": VerdictConfig(WORDS, ("real", "fake"), hidden=0)}
                | changes)


def tiny_sida(vocab: int = 512, **changes) -> LegionConfig:
    """`tiny` with SIDA's parts."""
    verdict = VerdictConfig(TOKEN, ("real", "synthetic", "tampered"), hidden=48)
    return tiny(vocab, **{"projector": "linear", "verdict": verdict, "fusion": True} | changes)


# Names of `config.model.name`: those of one size, and those for any vocabulary.
PUBLISHED = {each.__name__: each for each in (legion_7b, fakevlm_7b, sida_7b, sida_13b)}
TINY = {each.__name__: each for each in (tiny, tiny_fakevlm, tiny_sida)}


def named(name: str, vocab: int, subject: str) -> LegionConfig:
    """The architecture of that name, for `vocab` tokens where it may have any number.

    Raises UserError, which begins with `subject`, naming those there are.
    """
    if name in PUBLISHED:
        return PUBLISHED[name]()
    if name in TINY:
        return TINY[name](vocab)
    raise UserError(f"{subject}: {', '.join((*PUBLISHED, *TINY))}, not {name!r}")


def to_dict(config: Any) -> dict:
    """A JSON-ready nested dict; `from_dict` reads it back."""
    return dataclasses.asdict(config)


def part_of(hint: Any) -> type | None:
    """The dataclass that a field's type names, on its own or as `Part | None`; None of others."""
    options = (hint, *typing.get_args(hint))
    return next((kind for kind in options if dataclasses.is_dataclass(kind)), None)


def may_be_absent(hint: Any) -> bool:
    """Whether a field's type takes None."""
    return type(None) in typing.get_args(hint)


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
        part = part_of(hints[name])
        if part and not (value is None and may_be_absent(hints[name])):
            value = from_dict(value, part, subject=f"{subject}.{name}")
        elif isinstance(value, list):
            value = tuple(value)
        out[name] = value
    return kind(**out)
