"""Whose tokens a model knows: those of its checkpoint, or of an adapter that brings its own.

An adapter may have been trained with other tokens than its base has, such as a `[SEG]` of its own.
The rows of the vocabulary that training changed are at the ids of its tokenizer.

A model that is to become another system gets the tokens it lacks: they take the first rows of its
vocabulary that belong to no token, and rows of their own behind the last (`table.vocabulary`).
"""

import dataclasses
import pathlib

from input_pipeline import files, strict_json
from input_pipeline.errors import UserError
from input_pipeline.text.dialogue import Dialogue
from input_pipeline.text.tokenizer import IMAGE_TOKEN, Tokenizer
from input_pipeline.text.tokenizer_files import (
    ADDED_FILE,
    MODEL_FILE,
    as_json,
    load_added,
    load_pieces,
    read_files,
)
from legion_jax.convert.roles import Sources
from legion_jax.weights.checkpoint_error import CheckpointError, read_json

CONFIG_FILE, FAST_FILE = "tokenizer_config.json", "tokenizer.json"  # of transformers


@dataclasses.dataclass(frozen=True)
class Listed:
    """What the tokenizer files of a folder tell, whichever of them are there.

    Attributes:
        tokens: {token: id} of added tokens, special ones among them.
        pieces: {piece: id} of tokenizer.json; {} without it.
        model: content of tokenizer.model; None without it.
        lacks: the file without which the tokenizer cannot be used here; None if it can.
    """

    folder: pathlib.Path
    tokens: dict[str, int]
    pieces: dict[str, int]
    model: bytes | None
    lacks: str | None

    @classmethod
    def read(cls, folder: pathlib.Path) -> "Listed | None":
        """None where no tokenizer file is there. Raises CheckpointError, also where two disagree.
        """
        tokens: dict[str, int] = {}
        for name, listed_in in ((ADDED_FILE, _of_added), (CONFIG_FILE, _of_config),
                                (FAST_FILE, _of_fast)):
            if (folder / name).is_file():
                for token, index in listed_in(folder / name).items():
                    if tokens.setdefault(token, index) != index:
                        raise CheckpointError(f"{folder / name}: {token} is {index}, in another "
                                              f"file of the tokenizer {tokens[token]}")
        names = [name for name in (MODEL_FILE, ADDED_FILE, FAST_FILE) if (folder / name).is_file()]
        if not names and not tokens:
            return None
        lacks = next((name for name in (MODEL_FILE, ADDED_FILE) if name not in names), None)
        return cls(folder, tokens, _pieces(folder / FAST_FILE) if FAST_FILE in names else {},
                   _content(folder / MODEL_FILE) if MODEL_FILE in names else None, lacks)

    def differs_from(self, base: Tokenizer, known: dict[str, int]) -> str | None:
        """What these files say otherwise than `base`, of which these added tokens are known too."""
        if self.model not in (None, base.files[MODEL_FILE]):
            return f"{MODEL_FILE} is another"
        pieces = load_pieces(base.files[MODEL_FILE], file=f"{base.name}/{MODEL_FILE}")
        for token, index in sorted(self.tokens.items(), key=lambda item: item[0] != "[SEG]"):
            there = known.get(token)
            if there is None and 0 <= index < pieces.get_piece_size() and (
                    pieces.id_to_piece(index) == token):
                there = index
            if there != index:
                return f"{token} is {index}, {'no token' if there is None else there} there"
        if self.pieces and self.model is None:
            for index in range(pieces.get_piece_size()):
                piece = pieces.id_to_piece(index)
                if self.pieces.get(piece, index) != index or piece not in self.pieces:
                    return f"piece {piece!r} is {self.pieces.get(piece)}, {index} there"
        return None


def _content(path: pathlib.Path) -> bytes:
    return files.read_plain(path, largest=strict_json.LARGEST, error=CheckpointError)


def _of_added(path: pathlib.Path) -> dict[str, int]:
    return load_added(_content(path), file=str(path))


def _of_config(path: pathlib.Path) -> dict[str, int]:
    listed = read_json(path).get("added_tokens_decoder") or {}
    try:
        return {token["content"]: int(index) for index, token in listed.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: added_tokens_decoder must map numbers to tokens") from error


def _of_fast(path: pathlib.Path) -> dict[str, int]:
    listed = read_json(path).get("added_tokens") or []
    try:
        return {token["content"]: int(token["id"]) for token in listed}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: added_tokens must be a list of tokens with ids") from error


def _pieces(path: pathlib.Path) -> dict[str, int]:
    model = read_json(path).get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    return vocab if isinstance(vocab, dict) else {}


@dataclasses.dataclass(frozen=True)
class Needs:
    """What is asked of a model's tokenizer.

    Attributes:
        dialogue: which it must serve.
        added: tokens that one gets that lacks them, in this order; (): none is added.
        grows: whether the vocabulary may get new rows for them.
    """

    dialogue: Dialogue
    added: tuple[str, ...] = ()
    grows: bool = False


def tokenizer_of(sources: Sources, needs: Needs, *, named: str | None, rows: int,
                 notes: list[str]) -> Tokenizer:
    """The tokenizer of a model, checked against its embedding.

    Args:
        named: its folder, where the user says it.
        rows: of the embedding.
        notes: takes a sentence where an adapter's tokens are not those of the checkpoint.

    Raises:
        TokenizerError, CheckpointError: naming the file, the token, or both sizes.
    """
    folder = pathlib.Path(named or sources.roles["main"].folder.root)
    own = _own_tokens(sources, named, notes)
    if own is None or own.folder.samefile(folder):
        return read_tokenizer(folder, needs, rows=rows)
    try:
        base, raw = _parse(folder, needs)
    except UserError:
        if named or own.lacks:
            raise
        difference = "the checkpoint has none that can be used"
    else:
        difference = own.differs_from(base, raw | base.added)
    if not difference:
        return _checked(base, folder, rows, needs)
    if named:
        notes.append(f"the tokenizer of {folder} is used, as --tokenizer says; that of "
                     f"{own.folder} is another: {difference}")
        return _checked(base, folder, rows, needs)
    if own.lacks:
        raise CheckpointError(
            f"{own.folder}: the adapter's tokenizer is not that of {folder}: {difference}; and it "
            f"cannot be used, for {own.lacks} is not there. Name a folder that has {MODEL_FILE} "
            f"and {ADDED_FILE} with --tokenizer")
    check_image(sources, own.tokens, owner=own.folder)
    notes.append(f"the adapter's own tokenizer is used, {own.folder}, not that of {folder}: "
                 f"{difference}")
    try:
        return read_tokenizer(own.folder, needs, rows=rows)
    except UserError as error:
        raise CheckpointError(f"{error}. The adapter's tokens are not those of {folder} "
                              f"({difference}); --tokenizer says which to take") from error


def _own_tokens(sources: Sources, named: str | None, notes: list[str]) -> Listed | None:
    """What an adapter brings. Raises CheckpointError where its files disagree, unless named."""
    adapter = sources.roles.get("adapter")
    try:
        return Listed.read(adapter.folder.root) if adapter else None
    except UserError as error:
        if not named:
            raise CheckpointError(f"{error}; name the tokenizer to use with --tokenizer") from error
        notes.append(f"the tokenizer of {named} is used, as --tokenizer says; {error}")
        return None


def check_image(sources: Sources, tokens: dict[str, int], *, owner: pathlib.Path | str) -> None:
    """Compare the row of `<image>` with the config's. Raises CheckpointError."""
    config = sources.configs.get("main", {})
    index = config.get("image_token_index", config.get("image_token_id"))
    if sources.roles["main"].is_llava and index is not None and (
            tokens.get(IMAGE_TOKEN, index) != index):
        raise CheckpointError(f"{owner}: {IMAGE_TOKEN} is {tokens[IMAGE_TOKEN]} in its "
                              f"tokenizer, config.json of the checkpoint says {index}; name the "
                              f"tokenizer to use with --tokenizer")


def read_tokenizer(folder: pathlib.Path, needs: Needs, *, rows: int) -> Tokenizer:
    """The tokenizer of a checkpoint folder, checked against its embedding of `rows` rows.

    Raises:
        TokenizerError, CheckpointError: naming the file, the token, or both sizes.
    """
    return _checked(_parse(folder, needs)[0], folder, rows, needs)


def _parse(folder: pathlib.Path, needs: Needs) -> tuple[Tokenizer, dict[str, int]]:
    """The tokenizer, and the added tokens as its folder has them."""
    if not (folder / MODEL_FILE).exists():
        raise CheckpointError(f"{folder / MODEL_FILE}: not found; name the tokenizer's folder with "
                              f"--tokenizer")
    dialogue = needs.dialogue
    if not needs.added:
        if not (folder / ADDED_FILE).exists():
            raise CheckpointError(
                f"{folder / ADDED_FILE}: not found, so this tokenizer has no {dialogue.tokens[0]} "
                f"and its like. LEGION, GLaMM and SIDA folders have it; of an original LLaVA take "
                f"the folder made for transformers, such as llava-hf/llava-1.5-7b-hf")
        tokenizer = dialogue.open_tokenizer(folder)
        _check_files(folder, tokenizer, tokenizer.added)
        return tokenizer, tokenizer.added
    contents = read_files(folder)
    raw = load_added(contents[ADDED_FILE], file=f"{folder}/{ADDED_FILE}")
    added = dict(raw)
    if IMAGE_TOKEN in added and added.keys() > set(needs.added) and (
            added[IMAGE_TOKEN] == max(added.values())):
        del added[IMAGE_TOKEN]  # where we have put it; here an image has no token
    pieces = Tokenizer(contents | {ADDED_FILE: as_json(added)}, name=str(folder))
    size = pieces.vocab_size
    for token in needs.added:
        if token not in added:
            added[token], size = size, size + 1
    tokenizer = Tokenizer(contents | {ADDED_FILE: as_json(added)}, name=str(folder))
    tokenizer.check(dialogue.tokens, dialogue=dialogue.name)
    _check_files(folder, tokenizer, raw)
    return tokenizer, raw


def _check_files(folder: pathlib.Path, tokenizer: Tokenizer, added: dict[str, int]) -> None:
    """Compare the files that are read with those for transformers. Raises CheckpointError."""
    listed = Listed.read(folder)
    if listed and (difference := listed.differs_from(tokenizer, added)):
        raise CheckpointError(f"{folder}: the files of its tokenizer do not agree: {difference}, "
                              f"in {ADDED_FILE}; remove or mend the one that is older")


def _checked(tokenizer: Tokenizer, folder: pathlib.Path, rows: int, needs: Needs) -> Tokenizer:
    """The tokenizer. Raises CheckpointError where the embedding has no rows for its tokens."""
    size = tokenizer.vocab_size
    if not needs.added and size != rows and (tokenizer.rules == "slow" or size > rows):
        raise CheckpointError(f"{folder}: the tokenizer has {size} tokens, "
                              f"model.embed_tokens.weight {rows} rows")
    if needs.added and size > rows and not needs.grows:
        raise CheckpointError(f"{folder}: {size} tokens with {', '.join(needs.added)}, the "
                              f"embedding has {rows} rows")
    return tokenizer
