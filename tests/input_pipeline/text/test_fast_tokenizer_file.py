"""Tokenizers learned for a dialogue, and the files they write for other programs."""

import json
import random

import pytest

from input_pipeline.text.dialogue import LEGION, LLAVA15_CHAT, SIDA
from input_pipeline.text.fast_tokenizer import FAST_FILE, FastTokenizer
from input_pipeline.text.tokenizer import ADDED_TOKENS, Tokenizer, TokenizerError, train_tokenizer

TEXTS = ["This is a fake image. There is a grainy patch at the upper left.",
         "This is a real image. The light, the shapes and the textures agree.",
         "banana bandana ananas  abba  baab", "aaaa aaa aa a"] * 5
BITS = [*" ".join(TEXTS[:4]).split(), " ", "  ", "\n", "<image>", "</s>", "<s>", "<pad>", "<unk>",
        "日本", "é", "▁", "<", "12", "🙂", "aaaaa", "ananananab", "lefthand"]


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned") / "fast"
    LLAVA15_CHAT.train_tokenizer(TEXTS, 400, folder)
    return folder


def test_a_fast_tokenizer_opens_by_its_own_rules(fast):
    tokenizer = LLAVA15_CHAT.open_tokenizer(fast)
    assert type(tokenizer) is FastTokenizer and set(tokenizer.added) == {"<image>", "<pad>"}
    assert tokenizer.pad_id == tokenizer.added["<pad>"] == tokenizer.vocab_size - 1
    assert sorted(path.name for path in fast.iterdir()) == [
        "added_tokens.json", "special_tokens_map.json", FAST_FILE, "tokenizer.model",
        "tokenizer_config.json"]
    config = json.loads((fast / "tokenizer_config.json").read_text())
    assert config["pad_token"] == "<pad>" and {
        token["content"] for token in config["added_tokens_decoder"].values()} == {
        "<unk>", "<s>", "</s>", "<image>", "<pad>"}


def test_the_file_means_the_same_to_the_library_it_is_for(fast):
    library = pytest.importorskip("tokenizers")
    theirs = library.Tokenizer.from_file(str(fast / FAST_FILE))
    ours = LLAVA15_CHAT.open_tokenizer(fast)
    assert theirs.get_vocab_size() == ours.vocab_size
    dice = random.Random(0)
    texts = TEXTS[:4] + ["".join(dice.choices(BITS, k=dice.randint(1, 12))) for _ in range(400)]
    for text in texts:
        ids = ours.encode(text)
        assert theirs.encode(text).ids == ids, text
        assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids), text


def test_a_slow_tokenizer_has_the_tokens_of_its_dialogue(tmp_path):
    tokenizer = SIDA.train_tokenizer(TEXTS, 400, tmp_path / "sida")
    assert type(tokenizer) is Tokenizer
    assert tuple(sorted(tokenizer.added, key=tokenizer.added.get)) == SIDA.tokens
    assert SIDA.open_tokenizer(tmp_path / "sida").added == tokenizer.added
    assert not (tmp_path / "sida" / FAST_FILE).exists()
    with pytest.raises(TokenizerError, match="has no <bbox>.*the dialogue legion needs it"):
        LEGION.open_tokenizer(tmp_path / "sida")


def test_the_usual_tokenizer_is_that_of_the_usual_dialogue(tmp_path):
    plain = train_tokenizer(TEXTS, 400, tmp_path / "plain")
    same = LEGION.train_tokenizer(TEXTS, 400, tmp_path / "legion")
    assert plain.files == same.files and set(plain.added) == {*ADDED_TOKENS}
