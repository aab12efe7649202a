"""Text to ids and back, by the rules of the fast LLaMA tokenizer, as LLaVA has it.

The vocabulary is that of `tokenizer.model`; `tokenizer.json`, by which the published code goes, is
held against what is written here. Where the rules differ from the slow tokenizer's:

* White space beside an added token stays, so a lone "▁" may stand there.
* Decoding joins tokens as they are; only the one space that began the text is dropped. Ids after
  the last token, of rows that fill up an embedding, are left out.
* `<pad>` pads, where there is one.
"""

from collections.abc import Iterable, Mapping

import sentencepiece
from etils import epath

from input_pipeline import strict_json
from input_pipeline.text.fast_tokenizer_file import FAST_FILE, NORMALIZER, PAD_TOKEN, fast_settings
from input_pipeline.text.tokenizer import IMAGE_ID, Tokenizer, TokenizerError
from input_pipeline.text.tokenizer_files import CARRIED_FILES

_MODEL = {"type": "BPE", "byte_fallback": True}
_UNUSED = ("dropout", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")
_FLAGS = ("lstrip", "rstrip", "single_word")


class FastTokenizer(Tokenizer):
    """As `Tokenizer`, by the other rules; `pad_id` is that of `<pad>`, else of `<unk>`."""

    rules = "fast"
    carried = (*CARRIED_FILES, FAST_FILE)

    def __init__(self, files: Mapping[str, bytes], *, name: str):
        super().__init__(files, name=name)
        self.pad_id = self.added.get(PAD_TOKEN, self.pad_id)

    @classmethod
    def from_folder(cls, folder: epath.PathLike, **asked) -> "FastTokenizer":
        """As of `Tokenizer`; TokenizerError also where `tokenizer.json` has other rules or ids."""
        tokenizer = super().from_folder(folder, **asked)
        tokenizer.check_rules()
        return tokenizer

    @staticmethod
    def settings(pieces: sentencepiece.SentencePieceProcessor,
                 added: Mapping[str, int]) -> dict[str, bytes]:
        """As of `Tokenizer`, `tokenizer.json` among them."""
        return fast_settings(pieces, added)

    def check_rules(self) -> None:
        """Verifies that `tokenizer.json` says what is done here: ids, and the rules above.

        Raises TokenizerError naming the file, what differs, and both values. That both learned
        the same merges is taken for granted, as they name the same pieces in the same order.
        """
        file = f"{self.name}/{FAST_FILE}"
        if FAST_FILE not in self.files:
            raise TokenizerError(f"{file}: not found; this tokenizer's rules stand in it")
        content = strict_json.parse(self.files[FAST_FILE], file, error=TokenizerError)
        model = content.get("model")
        if not isinstance(model, dict):
            raise TokenizerError(f"{file}: has no model")
        _same(file, "normalizer", content.get("normalizer"), NORMALIZER)
        _same(file, "pre_tokenizer", content.get("pre_tokenizer"), None)
        for key, value in _MODEL.items():
            _same(file, f"model.{key}", model.get(key), value)
        for key in _UNUSED:
            _same(file, f"model.{key}", model.get(key) or None, None)
        self._check_vocabulary(file, model.get("vocab"))
        self._check_added(file, content.get("added_tokens"))

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of `ids`: IMAGE_ID and ids of no token are left out, and every whole token too if
        `skip_special`.

        Bytes that are no characters become U+FFFD each, and so do all bytes beside them. Raises
        TokenizerError for another id below 0.
        """
        text, run = [], bytearray()
        for index in map(int, ids):
            if index == IMAGE_ID or index >= self.vocab_size:
                continue
            self._check_id(index)
            name = self._names.get(index) or self._control.get(index)
            if name is not None and skip_special:
                continue
            if name is None and self._pieces.is_byte(index):
                run.append(int(self._pieces.id_to_piece(index)[1:-1], 16))
                continue
            text += [_characters(run), name or self._pieces.id_to_piece(index).replace("▁", " ")]
            run.clear()
        return "".join([*text, _characters(run)]).removeprefix(" ")

    def _check_vocabulary(self, file: str, vocab) -> None:
        number = self._pieces.get_piece_size()
        if not isinstance(vocab, dict) or len(vocab) != number:
            found = len(vocab) if isinstance(vocab, dict) else type(vocab).__name__
            raise TokenizerError(f"{file}: model.vocab must have the {number} pieces of "
                                 f"tokenizer.model, found {found}")
        for index in range(number):
            piece = self._pieces.id_to_piece(index)
            _same(file, f"id of {piece!r}", vocab.get(piece), index)

    def _check_added(self, file: str, tokens) -> None:
        if not isinstance(tokens, list) or not all(
                isinstance(token, dict) and isinstance(token.get("content"), str)
                for token in tokens):
            raise TokenizerError(f"{file}: added_tokens must be a list of tokens")
        _same(file, "added_tokens", {token["content"]: token.get("id") for token in tokens},
              self._whole)
        for token in tokens:
            # Padding stands in no text, so what is done to it there makes no difference.
            strict = _FLAGS if token["content"] == PAD_TOKEN else (*_FLAGS, "normalized")
            for flag in strict:
                _same(file, f"{flag} of {token['content']}", token.get(flag, False), False)


def _same(file: str, key: str, value, wanted) -> None:
    if value != wanted:
        raise TokenizerError(f"{file}: {key} is {value}, known is {wanted} alone")


def _characters(run: bytes) -> str:
    try:
        return run.decode()
    except UnicodeDecodeError:
        return "\ufffd" * len(run)
