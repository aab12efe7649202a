"""input_pipeline/text/tokenizer.py: the splitting rules, decoding, training, and broken folders."""

import json
import pickle
import random
import shutil

import pytest

from input_pipeline.text.tokenizer import (
    ADDED_TOKENS,
    IMAGE_ID,
    Tokenizer,
    TokenizerError,
    train_tokenizer,
)

TEXTS = [
    "The left ear of the dog merges with the wall, which is a clear structural artifact.",
    "It is a red car.\n  The two dogs there are 12 years old.",
    "USER: what is in the picture? ASSISTANT: the dog and the car </s>",
    "The texture of the wall is <p> repeated </p> [SEG] and the shadow of the car is missing.",
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tiny"
    train_tokenizer(TEXTS, 340, path)
    return path


@pytest.fixture(scope="session")
def tokenizer(folder):
    return Tokenizer.from_folder(folder)


def copy_of(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def added_ids(tokenizer, *tokens):
    return [tokenizer.added[token] for token in tokens]


def test_ids_of_special_tokens(tokenizer):
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert list(tokenizer.added) == sorted(ADDED_TOKENS)
    assert added_ids(tokenizer, *ADDED_TOKENS) == list(range(340, 347))
    assert tokenizer.vocab_size == 347
    assert added_ids(tokenizer, "[SEG]", "<p>", "</p>") == [
        tokenizer.seg_id, tokenizer.phrase_start_id, tokenizer.phrase_end_id
    ]


def test_bos_is_optional_and_eos_is_never_added(tokenizer):
    assert tokenizer.encode("") == [1]
    assert tokenizer.encode("", bos=False) == []
    assert tokenizer.encode("the dog") == [1, *tokenizer.encode("the dog", bos=False)]
    assert tokenizer.encode("the dog</s>")[-1] == 2


@pytest.mark.parametrize("token", ADDED_TOKENS)
def test_white_space_beside_added_tokens_is_dropped(tokenizer, token):
    plain = tokenizer.encode(f"the dog{token}the car")
    assert tokenizer.encode(f"the dog \n {token}\t  the car") == plain
    assert tokenizer.added[token] in plain


@pytest.mark.parametrize("token", ["<s>", "</s>", "<unk>"])
def test_white_space_beside_control_tokens_stays(tokenizer, token):
    ids = tokenizer.encode(f"the {token} the", bos=False)
    left = tokenizer.encode("the ", bos=False)
    right = tokenizer.encode(" the", bos=False)
    index = {"<unk>": 0, "<s>": 1, "</s>": 2}[token]
    assert ids == [*left, index, *right]
    assert left != tokenizer.encode("the", bos=False)


def test_every_piece_between_tokens_is_encoded_on_its_own(tokenizer):
    the = tokenizer.encode("the", bos=False)
    assert tokenizer.encode("the[SEG]the", bos=False) == [*the, tokenizer.seg_id, *the]


def test_case_and_inner_spaces_break_added_tokens(tokenizer):
    for text in ("[seg]", "[SEG ]", "<P>", "< p>"):
        ids = tokenizer.encode(text, bos=False)
        assert not set(ids) & set(tokenizer.added.values()), text
        assert tokenizer.decode(ids) == text


def test_newline_and_unseen_characters_fall_back_to_bytes(tokenizer):
    bare = len(tokenizer.encode("a", bos=False))
    assert len(tokenizer.encode("a\n", bos=False)) == bare + 1
    assert len(tokenizer.encode("a😀", bos=False)) == bare + 4
    assert 0 not in tokenizer.encode("日本語 na\u00efve\n\u2014 caf\u00e9")


def test_image_becomes_one_id_and_splits_the_text(tokenizer):
    left, right = tokenizer.encode("see the "), tokenizer.encode("?", bos=False)
    assert tokenizer.encode_with_image("see the <image>?") == [*left, IMAGE_ID, *right]
    assert tokenizer.encode_with_image("<image>") == [1, IMAGE_ID]
    assert tokenizer.encode_with_image("<image><image>") == [1, IMAGE_ID, IMAGE_ID]
    assert IMAGE_ID not in tokenizer.encode("see the <image>?")


@pytest.mark.parametrize(
    "text, decoded, without",
    [
        ("", "<s>", ""),
        ("It is [SEG].", "<s>It is [SEG] .", "It is [SEG] ."),
        ("the dog</s>", "<s> the dog</s>", "the dog"),
        ("[SEG] [SEG]\n[SEG]", "<s> [SEG] [SEG] [SEG]", "[SEG] [SEG] [SEG]"),
        ("<p>\ty</p>z", "<s> <p> y </p> z", "<p> y </p> z"),
        ("[SEG] is</s>", "<s> [SEG]  is</s>", "[SEG] is"),
        ("<unk><s>", "<s><unk><s>", ""),
    ],
)
def test_spaces_in_decoded_text(tokenizer, text, decoded, without):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == decoded
    assert tokenizer.decode(ids, skip_special=True) == without


def test_a_run_that_decodes_to_nothing_still_takes_a_space(tokenizer):
    space = tokenizer.encode(" ", bos=False)[:1]
    assert tokenizer.decode([tokenizer.seg_id, *space, tokenizer.seg_id]) in (
        "[SEG]  [SEG]", "[SEG]   [SEG]"  # as "▁" or, where the vocabulary has it, as "▁▁"
    )


def test_decode_leaves_images_out(tokenizer):
    ids = tokenizer.encode_with_image("the <im_start><image><im_end> dog")
    assert tokenizer.decode(ids) == "<s>the <im_start> <im_end> dog"


def test_decode_names_an_id_outside_the_vocabulary(tokenizer):
    for index in (tokenizer.vocab_size, -1):
        with pytest.raises(TokenizerError, match=f"id {index} is outside .* of 347"):
            tokenizer.decode([1, index])


def test_random_texts_come_back(tokenizer):
    rng = random.Random(0)
    letters = "ab T.,:'\n09é日😀<>[]/\\▂"
    for _ in range(300):
        text = "".join(rng.choices(letters, k=rng.randrange(0, 30)))
        ids = tokenizer.encode(text, bos=False)
        assert tokenizer.decode(ids) == text
        assert all(0 < index < tokenizer.vocab_size for index in ids)


def test_pickle_keeps_everything(tokenizer):
    other = pickle.loads(pickle.dumps(tokenizer))
    text = "<p> the dog </p> [SEG] is red</s>"
    assert other.encode(text) == tokenizer.encode(text)


def test_save_writes_the_same_files(tokenizer, folder, tmp_path):
    new = tmp_path / "deep" / "new"
    tokenizer.save(new)
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "config.json").write_text("{}")
    (occupied / "tokenizer.model").write_bytes(b"old")
    tokenizer.save(occupied)
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 4
    assert sorted(path.name for path in new.iterdir()) == names
    assert sorted(path.name for path in occupied.iterdir()) == sorted(["config.json", *names])
    for name in names:
        assert (new / name).read_bytes() == (folder / name).read_bytes()
        assert (occupied / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "occupied"]


def test_training_is_deterministic(folder, tmp_path):
    train_tokenizer(iter(TEXTS), 340, tmp_path / "again")
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_small_corpus_lowers_the_vocabulary(tmp_path):
    small = train_tokenizer(["the dog"], 5000, tmp_path / "small")
    assert 256 < small.vocab_size < 300
    assert sorted(small.added.values())[-1] == small.vocab_size - 1
    assert Tokenizer.from_folder(tmp_path / "small").added == small.added


@pytest.mark.parametrize("texts, size", [([], 400), ([" \n[SEG] "], 400), (["the dog"], 100)])
def test_training_failure_leaves_nothing(tmp_path, texts, size):
    with pytest.raises(TokenizerError, match=f"cannot learn {size} pieces from"):
        train_tokenizer(texts, size, tmp_path / "none")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tokenizer.model", "added_tokens.json"])
def test_missing_file_is_named(folder, tmp_path, name):
    broken = copy_of(folder, tmp_path)
    (broken / name).unlink()
    with pytest.raises(TokenizerError, match=f"copy/{name}: not found"):
        Tokenizer.from_folder(broken)


def test_other_files_may_be_missing(folder, tmp_path):
    bare = copy_of(folder, tmp_path)
    (bare / "tokenizer_config.json").unlink()
    assert "tokenizer_config.json" not in Tokenizer.from_folder(bare).files


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", None])
def test_broken_model_is_named(folder, tmp_path, content):
    broken = copy_of(folder, tmp_path)
    model = broken / "tokenizer.model"
    model.write_bytes(model.read_bytes()[:1000] if content is None else content)
    with pytest.raises(TokenizerError, match="copy/tokenizer.model: (not a|holds no)"):
        Tokenizer.from_folder(broken)


@pytest.mark.parametrize(
    "change, message",
    [
        ("{", "copy/added_tokens.json: not valid JSON"),
        ("[1]", r"must map tokens to whole numbers, found \[1\]"),
        ('{"[SEG]": "7"}', "must map tokens to whole numbers"),
        ({"[SEG]": None}, r"copy: added_tokens.json has no \[SEG\], found \['</p>'"),
        ({"[SEG]": 340}, "from 340 to 346 once, found .* with 340 in place of 341"),
        ({"</p>": 400}, "found </p> with 400 in place of 346"),
        ({"</s>": 347}, "must leave </s> to tokenizer.model, found it with id 347"),
        ({"": 347}, "must map tokens to whole numbers"),
    ],
)
def test_broken_added_tokens_are_named(folder, tmp_path, change, message):
    broken = copy_of(folder, tmp_path)
    file = broken / "added_tokens.json"
    if isinstance(change, dict):
        merged = json.loads(file.read_text()) | change
        change = json.dumps({key: value for key, value in merged.items() if value is not None})
    file.write_text(change)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_folder(broken)


def test_wrong_control_tokens_are_named(folder):
    tokenizer = Tokenizer.from_folder(folder)
    tokenizer._control = {0: "<unk>", 1: "<bos>", 2: "</s>"}
    with pytest.raises(TokenizerError, match="ids 0, 1, 2 must be <unk>, <s>, </s>, found"):
        tokenizer.check()
