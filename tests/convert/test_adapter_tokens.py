"""Adapters with a tokenizer of their own: its tokens are those that training knew."""

import json
import shutil

import layouts
import numpy as np
import published
import pytest
import safetensors.numpy
from stored_params import read_params

from input_pipeline.text.tokenizer import IMAGE_TOKEN, Tokenizer
from input_pipeline.text.tokenizer_files import ADDED_FILE, as_json
from legion_jax.convert.from_torch import verify
from legion_jax.convert.names import LLAVA_NEW
from legion_jax.weights.checkpoint_error import CheckpointError

TRAINED = 777.0
SPARE = 12  # rows of the vocabulary that belong to no token
sized = layouts.sized


class Llava:
    """A LLaVA with spare rows, and the ids of its own tokens."""

    def __init__(self, root, config):
        self.config = config
        legion, _ = published.make(root / "published", config)
        self.tokenizer = Tokenizer.from_folder(legion)
        self.tensors = layouts.random_tensors(config, "float32")
        self.pieces = self.tokenizer.vocab_size - len(self.tokenizer.added)
        self.added = {IMAGE_TOKEN: self.pieces, "<pad>": self.pieces + 1}
        self.rows = {k: np.random.default_rng(1).normal(size=(
            self.pieces + SPARE, self.tensors[k].shape[1])).astype(np.float32)
            for k in layouts.VOCABULARY}
        self.folder = layouts.llava(root / "llava", config, self.tensors | self.rows,
                                    self.tokenizer, added=self.added, image_token=self.pieces)

    def tokens(self, *names: str) -> dict[str, int]:
        """The added tokens with these behind them."""
        return self.added | {name: self.pieces + 2 + n for n, name in enumerate(names)}


OWN = ("[SEG]", "<p>", "</p>", "<im_start>", "<im_end>", "<bbox>", "<point>")


@pytest.fixture(scope="module")
def llava(sized, tmp_path_factory):
    return Llava(tmp_path_factory.mktemp("llava"), sized)


def adapter(folder, llava, tokens: dict[str, int] | None, *, rows: int | None = None,
            saved: bool = True, image: int | None = None):
    """LoRA of query and value with the vocabulary, where the row of its [SEG] was trained."""
    rng, root = np.random.default_rng(2), "base_model.model."
    width, state = llava.config.language.width, {}
    for number in range(llava.config.language.layers):
        for name in "qv":
            module = root + LLAVA_NEW.from_published(f"model.layers.{number}.self_attn.{name}_proj")
            state[f"{module}.lora_A.weight"] = rng.normal(size=(2, width)).astype(np.float32)
            state[f"{module}.lora_B.weight"] = rng.normal(size=(width, 2)).astype(np.float32)
    for key, value in llava.rows.items() if saved else ():
        value = np.resize(value, (rows or len(value), width)).copy()
        value[(tokens or {}).get("[SEG]", 0)] = TRAINED
        state[root + LLAVA_NEW.from_published(key)] = value
    folder.mkdir()
    safetensors.numpy.save_file(state, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    if tokens is not None:
        for name, content in (llava.tokenizer.files | {ADDED_FILE: as_json(tokens)}).items():
            (folder / name).write_bytes(content)
    return folder


def converted(llava, own, output, **options):
    layouts.convert(llava.folder, output, adapter=own, partial=True, **options)
    return Tokenizer.from_folder(output / "tokenizer"), read_params(output)


def trained_rows(params: dict[str, np.ndarray]) -> tuple[list[int], list[int]]:
    """Rows of the embedding and of the head that are those of a trained [SEG]."""
    return tuple([int(n) for n in np.flatnonzero((matrix == TRAINED).all(axis=1))]
                 for matrix in (params["language/embed/embedding"],
                                params["language/head/kernel"].T))


@pytest.mark.parametrize("rows", [None, "exactly", "more"])
def test_the_tokens_of_the_adapter_decide(llava, tmp_path, caplog, rows):
    """Also where its embedding was resized, as to `len(tokenizer)`."""
    tokens = llava.tokens(*OWN)
    count = {None: None, "exactly": llava.pieces + len(tokens), "more": llava.pieces + 64}[rows]
    own = adapter(tmp_path / "adapter", llava, tokens, rows=count)
    tokenizer, params = converted(llava, own, tmp_path / "out")
    assert tokenizer.added == tokens and tokenizer.seg_id == llava.pieces + 2
    assert trained_rows(params) == ([tokenizer.seg_id], [tokenizer.seg_id])
    assert f"[SEG] is {llava.pieces + 2}, {llava.pieces + 6} there" in caplog.text
    assert verify(tmp_path / "out", progress=False) == []
    layouts.write(tmp_path / "out", tmp_path / "back", "adapter")
    again, other = converted(llava, tmp_path / "back", tmp_path / "again")
    assert again.added == tokens
    layouts.assert_same_arrays(other, params)


@pytest.mark.parametrize("tokens", [None, "base", "own"])
def test_tokens_that_agree_change_nothing(llava, tmp_path, caplog, tokens):
    base, _ = converted(llava, adapter(tmp_path / "bare", llava, None), tmp_path / "bare_out")
    given = {None: None, "base": llava.added, "own": base.added}[tokens]
    tokenizer, _ = converted(llava, adapter(tmp_path / "adapter", llava, given), tmp_path / "out")
    assert tokenizer.added == base.added and "tokenizer" not in caplog.text


def test_a_token_where_ours_would_go(llava, tmp_path):
    """The adapter knows nothing of [SEG], but its own token is not overwritten."""
    own = adapter(tmp_path / "adapter", llava, llava.tokens("<mine>"))
    tokenizer, _ = converted(llava, own, tmp_path / "out")
    assert tokenizer.added["<mine>"] == llava.pieces + 2
    assert tokenizer.seg_id == llava.pieces + 7


def refused(llava, own, tmp_path, **options) -> str:
    with pytest.raises(CheckpointError) as error:
        layouts.convert(llava.folder, tmp_path / "out", adapter=own, partial=True, **options)
    assert not (tmp_path / "out").exists() and "--tokenizer" in str(error.value)
    return str(error.value)


def test_embeddings_that_were_not_saved(llava, tmp_path):
    """The base has rows for some of the tokens only."""
    tokens = llava.tokens(*OWN, *(f"<extra {n}>" for n in range(SPARE)))
    own = adapter(tmp_path / "adapter", llava, tokens, saved=False)
    message = refused(llava, own, tmp_path)
    assert f"{llava.pieces + len(tokens)} tokens" in message
    assert f"the embedding has {llava.pieces + SPARE} rows" in message


def test_ids_with_a_gap(llava, tmp_path):
    """Tokens behind the spare rows: the ids between them belong to nothing."""
    tokens = llava.added | {name: llava.pieces + SPARE + n for n, name in enumerate(OWN)}
    own = adapter(tmp_path / "adapter", llava, tokens, rows=llava.pieces + SPARE + 7)
    assert f"found [SEG] with {llava.pieces + SPARE} in place" in refused(llava, own, tmp_path)


def test_another_row_for_images(llava, tmp_path):
    tokens = {token: llava.pieces + n for n, token in enumerate(("<pad>", IMAGE_TOKEN, *OWN))}
    own = adapter(tmp_path / "adapter", llava, tokens)
    assert f"<image> is {llava.pieces + 1} in its tokenizer" in refused(llava, own, tmp_path)


def listed(tokens: dict[str, int], file: str) -> bytes:
    """What transformers writes of added tokens."""
    if file == "tokenizer.json":
        return json.dumps({"added_tokens": [{"id": i, "content": t} for t, i in tokens.items()]
                           }).encode()
    return json.dumps({"added_tokens_decoder": {
        str(i): {"content": t} for t, i in tokens.items()}}).encode()


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_an_incomplete_tokenizer(llava, tmp_path, file):
    """As transformers 5 saves it, without what is read here."""
    own = adapter(tmp_path / "adapter", llava, None)
    control = {"<unk>": 0, "<s>": 1, "</s>": 2}
    (own / file).write_bytes(listed(control | llava.tokens(*OWN), file))
    message = refused(llava, own, tmp_path)
    assert f"[SEG] is {llava.pieces + 2}" in message and "tokenizer.model is not there" in message
    (own / file).write_bytes(listed(control | llava.added, file))
    tokenizer, _ = converted(llava, own, tmp_path / "out")
    assert tokenizer.seg_id == llava.pieces + 6


def test_files_of_one_tokenizer_that_disagree(llava, tmp_path):
    own = adapter(tmp_path / "adapter", llava, llava.tokens(*OWN))
    (own / "tokenizer.json").write_bytes(listed(llava.tokens(*OWN[::-1]), "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"tokenizer.json: .* in another file .*--tokenizer"):
        converted(llava, own, tmp_path / "out")
    tokenizer, _ = converted(llava, own, tmp_path / "out", tokenizer=str(llava.folder))
    assert tokenizer.seg_id == llava.pieces + 6


@pytest.mark.parametrize("ids", ["others", "more"])
def test_a_whole_model_whose_tokenizer_files_disagree(llava, tmp_path, ids):
    """Saved into the folder it came from, where the older files stay."""
    own = shutil.copytree(llava.folder, tmp_path / "own")
    (own / "tokenizer.json").write_bytes(listed(llava.added, "tokenizer.json"))
    layouts.convert(own, tmp_path / "same", partial=True)
    tokens = llava.tokens(*OWN) if ids == "more" else {"<pad>": llava.pieces + 3}
    (own / "tokenizer.json").write_bytes(listed(tokens, "tokenizer.json"))
    with pytest.raises(CheckpointError, match="do not agree|in another file"):
        layouts.convert(own, tmp_path / "out", partial=True)


@pytest.mark.parametrize("content", ['{"added_tokens": {"a": 1}}', '{"added_tokens": [{}]}',
                                     '{"added_tokens": 3}', "[]", "{"])
def test_damaged_tokenizer_files_are_named(llava, tmp_path, content):
    own = adapter(tmp_path / "adapter", llava, None)
    (own / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match="adapter/tokenizer.json: "):
        converted(llava, own, tmp_path / "out")


def test_a_tokenizer_that_is_named_is_used_and_said(llava, tmp_path, caplog):
    own = adapter(tmp_path / "adapter", llava, llava.tokens(*OWN))
    tokenizer, _ = converted(llava, own, tmp_path / "out", tokenizer=str(llava.folder))
    assert tokenizer.seg_id == llava.pieces + 6 and "as --tokenizer says" in caplog.text
    tokenizer, _ = converted(llava, own, tmp_path / "own", tokenizer=str(own))
    assert tokenizer.seg_id == llava.pieces + 2
