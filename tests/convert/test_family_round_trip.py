"""FakeVLM and SIDA in, out and in again: random sizes, spellings, dtypes, shards and formats."""

import dataclasses
import json
import pathlib
import tempfile

import family_folders
import layouts
import numpy as np
import pytest
import test_round_trip
from hypothesis import given, settings, strategies as st
from test_round_trip import DRAWN, DTYPES, by_file, clips, languages, sams, sizes

from legion_jax.config import TOKEN, WORDS, LegionConfig, VerdictConfig
from legion_jax.convert import from_torch
from legion_jax.convert.config_files import published_configs
from legion_jax.convert.names import LLAVA_5, LLAVA_5_FILE, LLAVA_NEW, LLAVA_OLD
from legion_jax.weights import checkpoint

PIECES = 259  # of a tokenizer that spells bytes alone
LLAVA = (LLAVA_OLD, LLAVA_NEW, LLAVA_5, LLAVA_5_FILE)
traced_once = test_round_trip.traced_once


@st.composite
def fakevlms(draw):
    return LegionConfig(
        vision=draw(clips()), language=draw(languages(PIECES)), sam=None,
        verdict=VerdictConfig(WORDS, ("real", "fake"), hidden=0), position_dtype="float32")


@st.composite
def sidas(draw):
    sam = dataclasses.replace(draw(sams()), decoder_heads=draw(st.sampled_from([1, 2, 4])))
    return LegionConfig(
        vision=draw(clips()), projector="linear", language=draw(languages(PIECES)), sam=sam,
        verdict=VerdictConfig(TOKEN, ("real", "synthetic", "tampered"), hidden=draw(sizes)),
        fusion=True, position_dtype=draw(st.sampled_from(["float32", "bfloat16"])))


def drawn_tensors(draw, config):
    """Every tensor in a dtype of its own."""
    seed = draw(st.integers(0, 1000), "seed")
    kinds = draw(st.lists(st.sampled_from(sorted(DTYPES)), min_size=1, max_size=3), "dtypes")
    rng = np.random.default_rng(seed)
    return {name: value.astype(DTYPES[rng.choice(kinds)])
            for name, value in family_folders.random_tensors(config, seed=seed).items()}


def check_files(source: pathlib.Path, back: pathlib.Path) -> None:
    """Every file is back, weights by tensor and the others by byte."""
    weights = by_file(source).keys()
    assert weights == by_file(back).keys()
    layouts.assert_same_arrays(layouts.raw(source), layouts.raw(back))
    for file in source.iterdir():
        if file.name not in weights and ".index." not in file.name:
            assert file.read_bytes() == (back / file.name).read_bytes(), file


def check_fakevlm(draw):
    config, layout = draw(fakevlms(), "config"), draw(st.sampled_from(["legion", "hf"]), "layout")
    tensors = drawn_tensors(draw, config)
    table = draw(st.sampled_from(LLAVA), "table")
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        family_folders.fakevlm(
            root / "in", config, tensors, table=table, short=draw(st.booleans(), "short"),
            suffix=draw(st.sampled_from([".bin", ".safetensors"]), "suffix"),
            shards=draw(st.integers(1, 3), "shards"), spare=draw(st.integers(0, 5), "spare"))
        summary = layouts.convert(root / "in", root / "jax")
        assert summary.config == config and not summary.unknown and not summary.absent
        assert checkpoint.read_meta(root / "jax").dialogue == "llava15_chat"
        back = layouts.write(root / "jax", root / "out", layout)
        if layout == "legion":
            check_files(root / "in", back)
        else:
            layouts.assert_same_arrays(layouts.raw(back), family_folders.spelled(
                tensors, LLAVA_OLD))
        layouts.convert(back, root / "again")
        layouts.assert_same_checkpoint(root / "again", root / "jax")


def check_sida(draw):
    config = draw(sidas(), "config")
    tensors = drawn_tensors(draw, config)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        main, clip = family_folders.sida(
            root / "in", config, tensors, short=draw(st.booleans(), "short"),
            suffix=draw(st.sampled_from([".bin", ".safetensors"]), "suffix"),
            shards=draw(st.integers(1, 3), "shards"))
        sam = json.loads(published_configs(config)["legion"]["sam_config.json"])
        summary = layouts.convert(main, root / "jax", clip=clip, sam_config=sam)
        assert summary.config == config and not summary.unknown and not summary.absent
        assert checkpoint.read_meta(root / "jax").dialogue == "sida"
        assert from_torch.verify(root / "jax", progress=False) == []
        back = layouts.write(root / "jax", root / "out")
        check_files(main, back)
        check_files(clip, back / "clip")
        layouts.convert(back, root / "again", clip=back / "clip", sam_config=sam)
        layouts.assert_same_checkpoint(root / "again", root / "jax")


@pytest.mark.parametrize("check", [check_fakevlm, check_sida])
@settings(DRAWN, max_examples=3)
@given(data=st.data())
def test_in_out_in_is_the_identity(check, data):
    check(data.draw)


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_fakevlm, check_sida])
@settings(DRAWN, max_examples=60)
@given(data=st.data())
def test_in_out_in_is_the_identity_of_many(check, data):
    check(data.draw)
