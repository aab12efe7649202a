"""Members of the family that a conversion knows, and which of them a set of files is."""

import dataclasses
import pathlib

from input_pipeline.errors import UserError
from input_pipeline.text import dialogue
from input_pipeline.text.dialogue import Dialogue
from legion_jax.config import SEG_TOKEN, TOKEN, VISION, WORDS
from legion_jax.convert.names import LISA as LISA_NAMES
from legion_jax.convert.roles import Sources
from legion_jax.convert.table import PROJECTOR, SAM, VERDICT
from legion_jax.convert.vocabulary import Listed
from legion_jax.weights.checkpoint_error import CheckpointError


@dataclasses.dataclass(frozen=True)
class System:
    """What no tensor of a model tells.

    Attributes:
        name: of the system; `convert_from_torch --system` takes it.
        dialogue: how it is spoken to.
        masks: whether it draws any.
        source: where its verdict comes from, if it has one; None: it never has.
        classes: of its verdict where config.json names none.
        fusion: whether its verdict looks at the mask prompts.
        tokens: what a vocabulary gets that is to be made this system's and lacks them, in this
            order; what it has keeps its id.
    """

    name: str
    dialogue: Dialogue
    masks: bool = True
    source: str | None = None
    classes: tuple[str, ...] = ()
    fusion: bool = False
    tokens: tuple[str, ...] = ()


END = dialogue.SIDA_DESCRIBED.closing
LEGION = System("legion", dialogue.LEGION, source=VISION, classes=("synthetic", "real"),
                tokens=dialogue.LEGION.tokens)
FAKEVLM = System("fakevlm", dialogue.LLAVA15_CHAT, masks=False, source=WORDS,
                 classes=("real", "fake"))
LISA = System("lisa", dialogue.LISA, tokens=("[SEG]", "<im_start>", "<im_end>"))
SIDA = System("sida", dialogue.SIDA, source=TOKEN, classes=("real", "synthetic", "tampered"),
              fusion=True, tokens=("[CLS]", "[SEG]", "<im_start>", "<im_end>"))
SIDA_DESCRIBED = dataclasses.replace(SIDA, name="sida_described", dialogue=dialogue.SIDA_DESCRIBED,
                                     tokens=(*SIDA.tokens, "[END]"))
SYSTEMS = {system.name: system for system in (LEGION, FAKEVLM, LISA, SIDA, SIDA_DESCRIBED)}
# What only a system has that draws masks or judges by a head.
PARTS = (SAM, "model.text_hidden_fcs.", *(names[0] for names in VERDICT.values()))


def system_of(sources: Sources, *, asked: str | None, partial: bool,
              tokenizer: str | None) -> System:
    """The system that the files are, or are asked to become.

    A head on [CLS] is SIDA's, of its second stage where it knows [END]; other weights with LISA's
    names are a LISA. A LLaVA with nothing beside it is a FakeVLM, unless it knows [SEG] or
    `partial` says that parts of it are missing. Everything else is a LEGION.

    Args:
        asked: name of the system the files are to become.
        partial: whether towers may be missing.
        tokenizer: its folder, if it is not with the weights.

    Raises CheckpointError where what is asked for is none, or cannot be made of the files.
    """
    main = sources.roles["main"]
    if asked:
        if asked not in SYSTEMS:
            raise CheckpointError(f"--system: {', '.join(SYSTEMS)}, not {asked!r}")
        _check(sources, SYSTEMS[asked])
        return SYSTEMS[asked]
    if _has(sources, VERDICT[TOKEN][0]):
        return SIDA_DESCRIBED if _knows(sources, END, tokenizer) else SIDA
    if main.spelling == LISA_NAMES.name:
        return LISA
    alone = main.is_llava and not any(_has(sources, part) for part in PARTS)
    if alone and not partial and not _knows(sources, SEG_TOKEN, tokenizer):
        return FAKEVLM
    return LEGION


def _has(sources: Sources, beginning: str) -> bool:
    return any(name.startswith(beginning) for name in sources.entries)


def _check(sources: Sources, system: System) -> None:
    """Raises CheckpointError naming a part that the system has no place for."""
    places = {source: source == system.source for source in VERDICT}
    for source, has_place in places.items():
        if not has_place and _has(sources, VERDICT[source][0]):
            raise CheckpointError(f"--system {system.name}: {VERDICT[source][0]}.weight is there, "
                                  f"the verdict head of another system")
    if not system.masks and (part := next((p for p in PARTS if _has(sources, p)), None)):
        raise CheckpointError(f"--system {system.name}: draws no masks, but {part}* is there")
    if not system.masks and _has(sources, f"{PROJECTOR}.weight"):
        raise CheckpointError(f"--system {system.name}: {PROJECTOR}.weight is the one layer of a "
                              f"LISA's projector, a LLaVA's has two")


def _knows(sources: Sources, token: str, tokenizer: str | None) -> bool:
    """Whether a tokenizer of the model, or of its adapter, has the token."""
    folders = [pathlib.Path(tokenizer)] if tokenizer else [
        source.folder.root for role, source in sources.roles.items() if role in ("main", "adapter")]
    for folder in folders:
        try:
            listed = Listed.read(folder)
        except UserError:  # whoever opens the tokenizer says what is wrong
            continue
        if listed and token in listed.tokens:
            return True
    return False
