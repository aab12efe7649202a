"""The tokenizer of a source, and which rows of the vocabulary matrices belong to its tokens."""

import pathlib

from input_pipeline.text.tokenizer import ADDED_TOKENS, IMAGE_TOKEN, Tokenizer
from input_pipeline.text.tokenizer_files import (
    ADDED_FILE,
    MODEL_FILE,
    as_json,
    load_added,
    read_files,
)
from legion_jax.convert.tensor_folder import SourceError


def read_tokenizer(folder: pathlib.Path, *, rows: int, extend: bool) -> Tokenizer:
    """The tokenizer of a checkpoint folder, checked against its embedding.

    Args:
        rows: of the embedding.
        extend: the checkpoint knows nothing of `[SEG]` and its like (a LLaVA); they take the first
            rows that belong to no token yet.

    Raises:
        TokenizerError, SourceError: naming the file, the token, or both sizes.
    """
    if not (folder / MODEL_FILE).exists():
        raise SourceError(f"{folder / MODEL_FILE}: not found; name the tokenizer's folder with "
                          f"--tokenizer")
    if not extend:
        if not (folder / ADDED_FILE).exists():
            raise SourceError(
                f"{folder / ADDED_FILE}: not found, so this tokenizer has no {ADDED_TOKENS[0]} and "
                f"its like. LEGION and GLaMM folders have it; of an original LLaVA take the folder "
                f"made for transformers, such as llava-hf/llava-1.5-7b-hf")
        tokenizer = Tokenizer.from_folder(folder)
        if tokenizer.vocab_size != rows:
            raise SourceError(f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, "
                              f"model.embed_tokens.weight {rows} rows")
        return tokenizer
    files = read_files(folder)
    added = load_added(files[ADDED_FILE], file=f"{folder}/{ADDED_FILE}")
    if IMAGE_TOKEN in added and added.keys() > set(ADDED_TOKENS) and (
            added[IMAGE_TOKEN] == max(added.values())):
        del added[IMAGE_TOKEN]  # where we have put it; here an image has no token
    pieces = Tokenizer(files | {ADDED_FILE: as_json(added)}, name=str(folder))
    size = pieces.vocab_size
    for token in ADDED_TOKENS:
        if token not in added:
            added[token], size = size, size + 1
    tokenizer = Tokenizer(files | {ADDED_FILE: as_json(added)}, name=str(folder))
    tokenizer.check()
    if tokenizer.vocab_size > rows:
        raise SourceError(f"{folder}: {tokenizer.vocab_size} tokens with "
                          f"{', '.join(ADDED_TOKENS)}, the embedding has {rows} rows")
    return tokenizer
