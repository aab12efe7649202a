"""Lengths of the texts of a prepared data set, counted once and kept beside it."""

import dataclasses
import hashlib
import io
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath
from tqdm import tqdm

from input_pipeline import files
from input_pipeline.batches.examples import ExampleSpec, text_length
from input_pipeline.text.tokenizer import Tokenizer

LOG = logging.getLogger("input_pipeline")


def text_lengths(source: Sequence, tokenizer: Tokenizer, spec: ExampleSpec, *,
                 folder: epath.Path | None, split: str, write: bool = True) -> np.ndarray:
    """Number of ids of every record's conversation, int32[N].

    Args:
        source: all records; read completely unless the lengths are kept in `folder` already.
        folder: of the prepared data set; `write`: whether to keep them there (one host does).
    """
    cache = folder and folder / f"lengths-{_key(tokenizer, spec, split, len(source))}.npy"
    if cache and cache.exists():
        with cache.open("rb") as file:
            return np.load(file, allow_pickle=False)
    with ThreadPoolExecutor(4) as pool:
        counted = pool.map(lambda i: _length(source, i, tokenizer, spec), range(len(source)))
        lengths = np.fromiter(tqdm(counted, "counting text lengths", len(source), unit="text"),
                              np.int32, len(source))
    if cache and write:
        try:
            content = io.BytesIO()
            np.save(content, lengths)
            files.write_bytes(cache, content.getvalue())
        except OSError as error:  # a folder that may only be read is no reason to stop
            LOG.warning("%s: not kept for the next run: %s", cache, error)
    return lengths


def _length(source: Sequence, index: int, tokenizer: Tokenizer, spec: ExampleSpec) -> int:
    try:
        return text_length(source[index], tokenizer, spec)
    except (ValueError, RuntimeError, OSError):
        return 0  # the pipeline names and replaces it when its turn comes


def _key(tokenizer: Tokenizer, spec: ExampleSpec, split: str, number: int) -> str:
    """Changes with everything the lengths depend on."""
    digests = {name: hashlib.sha256(content).hexdigest()
               for name, content in tokenizer.files.items()}
    question = {name: value for name, value in dataclasses.asdict(spec).items()
                if name in ("instruction", "own_questions", "mask_slots", "dialogue")}
    text = json.dumps([digests, question, spec.sam is None, split, number], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
