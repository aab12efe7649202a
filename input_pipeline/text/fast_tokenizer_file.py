"""The files by which other programs know a fast LLaMA tokenizer, written for a vocabulary of ours.

`tokenizer.json` is the form of Hugging Face's tokenizers: the pieces of the SentencePiece model, in
which order pairs of them are joined, and what is done to a text before and after.
"""

import json
from collections.abc import Mapping

import sentencepiece

from input_pipeline.text.tokenizer_files import as_json, llama_settings

FAST_FILE = "tokenizer.json"
PAD_TOKEN = "<pad>"
NORMALIZER = {"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
_DECODER = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
    {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
_FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
BOS, UNKNOWN = "<s>", "<unk>"


def fast_settings(pieces: sentencepiece.SentencePieceProcessor,
                  added: Mapping[str, int]) -> dict[str, bytes]:
    """{file: content}: tokenizer.json, and the two settings files as a LLaVA has them.

    `added`: {token: id}, which follow the pieces.
    """
    control = [index for index in range(pieces.get_piece_size())
               if pieces.is_control(index) or pieces.is_unknown(index)]
    tokens = {index: pieces.id_to_piece(index) for index in control} | {
        index: token for token, index in added.items()}
    slow = {name: json.loads(content) for name, content in llama_settings().items()}
    pad = {"pad_token": PAD_TOKEN if PAD_TOKEN in added else UNKNOWN}
    slow["tokenizer_config.json"] |= pad | {"added_tokens_decoder": {
        str(index): {"content": token, "special": True, **_FLAGS}
        for index, token in tokens.items()}}
    slow["special_tokens_map.json"] |= pad
    return {name: as_json(content) for name, content in slow.items()} | {
        FAST_FILE: _tokenizer_json(pieces, tokens)}


def _tokenizer_json(pieces: sentencepiece.SentencePieceProcessor,
                    tokens: Mapping[int, str]) -> bytes:
    """The content of tokenizer.json; `tokens`: those that stand for themselves, by id."""
    first = [{"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    second = [{"SpecialToken": {"id": BOS, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    vocab = {pieces.id_to_piece(index): index for index in range(pieces.get_piece_size())}
    content = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": index, "content": token, "special": True, **_FLAGS}
                         for index, token in tokens.items()],
        "normalizer": NORMALIZER, "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing", "single": first, "pair": first + second,
            "special_tokens": {BOS: {"id": BOS, "ids": [vocab[BOS]], "tokens": [BOS]}}},
        "decoder": _DECODER,
        "model": {"type": "BPE", "dropout": None, "unk_token": UNKNOWN,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False, "vocab": vocab,
                  "merges": _merges(pieces)}}
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()


def _merges(pieces: sentencepiece.SentencePieceProcessor) -> list[str]:
    """"LEFT RIGHT" of all pairs that are joined, those that are joined first before others.

    SentencePiece keeps what pairs become, the earliest first, and not the pairs; every way to cut
    a piece into two others may have led to it.
    """
    parts = {pieces.id_to_piece(index): index for index in range(pieces.get_piece_size())
             if not (pieces.is_control(index) or pieces.is_unknown(index)
                     or pieces.is_byte(index) or pieces.is_unused(index))}
    merges = []
    for piece in parts:
        cuts = [(piece[:place], piece[place:]) for place in range(1, len(piece))]
        pairs = [pair for pair in cuts if parts.keys() >= {*pair}]
        merges += sorted(pairs, key=lambda pair: (parts[pair[0]], parts[pair[1]]))
    return [f"{left} {right}" for left, right in merges]
