"""input_pipeline/text/fast_tokenizer.py: its rules, where tokens end, other files."""

import json
import pickle
import random

import family_golden
import numpy as np
import pytest

from input_pipeline.text.fast_tokenizer import FAST_FILE, NORMALIZER, FastTokenizer
from input_pipeline.text.tokenizer import IMAGE_ID, Tokenizer, TokenizerError, train_tokenizer
from input_pipeline.text.tokenizer_files import ADDED_FILE, MODEL_FILE, as_json

TOKENS = ("<image>", "<pad>")
PIECES = 330
BITS = ["the dog", "The ear", " ", "  ", "\n", "<image>", "</s>", "<s>", "<pad>", "<unk>", "日本",
        "é", ":", "▁", "<", "image>", "12", "🙂", "\t", "a\u0301", "\u3000"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder as a LLaVA has it."""
    path = tmp_path_factory.mktemp("fast") / "tokenizer"
    learned = train_tokenizer(["The dog and the ear.", "USER: the dog ASSISTANT: the ear"], PIECES,
                              path)
    pieces = FastTokenizer({MODEL_FILE: learned.files[MODEL_FILE], ADDED_FILE: b"{}"}, name="made")
    size = pieces.vocab_size
    vocab = {pieces._pieces.id_to_piece(index): index for index in range(size)}
    added = {token: size + number for number, token in enumerate(TOKENS)}
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    content = {
        "normalizer": NORMALIZER, "pre_tokenizer": None,
        "model": {"type": "BPE", "dropout": None, "byte_fallback": True, "vocab": vocab},
        "added_tokens": [{"content": token, "id": index, **flags} for token, index in
                         ({"<unk>": 0, "<s>": 1, "</s>": 2} | added).items()]}
    (path / ADDED_FILE).write_bytes(as_json(added))
    (path / FAST_FILE).write_text(json.dumps(content))
    return path


@pytest.fixture(scope="session")
def tokenizer(folder):
    return FastTokenizer.from_folder(folder, needed=TOKENS, dialogue="llava15_chat")


def changed(folder, tmp_path, change):
    """A copy whose tokenizer.json `change` was applied to."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    content = json.loads((copy / FAST_FILE).read_text())
    change(content)
    (copy / FAST_FILE).write_text(json.dumps(content))
    return copy


def text_of(tokenizer, ids):
    """Its pieces, each in its own spelling."""
    names = {index: token for token, index in tokenizer._whole.items()}
    return [names.get(index) or tokenizer._pieces.id_to_piece(index) for index in ids]


def test_space_beside_tokens_stays(tokenizer):
    """A piece of text begins with its own "▁", whatever stands before it."""
    ids = tokenizer.encode("the <image>\nthe </s> dog")
    assert text_of(tokenizer, ids) == [
        "<s>", "▁the", "▁", "<image>", "▁", "<0x0A>", "the", "▁", "</s>", "▁", "▁dog"]
    assert tokenizer.encode("<image>the", bos=False) == [
        tokenizer.added["<image>"], *tokenizer.encode("the", bos=False)]
    slow = Tokenizer(tokenizer.files, name="slow")
    assert len(slow.encode("the <image>\nthe")) < len(tokenizer.encode("the <image>\nthe"))


def test_image_becomes_the_placeholder(tokenizer):
    ids = tokenizer.encode("see <image>\n?")
    ids[ids.index(tokenizer.added["<image>"])] = IMAGE_ID
    assert tokenizer.encode_with_image("see <image>\n?") == ids


def test_pad_is_a_token_of_its_own(tokenizer):
    assert tokenizer.pad_id == tokenizer.added["<pad>"] == tokenizer.vocab_size - 1
    bare = FastTokenizer(tokenizer.files | {ADDED_FILE: b"{}"}, name="bare")
    assert bare.pad_id == 0


def test_decoding_joins_tokens_as_they_are(tokenizer):
    ids = tokenizer.encode("the dog <image>\nThe ear</s>")
    assert tokenizer.decode(ids) == "<s> the dog <image> \nThe ear</s>"
    assert tokenizer.decode(ids, skip_special=True) == "the dog  \nThe ear"
    assert tokenizer.decode(tokenizer.encode("  the", bos=False)) == "  the"
    of_no_token = tokenizer.vocab_size + 9
    assert tokenizer.decode([*tokenizer.encode("the", bos=False), of_no_token]) == "the"
    with pytest.raises(TokenizerError, match="id -1 is outside"):
        tokenizer.decode([-1])


def test_bytes_are_characters_all_together_or_none(tokenizer):
    first = tokenizer.encode("🙂", bos=False)
    assert tokenizer.decode(first) == "🙂"
    assert tokenizer.decode(first[:-1]) == "\ufffd" * 3
    assert tokenizer.decode([*first, first[-1]]) == "\ufffd" * 5


def test_ends_are_places_in_the_text(tokenizer):
    ids, ends = tokenizer.encode_with_ends("the dog <image>\n日 </s>")
    assert ids.dtype == ends.dtype == np.int32
    assert text_of(tokenizer, ids[:4]) == ["<s>", "▁the", "▁dog", "▁"]
    assert ids[4] == IMAGE_ID
    #                     <s> the dog ▁  img ▁   \n  three bytes  ▁   </s>
    assert ends.tolist() == [0, 3, 7, 8, 15, 16, 16, 17, 17, 17, 18, 22]


@pytest.mark.parametrize("kind", [Tokenizer, FastTokenizer])
def test_ends_of_any_text(tokenizer, kind):
    """Ids are those without ends; ends never go back, and text is where they say it is."""
    rng, reads = random.Random(3), kind(tokenizer.files, name="any")
    for _ in range(300):
        text = "".join(rng.choices(BITS, k=rng.randrange(9)))
        ids, ends = reads.encode_with_ends(text)
        assert ids.tolist() == reads.encode_with_image(text), text
        assert (np.diff(ends) >= 0).all() and ends[-1] <= len(text), text
        for index, end in zip(ids, ends, strict=True):
            if index == IMAGE_ID:
                assert text[:end].endswith("<image>")
            elif index > 258:
                piece = text_of(reads, [index])[0].lstrip("▁")
                assert text[:end].endswith(piece), (text, piece)


def test_a_vocabulary_that_rewrites_characters_is_refused(tokenizer):
    other = pickle.loads(pickle.dumps(tokenizer))
    other._widths = tokenizer._widths + 1
    with pytest.raises(TokenizerError, match="rewrites characters: 'the' of 3 became"):
        other.encode_with_ends("the")


def test_the_file_is_kept_for_others(tokenizer, folder, tmp_path):
    tokenizer.save(tmp_path / "saved")
    assert (tmp_path / "saved" / FAST_FILE).read_bytes() == (folder / FAST_FILE).read_bytes()


@pytest.mark.parametrize("keys, value, message", [
    (["normalizer"], None, "normalizer is None, known is {'type': 'Sequence'"),
    (["pre_tokenizer"], {"type": "Metaspace"}, "pre_tokenizer is {'type': 'Metaspace'}, known is"),
    (["model", "type"], "Unigram", "model.type is Unigram, known is BPE alone"),
    (["model", "byte_fallback"], False, "model.byte_fallback is False, known is True"),
    (["model", "byte_fallback"], None, "model.byte_fallback is None, known is True"),
    (["model", "ignore_merges"], True, "model.ignore_merges is True, known is None"),
    (["model", "vocab", "<s>"], 7, "id of '<s>' is 7, known is 1 alone"),
    (["model", "vocab", "new"], 7, "model.vocab must have the .* pieces of tokenizer.model, found"),
    (["model", "vocab"], 7, "model.vocab must have the .* pieces of tokenizer.model, found int"),
    (["model"], [], "has no model"),
    (["added_tokens"], None, "added_tokens must be a list of tokens"),
    (["added_tokens", 0, "content"], ["<unk>"], "added_tokens must be a list of tokens"),
    (["added_tokens", 3, "id"], 9, "added_tokens is .*'<image>': 9.*, known is"),
    (["added_tokens", 3, "rstrip"], True, "rstrip of <image> is True, known is False alone"),
    (["added_tokens", 2, "normalized"], True, "normalized of </s> is True")])
def test_other_rules_are_refused(folder, tmp_path, keys, value, message):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value
    copy = changed(folder, tmp_path, change)
    with pytest.raises(TokenizerError, match=f"copy/tokenizer.json: {message}"):
        FastTokenizer.from_folder(copy, needed=TOKENS)


def test_what_is_done_to_padding_in_a_text_does_not_matter(folder, tmp_path):
    copy = changed(folder, tmp_path, lambda content: content["added_tokens"][4].update(
        normalized=True, special=False))
    FastTokenizer.from_folder(copy, needed=TOKENS)


def test_rules_must_be_there(folder, tmp_path):
    copy = changed(folder, tmp_path, lambda content: None)
    (copy / FAST_FILE).unlink()
    with pytest.raises(TokenizerError, match="copy/tokenizer.json: not found"):
        FastTokenizer.from_folder(copy, needed=TOKENS)
    (copy / FAST_FILE).write_text("{")
    with pytest.raises(TokenizerError, match="copy/tokenizer.json: not valid JSON"):
        FastTokenizer.from_folder(copy, needed=TOKENS)


def test_the_library_of_these_files_agrees():
    """Ids, places and decoded text of random texts and ids, by the published vocabulary."""
    library = pytest.importorskip("tokenizers", reason="needs tokenizers")
    case = family_golden.folder("F") / "checkpoint"
    theirs = library.Tokenizer.from_file(str(case / FAST_FILE))
    ours = FastTokenizer.from_folder(case, needed=TOKENS)
    rng = random.Random(4)
    for _ in range(400):
        text = "".join(rng.choices(BITS, k=rng.randrange(12)))
        expected = theirs.encode(text)
        ids, ends = ours.encode_with_ends(text)
        ids[ids == IMAGE_ID] = ours.added["<image>"]
        assert ids.tolist() == expected.ids == ours.encode(text), text
        assert ends.tolist() == [end for _, end in expected.offsets], text
        written = [rng.randrange(ours.vocab_size) for _ in range(rng.randrange(9))]
        written += [rng.randrange(3, 259) for _ in range(rng.randrange(4))]
        for skip in (False, True):
            assert ours.decode(written, skip_special=skip) == (
                theirs.decode(written, skip_special_tokens=skip)), written
            assert ours.decode(ids, skip_special=skip) == (
                theirs.decode(expected.ids, skip_special_tokens=skip)), text
