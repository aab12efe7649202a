"""The files of a LLaMA tokenizer folder: read, checked for form, and written."""

import json
from collections.abc import Mapping, Sequence

import sentencepiece
from etils import epath

from input_pipeline import files, strict_json
from input_pipeline.errors import OneLineError
from input_pipeline.paths import is_uri, parse

MODEL_FILE = "tokenizer.model"
ADDED_FILE = "added_tokens.json"
CARRIED_FILES = ("tokenizer_config.json", "special_tokens_map.json")  # for other programs


class TokenizerError(OneLineError):
    """A tokenizer folder that cannot be used, or an id that is not in its vocabulary."""


def read_files(folder: epath.PathLike,
               carried: Sequence[str] = CARRIED_FILES) -> dict[str, bytes]:
    """Returns file name -> bytes; TokenizerError names a needed file that cannot be read.

    `carried` are JSON files that may be missing and are kept as they are.
    """
    folder = parse(folder)
    contents = {}
    for file in (MODEL_FILE, ADDED_FILE, *carried):
        if file in carried and not (folder / file).exists():
            continue
        contents[file] = files.read_plain(folder / file, largest=strict_json.LARGEST,
                                          error=TokenizerError)
        if file in carried:  # exports copy them as they are
            strict_json.parse(contents[file], folder / file, error=TokenizerError)
    return contents


def write_files(folder: epath.PathLike, contents: Mapping[str, bytes]) -> None:
    """Writes {file name: content} into `folder`, each appearing whole or not at all.

    A local folder that does not exist yet appears with all its files in one step.
    """
    folder = parse(folder)
    if is_uri(folder) or folder.exists():
        for file, content in contents.items():
            files.write_bytes(folder / file, content)
        return
    with files.new_folder(folder) as unfinished:
        for file, content in contents.items():
            (unfinished / file).write_bytes(content)


def load_pieces(model: bytes, *, file: str) -> sentencepiece.SentencePieceProcessor:
    """Parses the bytes of `tokenizer.model`; TokenizerError names `file` when they are broken."""
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(model)
    except (RuntimeError, UnicodeDecodeError) as error:  # its own message may quote the file
        raise TokenizerError(f"{file}: not a SentencePiece model ({len(model)} bytes)") from error
    if not pieces.get_piece_size():
        raise TokenizerError(f"{file}: holds no pieces ({len(model)} bytes)")
    return pieces


def load_added(text: bytes, *, file: str) -> dict[str, int]:
    """Parses the bytes of `added_tokens.json` into token -> id; TokenizerError names `file`."""
    added = strict_json.parse(text, file, object, error=TokenizerError)
    ok = isinstance(added, dict) and "" not in added
    if not ok or not all(type(index) is int for index in added.values()):
        raise TokenizerError(f"{file}: must map tokens to whole numbers, found {str(added)[:80]}")
    return added


def llama_settings() -> dict[str, bytes]:
    """Returns the two settings files as LLaMA checkpoints have them, for other programs."""
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokens = {key: {"content": token, **flags} for key, token in names.items()}
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": True,  # newer releases: encode each text with its own "▁", as here
        "model_max_length": 1536,
        "pad_token": None,
        "padding_side": "right",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
        **{key: {"__type": "AddedToken", **token} for key, token in tokens.items()},
    }
    return {
        "tokenizer_config.json": as_json(config),
        "special_tokens_map.json": as_json({**tokens, "pad_token": "<unk>"}),
    }


def as_json(value: Mapping) -> bytes:
    """Returns `value` as indented JSON with sorted keys, UTF-8."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
