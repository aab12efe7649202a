"""Texts -> unit vectors by all-MiniLM-L6-v2 in JAX, as sentence-transformers makes them."""

from collections.abc import Sequence

import jax
import numpy as np
import tokenizers  # of the extra `css`

from legion_jax.evaluate import minilm_files
from legion_jax.evaluate.sentence_bert import SentenceBert, SentenceBertConfig, from_published
from legion_jax.weights.tensor_file import SafetensorsReader

# Word pieces of a row, with those that mark beginning and end: a program is compiled for each. What
# is behind the last is cut off, as it was when the model was trained.
LENGTHS = (32, 64, 128, 256)
BATCH = 1024  # word pieces: half as many rows where they are twice as long


class SentenceEncoder:
    """Encodes texts in batches of few shapes.

    A text's row is as long as its own word pieces ask for, so its vector does not depend on the
    texts it comes with, but for rounding.
    """

    def __init__(self, model: SentenceBert, tokenizer: tokenizers.Tokenizer):
        self.model, self.tokenizer = model, tokenizer
        tokenizer.no_padding()
        tokenizer.enable_truncation(LENGTHS[-1])
        self._embed = jax.jit(SentenceBert.__call__)

    @property
    def width(self) -> int:
        """D of the vectors."""
        return self.model.word.shape[1]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32[N, D], rows of length one."""
        pieces = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        vectors = np.empty((len(pieces), self.width), np.float32)
        rows_of = np.searchsorted(LENGTHS, [len(ids) for ids in pieces])
        for number, length in enumerate(LENGTHS):
            members, size = np.flatnonzero(rows_of == number), BATCH // length
            for start in range(0, len(members), size):
                batch = members[start:start + size]
                vectors[batch] = self._vectors([pieces[i] for i in batch], length)
        return vectors

    def _vectors(self, pieces: list[list[int]], length: int) -> np.ndarray:
        """Vectors of texts of at most `length` word pieces each, and of at most one batch."""
        ids = np.zeros((BATCH // length, length), np.int32)
        lengths = np.ones(len(ids), np.int32)  # of rows that are not asked for as well
        for row, own in enumerate(pieces):
            ids[row, :len(own)], lengths[row] = own, len(own)
        return np.asarray(self._embed(self.model, ids, lengths))[:len(pieces)]


def open_minilm() -> SentenceEncoder:
    """The encoder of the installed package. Raises UserError as `minilm_files.checked` does."""
    weights, tokenizer = map(minilm_files.checked, (minilm_files.WEIGHTS, minilm_files.TOKENIZER))
    return SentenceEncoder(from_published(SentenceBertConfig(), SafetensorsReader(weights).read),
                           tokenizers.Tokenizer.from_file(str(tokenizer)))
