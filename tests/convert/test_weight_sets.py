"""Several sets of weights in one folder: which is read, and where a conversion has to stop."""

import itertools
import json
import random
import shutil

import layouts
import numpy as np
import published
import pytest
import safetensors.numpy
import torch
import transformers
from stored_params import read_params

from legion_jax.convert import agreement, weight_sets
from legion_jax.convert.from_torch import verify
from legion_jax.convert.roles import Source, Sources
from legion_jax.weights import checkpoint
from legion_jax.weights.checkpoint_error import CheckpointError
from tools.inspect_params import __main__ as inspect_params

NAME = "model.norm.weight"
STANDARD = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
            "pytorch_model.bin.index.json")
sized, folders = layouts.sized, layouts.folders


@pytest.fixture(scope="module")
def llama():
    """The smallest of transformers' models with names that a conversion knows."""
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        vocab_size=5))


def put(folder, name: str, state: dict, value: float, lacking: int | None = None) -> None:
    """One of `STANDARD` with this value everywhere; of two shards `lacking` are not there."""
    tensors = {key: np.full(t.shape, value, np.float32) for key, t in state.items()}
    suffix = ".safetensors" if "safetensors" in name else ".bin"
    published.save_shards(folder, tensors, suffix=suffix, shards=2 if "index" in name else 1)
    for number in range(lacking or 0):
        stem = name.split(".")[0]
        (folder / f"{stem}-{2 - number:05d}-of-00002{suffix}").unlink()


def value_for_transformers(folder) -> float | None:
    """What `from_pretrained` finds; None where it stops."""
    try:
        model = transformers.LlamaForCausalLM.from_pretrained(folder)
    except (OSError, FileNotFoundError, safetensors.SafetensorError, RuntimeError):
        return None
    return float(model.state_dict()[NAME][0])


def value_for_conversion(folder) -> tuple[float | None, bool, set[str]]:
    """(what is read, whether the sets agree, names of what is said not to be read)."""
    try:
        sources = Sources({"main": Source.open(folder)})
    except CheckpointError:
        return None, False, set()
    value = float(sources.read(NAME)[0])
    try:
        unread = agreement.check(sources, progress=False).get("main", {})
    except CheckpointError:
        return value, False, set()
    assert not sources.leftovers
    return value, True, {*sources.ignored["main"], *unread}


STATES = list(itertools.product((None, 0), (None, 0, 1, 2), (None, 0), (None, 0, 1, 2)))


@pytest.mark.parametrize("second", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_the_order_is_that_of_transformers(llama, tmp_path, second):
    """Every mixture of the four names, shards all there, one missing or both: 64 folders.

    Every `second` of them is compared with what transformers loads.
    """
    state, checked = llama.state_dict(), 0
    llama.config.save_pretrained(tmp_path)
    for number, lacking in enumerate(STATES):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(tmp_path / "config.json", folder)
        there = [(name, count) for name, count in zip(STANDARD, lacking, strict=True)
                 if count is not None]
        for value, (name, count) in enumerate(there, 1):
            put(folder, name, state, value, count)
        whole = [value for value, (_, count) in enumerate(there, 1) if not count]
        half_before = any(count == 1 for value, (_, count) in enumerate(there, 1)
                          if whole and value < whole[0])
        read, agree, _ = value_for_conversion(folder)
        assert read == (whole[0] if whole else None), there
        assert agree == (len(whole) == 1 and not half_before), there
        if number % second == 0 and (theirs := value_for_transformers(folder)):
            assert theirs == read, there
            checked += 1
    assert checked == {1: 45, 5: 9}[second]


def test_sets_of_the_same_values_are_named_and_left(llama, tmp_path):
    state, whole = llama.state_dict(), 0
    for number, lacking in enumerate(STATES):
        folder = tmp_path / str(number)
        folder.mkdir()
        there = [(name, count) for name, count in zip(STANDARD, lacking, strict=True)
                 if count is not None]
        for name, count in there:
            put(folder, name, state, 7, count)
        if not any(count == 0 for _, count in there):
            continue
        read, agree, unread = value_for_conversion(folder)
        first = next(name for name, count in there if not count)
        assert (read, agree) == (7, True), there
        assert unread == {name for name, _ in there} - {first}, there
        whole += 1
    assert whole == 64 - 9


NAMES = [*STANDARD, "adapter_model.safetensors", "adapter_model.bin", "mm_projector.bin",
         "non_lora_trainables.bin", "optimizer.pt", "rng_state_3.pth", "training_args.bin",
         "model.fp16.safetensors", "pytorch_model.bin.index.fp16.json", "tf_model.h5",
         "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
         "pytorch_model-00001-of-00003.bin", "pytorch_model.fp16-00001-of-00002.bin",
         "pytorch_model.fp16-00002-of-00002.bin", "other.ckpt", "head.pth", "._model.safetensors",
         "config.json", "model.safetensors.lock", "consolidated.00.pth"]


@pytest.mark.parametrize("is_adapter", [False, True])
def test_every_weights_file_is_accounted_for(tmp_path, is_adapter):
    """300 random folders: nothing is passed over, and nothing counts twice."""
    rng, refused = random.Random(5), 0
    listing = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
    for number in range(150):
        folder = tmp_path / str(number)
        folder.mkdir()
        names = [name for name in NAMES if rng.random() < 0.35]
        for name in names:
            (folder / name).write_text(listing if "index" in name else "")
        try:
            found = weight_sets.survey(folder, is_adapter=is_adapter)
        except CheckpointError as error:
            refused += 1
            assert str(folder) in str(error)
            continue
        listed = [found.chosen.name, *found.chosen.files, *found.ignored, *found.rest]
        listed += [name for other in found.others for name in {other.name, *other.files}]
        for name in names:
            if name.endswith(("config.json", ".lock")) or name.startswith("."):
                assert name not in listed
            else:
                assert name in listed, (name, names)
        assert not set(found.rest) & {*found.ignored, *found.chosen.files}
    assert 5 < refused < 60


def saved_into(folders, tmp_path, change=None, dtype=None):
    """The folder of a model into which a fine-tuned one was saved as one new file."""
    legion = shutil.copytree(folders[0], tmp_path / "legion")
    state = layouts.raw(legion)
    if change:
        state = {k: (v.astype(np.float32) + np.float32(change)).astype(v.dtype)
                 for k, v in state.items()}
    if dtype:
        state = {k: v.astype(dtype) for k, v in state.items()}
    safetensors.numpy.save_file(state, legion / "model.safetensors")
    return legion


def test_a_stale_index_beside_a_new_file_is_refused(sized, folders, tmp_path):
    legion = saved_into(folders, tmp_path, change=1)
    with pytest.raises(CheckpointError) as error:
        layouts.convert(legion, tmp_path / "out", config=sized, clip=folders[1])
    for part in ("model.safetensors and pytorch_model.bin.index.json hold different weights",
                 "move what is not meant"):
        assert part in str(error.value)
    assert not (tmp_path / "out").exists()
    for file in legion.glob("pytorch_model-*.bin"):  # the index alone is stale
        file.unlink()
    layouts.convert(legion, tmp_path / "out", config=sized, clip=folders[1])
    ignored = checkpoint.read_meta(tmp_path / "out").sources["main"]["ignored"]
    assert list(ignored) == ["pytorch_model.bin.index.json"]
    assert "pytorch_model-00001-of-00002.bin" in ignored["pytorch_model.bin.index.json"]


@pytest.mark.parametrize("dtype", [None, np.float32])
def test_equal_sets_are_said_and_the_first_is_read(sized, folders, tmp_path, caplog, dtype):
    legion = saved_into(folders, tmp_path, dtype=dtype)  # bfloat16 in the shards
    layouts.convert(legion, tmp_path / "out", config=sized, clip=folders[1])
    assert "pytorch_model.bin.index.json: not read: has the values of model.safetensors" in (
        caplog.text)
    meta = checkpoint.read_meta(tmp_path / "out")
    assert [n for n in meta.sources["main"]["sha256"] if "model" in n] == ["model.safetensors"]
    notes = inspect_params.of_torch(str(legion), clip=str(folders[1])).notes
    assert "main: pytorch_model.bin.index.json is not read: model.safetensors comes first; a " \
        "conversion compares them" in notes
    layouts.convert(folders[0], tmp_path / "wanted", config=sized, clip=folders[1])
    wanted = read_params(tmp_path / "wanted")
    for path, value in read_params(tmp_path / "out").items():
        np.testing.assert_array_equal(value.astype(np.float32), wanted[path].astype(np.float32))
    assert verify(tmp_path / "out", progress=False) == []


def write_clip(tmp_path, folders, other: dict, name: str):
    """A copy of the vision tower's folder with a second set of weights."""
    clip = shutil.copytree(folders[1], tmp_path / "clip")
    published.save(clip / name, other)
    return clip


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.fp16.bin",
                                  "pytorch_model-00001-of-00001.bin"])
@pytest.mark.parametrize("key", ["vision_model.post_layernorm.weight", None])
def test_a_second_vision_tower(sized, folders, tmp_path, name, key):
    state = layouts.raw(folders[1])
    if key:
        state[key] = state[key] + np.ones_like(state[key])
    clip = write_clip(tmp_path, folders, state, name)
    if key:
        with pytest.raises(CheckpointError, match=f"hold different weights: {key} differs"):
            layouts.convert(folders[0], tmp_path / "out", config=sized, clip=clip)
        return
    layouts.convert(folders[0], tmp_path / "out", config=sized, clip=clip)
    ignored = checkpoint.read_meta(tmp_path / "out").sources["clip"]["ignored"]
    assert len(ignored) == 1 and "has the values of" in next(iter(ignored.values()))


def check_main(folder, *states: dict) -> dict:
    for name, state in zip(("model.safetensors", "pytorch_model.bin"), states, strict=True):
        published.save(folder / name, state)
    return agreement.check(Sources({"main": Source.open(folder)}), progress=False)


A = {"model.norm.weight": np.arange(4, dtype=np.float32) / 3}


@pytest.mark.parametrize("extra", [
    {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)},
    {"vision_model.embeddings.position_ids": np.arange(3)},
    {"lm_head.weight": A["model.norm.weight"]}])  # another name of the same tensor
def test_what_one_format_leaves_out_is_no_difference(tmp_path, extra):
    assert "has the values of" in check_main(tmp_path, A, A | extra)["main"]["pytorch_model.bin"]
    assert "has the values of" in check_main(tmp_path, A | extra, A)["main"]["pytorch_model.bin"]


@pytest.mark.parametrize("other, key", [
    ({"model.norm.weight": np.ones(4, np.float32)}, "model.norm.weight"),
    ({"model.norm.weight": np.ones(5, np.float32)}, "model.norm.weight"),
    (A | {"lm_head.weight": np.ones(4, np.float32)}, "lm_head.weight"),
    ({"lm_head.weight": np.ones(4, np.float32)}, "lm_head.weight"),
    ({"strange": np.ones(4, np.float32)}, "none of the known layouts")])
@pytest.mark.parametrize("is_first", [True, False])
def test_different_sets(tmp_path, other, key, is_first):
    wanted = key if is_first and "strange" in other else "hold different weights"
    with pytest.raises(CheckpointError, match=wanted) as error:
        check_main(tmp_path, *((other, A) if is_first else (A, other)))
    assert key in str(error.value) or is_first


def test_half_a_float_is_the_same_value_rounded(tmp_path):
    rounded = {k: v.astype(np.float16) for k, v in A.items()}
    assert check_main(tmp_path, A, rounded)["main"]
    off = {k: np.nextafter(v, np.float16(9)) for k, v in rounded.items()}
    with pytest.raises(CheckpointError, match="hold different weights"):
        check_main(tmp_path, A, off)


def test_a_second_set_that_nobody_can_read_is_named(tmp_path):
    """Such as the pointer that git leaves of a large file."""
    published.save(tmp_path / "model.safetensors", A)
    (tmp_path / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    unread = agreement.check(Sources({"main": Source.open(tmp_path)}), progress=False)
    assert unread["main"]["pytorch_model.bin"].startswith("cannot be read (")


def test_the_same_model_under_the_names_of_another_release(sized, folders, tmp_path):
    """Transformers 5 renames a tower's tensors when it saves."""
    state = layouts.raw(folders[1])
    renamed = {key.removeprefix("vision_model."): value for key, value in state.items()}
    assert torch.is_tensor(published.to_torch(next(iter(renamed.values()))))
    clip = write_clip(tmp_path, folders, renamed, "model.safetensors")
    layouts.convert(folders[0], tmp_path / "out", config=sized, clip=clip)


def test_sets_that_cannot_be_compared_here(tmp_path, monkeypatch):
    for name in ("model.safetensors", "pytorch_model.bin"):
        published.save(tmp_path / name, A)
    sources = Sources({"main": Source.open(tmp_path)})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pytorch_model.bin: lies beside model.safetensors, "
                                              "and comparing them needs PyTorch"):
        agreement.check(sources, progress=False)


def test_shards_of_a_first_index_that_is_not_whole(tmp_path):
    """What is there of it may be all that was saved last."""
    first = {"model.norm.weight": "model-00001-of-00002.safetensors",
             "lm_head.weight": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": first}))
    published.save(tmp_path / "pytorch_model.bin", A | {"lm_head.weight": np.zeros(2, np.float32)})
    sources = Sources({"main": Source.open(tmp_path)})
    assert "00001-of-00002.safetensors, which it lists, is not there" in (
        sources.ignored["main"]["model.safetensors.index.json"])
    published.save(tmp_path / "model-00001-of-00002.safetensors", A)
    unread = agreement.check(Sources({"main": Source.open(tmp_path)}), progress=False)["main"]
    assert "00002-of-00002.safetensors is not there; what is there has the values of" in (
        unread["model.safetensors.index.json"])
    published.save(tmp_path / "model-00001-of-00002.safetensors", {k: v + 1 for k, v in A.items()})
    with pytest.raises(CheckpointError, match="hold different weights: model.norm.weight"):
        agreement.check(Sources({"main": Source.open(tmp_path)}), progress=False)
