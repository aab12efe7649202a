"""Scores of explanations: ROUGE-L, and the cosine of sentence embeddings (CSS).

The LEGION and FakeVLM papers print a "CSS" without naming its encoder, and another encoder gives
another number, so the encoder is named by whoever asks for the score, and stored beside it.
"""

import functools
import types
from collections.abc import Callable, Sequence

import numpy as np

from input_pipeline.errors import UserError
from input_pipeline.text.words import words
from legion_jax.evaluate import minilm_files

PAIRS = 1024  # handed to an encoder at once, which batches their texts by length
BATCH = 64  # texts that sentence-transformers encodes at once


def rouge_l(prediction: str, reference: str) -> float:
    """F-measure, 0 to 1, of the longest common subsequence of words, without stemming.

    Both are plain texts, free of `<p>` and `[SEG]`, of which the words are compared; a text without
    any scores 0 (Lin 2004, as in Google's rouge_score, which knows a-z and 0-9 alone).
    """
    return float(_rouge().score(reference, prediction)["rougeL"].fmeasure)


def cosines(predictions: Sequence[str], references: Sequence[str],
            encode: Callable[[list[str]], np.ndarray]) -> list[float]:
    """Cosine, -1 to 1, of the embeddings of each prediction and its reference.

    Args:
        encode: N texts -> float[N, D]; need not be normalised.

    A prediction without a word scores 0: what an encoder makes of nothing is arbitrary.

    Raises ValueError when there is not one reference for each prediction.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions, but {len(references)} references")
    similarities = []
    for start in range(0, len(predictions), PAIRS):
        ours, theirs = (list(texts[start:start + PAIRS]) for texts in (predictions, references))
        a, b = np.split(np.asarray(encode(ours + theirs), np.float64), 2)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosine = np.clip((a * b).sum(1) / np.where(norms > 0, norms, 1), -1, 1)
        similarities += [float(c) if text.strip() else 0.0
                         for c, text in zip(cosine, ours, strict=True)]
    return similarities


def add_css(rows: Sequence[dict], encode: Callable[[list[str]], np.ndarray]) -> None:
    """Set `css` of every row with a reference to the cosine of explanation and reference."""
    scored = [row for row in rows if row["rouge_l"] is not None]
    similarities = cosines([row["explanation"] for row in scored],
                           [row["reference"] for row in scored], encode)
    for row, similarity in zip(scored, similarities, strict=True):
        row["css"] = similarity


def encoder(name: str) -> Callable[[list[str]], np.ndarray]:
    """The sentence encoder `name`: "minilm", a folder, or a name on the Hugging Face hub.

    "minilm" is all-MiniLM-L6-v2 in JAX; any other goes through sentence-transformers. Raises
    UserError when the packages of the one or the other are not installed, when the files of
    all-MiniLM-L6-v2 are not the published ones, and when there is no other model of that name.
    """
    if name == minilm_files.NAME:
        minilm_files.require()
        from legion_jax.evaluate import sentence_encoder  # late: it brings in JAX, and an extra

        return sentence_encoder.open_minilm()
    try:
        import sentence_transformers  # an optional extra, with PyTorch
    except ImportError as error:
        raise UserError(f"--css_model={name}: sentence-transformers is not installed: "
                        f"{minilm_files.HINT}") from error
    try:
        model = sentence_transformers.SentenceTransformer(name)
    except (OSError, ValueError) as error:  # no such folder; no network; not a model
        raise UserError(f"--css_model={name}: {' '.join(str(error).split())[:300]}") from error
    return lambda texts: model.encode(texts, batch_size=BATCH, show_progress_bar=False,
                                      convert_to_numpy=True)


@functools.cache
def _rouge():
    # Imported late: it brings in nltk, which takes seconds and loads whatever it finds installed.
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False,
                                    tokenizer=types.SimpleNamespace(tokenize=words))
