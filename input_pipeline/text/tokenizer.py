"""Text to ids and back, by the rules of transformers 4.28's slow LLaMA tokenizer.

Later tokenizer releases give other ids for the same text without a word, so the rules are written
out here on top of plain SentencePiece:

* The text is split at the added tokens (`[SEG]`, `<p>`, ...) and at `<s>`, `</s>`, `<unk>`.
* White space on both sides of an added token is dropped; beside the other three it stays.
* Every piece of text between them is encoded on its own, with its own leading "▁".
* Decoding joins added tokens and runs of text by single spaces.

`fast_tokenizer` has the rules of the fast LLaMA tokenizer, where they differ.
"""

import functools
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

import numpy as np
import sentencepiece
from etils import epath

from input_pipeline.text.tokenizer_files import (
    ADDED_FILE,
    CARRIED_FILES,
    MODEL_FILE,
    TokenizerError,
    as_json,
    llama_settings,
    load_added,
    load_pieces,
    read_files,
    write_files,
)

IMAGE_TOKEN = "<image>"
IMAGE_ID = -200  # stands where the image features are spliced in; never reaches an embedding
EOS_ID = 2  # "</s>", as `Tokenizer.check` sees to
ADDED_TOKENS = ("<im_start>", "<im_end>", "<bbox>", "<point>", "[SEG]", "<p>", "</p>")


def seg_id_of(vocab: int) -> int:
    """The id of [SEG] in a vocabulary of `vocab` tokens, the last of which are the added ones."""
    return vocab - len(ADDED_TOKENS) + ADDED_TOKENS.index("[SEG]")


class Tokenizer:
    """Vocabulary and rules of one checkpoint; picklable, so data workers can hold one.

    Attributes: `vocab_size` (pieces + added tokens), `bos_id`, `eos_id`, `pad_id` (the unknown
    token doubles as padding), `seg_id`, `phrase_start_id`, `phrase_end_id`, `added` (token -> id).
    """

    rules = "slow"
    carried = CARRIED_FILES

    def __init__(self, files: Mapping[str, bytes], *, name: str):
        """`files` maps the tokenizer's file names to their bytes; `name` is used in errors."""
        self.name = name
        self.files = dict(files)
        self._pieces = load_pieces(self.files[MODEL_FILE], file=f"{name}/{MODEL_FILE}")
        self.added = load_added(self.files[ADDED_FILE], file=f"{name}/{ADDED_FILE}")
        self.vocab_size = self._pieces.get_piece_size() + len(self.added)
        self.bos_id = self._pieces.bos_id()
        self.eos_id = self._pieces.eos_id()
        self.pad_id = self._pieces.unk_id()
        self.seg_id = self.added.get("[SEG]")
        self.phrase_start_id = self.added.get("<p>")
        self.phrase_end_id = self.added.get("</p>")
        self._names = {index: token for token, index in self.added.items()}
        # Decoded by hand: SentencePiece would drop <s> and </s> and rewrite <unk>.
        control = [index for index in (self.pad_id, self.bos_id, self.eos_id) if index >= 0]
        self._control = {index: self._pieces.id_to_piece(index) for index in control}
        self._whole = {token: index for index, token in self._control.items()} | self.added
        self._split = _any_of(self._whole)

    @classmethod
    def from_folder(cls, folder: epath.PathLike, *, needed: Sequence[str] = ADDED_TOKENS,
                    dialogue: str = "legion") -> Self:
        """Reads `tokenizer.model` and `added_tokens.json`, and keeps the other files' bytes.

        Raises TokenizerError naming the file that is missing or broken, or the token that is not
        what the dialogue needs (see `check`).
        """
        tokenizer = cls(read_files(folder, cls.carried), name=str(folder))
        tokenizer.check(needed, dialogue=dialogue)
        return tokenizer

    @staticmethod
    def settings(pieces: sentencepiece.SentencePieceProcessor,
                 added: Mapping[str, int]) -> dict[str, bytes]:
        """{name: content} of the files that tell other programs the rules of a new tokenizer."""
        del pieces, added  # they stand in files of their own
        return llama_settings()

    def check(self, needed: Sequence[str] = ADDED_TOKENS, *, dialogue: str = "legion") -> None:
        """Verifies that every id is its own and every needed token is one id, there and back.

        `needed` are the added tokens that the dialogue of that name cannot do without. Raises
        TokenizerError naming the folder, the token and what was found.
        """
        if self._control != {0: "<unk>", 1: "<s>", 2: "</s>"}:
            raise TokenizerError(
                f"{self.name}: ids 0, 1, 2 must be <unk>, <s>, </s>, found {self._control}"
            )
        self.require(needed, dialogue=dialogue)
        for token in self._control.values():
            if token in self.added:
                raise TokenizerError(
                    f"{self.name}: {ADDED_FILE} must leave {token} to {MODEL_FILE}, "
                    f"found it with id {self.added[token]}"
                )
        first = self._pieces.get_piece_size()
        in_order = sorted(self.added.items(), key=lambda item: item[1])
        for wanted, (token, index) in enumerate(in_order, first):
            if index != wanted:
                raise TokenizerError(
                    f"{self.name}: {ADDED_FILE} must use each id from {first} to "
                    f"{self.vocab_size - 1} once, found {token} with {index} in place of {wanted}"
                )
        for token in self.added:
            ids, index = self.encode(token, bos=False), self.added[token]
            if ids != [index] or self.decode(ids) != token:
                raise TokenizerError(
                    f"{self.name}: {token} must become id {index} and come back, "
                    f"found {ids} and {self.decode(ids)!r}"
                )

    def require(self, tokens: Sequence[str], *, dialogue: str) -> None:
        """Raises TokenizerError naming the first of `tokens` that is no added token here."""
        missing = [token for token in tokens if token not in self.added]
        if missing:
            raise TokenizerError(
                f"{self.name}: {ADDED_FILE} has no {missing[0]}, found {sorted(self.added)}; "
                f"the dialogue {dialogue} needs it"
            )

    def ids_of(self, tokens: Iterable[str]) -> dict[str, int]:
        """{token: id} of added tokens. Raises TokenizerError naming one that is none here."""
        ids = {}
        for token in tokens:
            if token not in self.added:
                raise TokenizerError(f"{self.name}: {ADDED_FILE} has no {token}, which the model "
                                     f"needs; found {sorted(self.added)}")
            ids[token] = self.added[token]
        return ids

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Ids of `text`, `<s>` first if `bos`; never adds `</s>`.

        A literal `<image>` is text, unless the vocabulary has that token.
        """
        ids = [self.bos_id] if bos else []
        for _, piece in self._split_text(text):
            whole = self._whole.get(piece)
            ids.extend(self._pieces.encode(piece) if whole is None else [whole])
        return ids

    def encode_with_image(self, text: str) -> list[int]:
        """Like `encode`, with every literal `<image>` becoming IMAGE_ID.

        The texts between images are encoded apart, so each starts with its own "▁".
        """
        first, *others = text.split(IMAGE_TOKEN)
        ids = self.encode(first)
        for part in others:
            ids += [IMAGE_ID, *self.encode(part, bos=False)]
        return ids

    def encode_with_ends(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The ids of `encode_with_image`, and where in `text` each of them ends.

        Returns:
            int32[T] ids, and int32[T] ends: the character after the token's last one, 0 for the
            `<s>` before the text. A byte ends with the character it is a byte of, and a "▁" that
            no space of the text stands for with the first character after it.

        Raises TokenizerError when the vocabulary rewrites characters, so that they have no place.
        """
        ids, ends, done = [np.array([self.bos_id])], [np.zeros(1, np.int32)], 0
        for number, part in enumerate(text.split(IMAGE_TOKEN)):
            if number:
                done += len(IMAGE_TOKEN)
                ids.append(np.array([IMAGE_ID]))
                ends.append(np.array([done]))
            for start, piece in self._split_text(part):
                whole = self._whole.get(piece)
                run = np.array(self._pieces.encode(piece) if whole is None else [whole], int)
                ids.append(run)
                ends.append(done + start + (
                    self._ends(run, piece) if whole is None else np.array([len(piece)])))
            done += len(part)
        return np.concatenate(ids).astype(np.int32), np.concatenate(ends).astype(np.int32)

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of `ids`: IMAGE_ID is left out, and `<s>`, `</s>`, `<unk>` too if `skip_special`.

        `[SEG]`, `<p>` and the other added tokens always stay, with one space between neighbours.
        Raises TokenizerError for an id outside the vocabulary.
        """
        parts: list[str] = []
        run: list[int] = []
        for index in map(int, ids):
            if index == IMAGE_ID or (skip_special and index in self._control):
                continue
            if index in self._names:
                # A run may decode to nothing (a lone "▁") and still counts as a part.
                parts += [self._decode_run(run)] if run else []
                parts.append(self._names[index])
                run = []
            else:
                self._check_id(index)
                run.append(index)
        parts += [self._decode_run(run)] if run else []
        return " ".join(parts)

    def save(self, folder: epath.PathLike) -> None:
        """Writes the tokenizer's files unchanged; a new folder appears whole or not at all."""
        write_files(folder, self.files)

    def _check_id(self, index: int) -> None:
        if not 0 <= index < self.vocab_size:
            raise TokenizerError(
                f"{self.name}: id {index} is outside the vocabulary of {self.vocab_size}"
            )

    def _split_text(self, text: str) -> Iterator[tuple[int, str]]:
        """(start, piece) of texts and whole tokens in order, empty ones left out.

        White space beside added tokens is gone where the rules drop it.
        """
        pieces = self._split.split(text)  # odd places hold the tokens: the pattern has one group
        start = 0
        for position, piece in enumerate(pieces):
            end, used = start + len(piece), piece
            if self.rules == "slow" and not position % 2:
                if position + 1 < len(pieces) and pieces[position + 1] in self.added:
                    used = used.rstrip()
                if position and pieces[position - 1] in self.added:
                    start, used = start + len(used), used.lstrip()
                    start -= len(used)
            if used:
                yield start, used
            start = end

    def _ends(self, run: np.ndarray, text: str) -> np.ndarray:
        """Where each token of `run`, which `text` was encoded to on its own, ends in it."""
        widths = self._widths[run]
        if (size := widths.sum() - 1) != len(text):  # the first "▁" stands for nothing in the text
            raise TokenizerError(f"{self.name}/{MODEL_FILE}: rewrites characters: {text[:40]!r} "
                                 f"of {len(text)} became {size}")
        return np.maximum(np.cumsum(widths) - 1, 1)

    @functools.cached_property
    def _widths(self) -> np.ndarray:
        """Characters that each piece stands for: of those that are bytes, one for a first byte."""
        number = self._pieces.get_piece_size()
        names = (self._pieces.id_to_piece(index) for index in range(number))
        return np.array([_first_byte(name) if self._pieces.is_byte(index) else len(name)
                         for index, name in enumerate(names)], np.int32)

    def _decode_run(self, run: list[int]) -> str:
        """Text of ids without added tokens; a control token after text gets a space before it."""
        text = ""
        pending: list[int] = []
        after_control = True
        for index in run:
            control = self._control.get(index)
            if control is None:
                pending.append(index)
            else:
                text += ("" if after_control else " ") + self._pieces.decode(pending) + control
                pending = []
            after_control = control is not None
        return text + self._pieces.decode(pending)


def _first_byte(name: str) -> bool:
    """Whether a character of UTF-8 may begin with the byte `name`, which is like "<0xE2>"."""
    return not 0x80 <= int(name[1:-1], 16) < 0xC0


def _any_of(tokens: Iterable[str]) -> re.Pattern:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: epath.PathLike, *,
                    tokens: Sequence[str] = ADDED_TOKENS, dialogue: str = "legion",
                    kind: type[Tokenizer] = Tokenizer) -> Tokenizer:
    """Learns a LLaMA-like vocabulary from `texts` and writes it to `folder`; returns it.

    Byte-pair pieces with byte fallback, so every text can be encoded; `vocab_size` counts pieces
    and is lowered to what the texts can fill. The added tokens take the ids after the last piece.
    Same texts, same files, byte for byte. `Dialogue.train_tokenizer` fills in what follows.

    Args:
        tokens: added ones, which the dialogue of that name needs.
        kind: whose rules and files it has.

    Raises TokenizerError when `vocab_size` cannot hold the 256 bytes, the control tokens and the
    characters of the texts.
    """
    # Encoding never lets a piece span one of these.
    breaks = (*dict.fromkeys((*tokens, IMAGE_TOKEN)), "\n")
    lines = [line.strip() for text in texts for line in _any_of(breaks).split(text)]
    model = _learned_pieces([line for line in lines if line and line not in breaks], vocab_size,
                            folder)
    pieces = load_pieces(model, file=f"{folder}/{MODEL_FILE}")
    added = {token: pieces.get_piece_size() + number for number, token in enumerate(tokens)}
    files = {MODEL_FILE: model, ADDED_FILE: as_json(added), **kind.settings(pieces, added)}
    tokenizer = kind(files, name=str(folder))
    tokenizer.check(tokens, dialogue=dialogue)
    tokenizer.save(folder)
    return tokenizer


def _learned_pieces(lines: Sequence[str], vocab_size: int, folder: epath.PathLike) -> bytes:
    """The SentencePiece model of some lines; the arguments are of `train_tokenizer`."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, model_type="bpe",
            vocab_size=vocab_size, hard_vocab_limit=False, byte_fallback=True, split_digits=True,
            character_coverage=0.9999, normalization_rule_name="identity",
            remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
            add_dummy_prefix=True, max_sentence_length=1 << 20, unk_id=0, bos_id=1, eos_id=2,
            pad_id=-1, num_threads=1, minloglevel=2,
        )
    except RuntimeError as error:
        raise TokenizerError(
            f"{folder}: cannot learn {vocab_size} pieces from {len(lines)} lines: {error}"
        ) from error
    return model.getvalue()
