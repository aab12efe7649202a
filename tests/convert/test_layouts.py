"""Every layout of the same tensors becomes the same checkpoint; Hugging Face's vocabulary stays."""

import json
import shutil

import layouts
import numpy as np
import pytest
from stored_params import read_params

from input_pipeline.text.conversation import encode_prompt
from input_pipeline.text.tokenizer import ADDED_TOKENS, IMAGE_ID, IMAGE_TOKEN, Tokenizer
from input_pipeline.text.tokenizer_files import ADDED_FILE
from legion_jax.convert.from_torch import verify
from legion_jax.convert.names import LLAVA_5_FILE, LLAVA_NEW, LLAVA_OLD
from legion_jax.weights import checkpoint
from legion_jax.weights.checkpoint_error import CheckpointError

SPARE = 64  # rows of a LLaVA of the hub behind its pieces
WITHOUT_SAM = ["sam_encoder", "mask_decoder", "text_projection", "prompt_encoder"]
sized, folders, converted = layouts.sized, layouts.folders, layouts.converted


@pytest.fixture(scope="module")
def tensors(sized):
    return layouts.random_tensors(sized, "bfloat16")


@pytest.fixture(scope="module")
def tokenizer(folders):
    return Tokenizer.from_folder(folders[0])


def test_parameters_are_the_tensors_of_the_files(sized, tensors, converted):
    """An anchor for the comparisons below, written without the conversion's own layouts."""
    params, query = read_params(converted), "model.layers.{}.self_attn.q_proj.weight"
    np.testing.assert_array_equal(params["language/layers/query/kernel"], np.stack(
        [tensors[query.format(i)].T for i in range(sized.language.layers)]))
    vocab = sized.language.vocab
    embedding = params["language/embed/embedding"]
    np.testing.assert_array_equal(embedding[:vocab], tensors["model.embed_tokens.weight"])
    assert len(embedding) == sized.language.padded_vocab and not embedding[vocab:].any()
    np.testing.assert_array_equal(params["sam_encoder/position"], tensors[
        "model.grounding_encoder.image_encoder.pos_embed"][0])


def test_detection_checkpoint_brings_its_vision_tower(sized, tensors, folders, converted,
                                                      tmp_path):
    source = layouts.detection(tmp_path / "cls", folders[0], tensors)
    summary = layouts.convert(source, tmp_path / "out", config=sized)
    assert not summary.unknown and not summary.absent
    layouts.assert_same_checkpoint(tmp_path / "out", converted)
    layouts.write(tmp_path / "out", tmp_path / "back")
    layouts.assert_same_arrays(layouts.raw(tmp_path / "back"), layouts.raw(source))


def test_head_that_came_apart_goes_back_to_its_file(sized, tensors, folders, converted, tmp_path):
    inside = {k: v for k, v in tensors.items() if not k.startswith(layouts.HEADS)}
    source = layouts.detection(tmp_path / "cls", folders[0], inside)
    head = layouts.heads(tmp_path / "head" / "heads.bin", tensors)
    layouts.convert(source, tmp_path / "out", config=sized, head=head)
    back = layouts.write(tmp_path / "out", tmp_path / "back")
    layouts.assert_same_arrays(layouts.raw(back), layouts.raw(source))
    layouts.convert(back, tmp_path / "again", config=sized, head=back / "head" / "heads.bin")
    layouts.assert_same_checkpoint(tmp_path / "again", converted)


def test_given_vision_tower_goes_before_the_one_inside(sized, tensors, folders, converted,
                                                       tmp_path):
    inside = {k: -v if k.startswith("vision_model.") else v for k, v in tensors.items()}
    source = layouts.detection(tmp_path / "cls", folders[0], inside)
    layouts.convert(source, tmp_path / "out", config=sized, clip=folders[1])
    layouts.assert_same_checkpoint(tmp_path / "out", converted)


@pytest.mark.parametrize("table", [LLAVA_OLD, LLAVA_NEW,
                                   LLAVA_5_FILE], ids=lambda table: table.name)
def test_llava_with_the_original_sam(sized, tensors, tokenizer, converted, tmp_path, table):
    summary = layouts.convert(
        layouts.llava(tmp_path / "llava", sized, tensors, tokenizer, table=table),
        tmp_path / "out", config=sized,
        sam=layouts.sam_original(tmp_path / "sam_vit_h.pth", tensors),
        head=layouts.heads(tmp_path / "heads.bin", tensors))
    assert not summary.unknown and not summary.absent
    layouts.assert_same_checkpoint(tmp_path / "out", converted)
    assert verify(tmp_path / "out", progress=False) == []


def test_llava_with_the_sam_of_transformers(sized, tensors, tokenizer, converted, tmp_path):
    """Its config.json tells the number of heads, which no option gives here."""
    layouts.convert(
        layouts.llava(tmp_path / "llava", sized, tensors, tokenizer), tmp_path / "out",
        sam=layouts.sam_folder(tmp_path / "sam", sized, tensors),
        head=layouts.heads(tmp_path / "heads.safetensors", tensors))
    layouts.assert_same_checkpoint(tmp_path / "out", converted)


def test_hf_export_comes_back(converted, tmp_path):
    layouts.convert(layouts.write(converted, tmp_path / "hf", "hf"), tmp_path / "out")
    layouts.assert_same_checkpoint(tmp_path / "out", converted)


def of_the_hub(folder, config, tensors, tokenizer, names, spare=SPARE):
    """A LLaVA that knows nothing of `[SEG]`: its tokens, then rows that belong to none."""
    pieces = tokenizer.vocab_size - len(tokenizer.added)
    added = {name: pieces + index for index, name in enumerate(names)}
    rng = np.random.default_rng(1)
    rows = {k: rng.normal(size=(pieces + spare, tensors[k].shape[1])).astype(tensors[k].dtype)
            for k in layouts.VOCABULARY}
    layouts.llava(folder, config, tensors | rows, tokenizer, added=added, image_token=pieces)
    return pieces, rows


@pytest.mark.parametrize("names, spare", [
    ((IMAGE_TOKEN, "<pad>"), SPARE), ((IMAGE_TOKEN,), SPARE), ((IMAGE_TOKEN, "<pad>"), 100)])
def test_llava_of_the_hub(sized, tensors, tokenizer, tmp_path, names, spare):
    """100 spare rows are more than there is padding for the tokens alone."""
    pieces, rows = of_the_hub(tmp_path / "llava", sized, tensors, tokenizer, names, spare)
    summary = layouts.convert(tmp_path / "llava", tmp_path / "out", partial=True)
    first = pieces + len(names)
    ids = {token: first + index for index, token in enumerate(ADDED_TOKENS)}
    extended = Tokenizer.from_folder(tmp_path / "out" / "tokenizer")
    assert extended.added == ids | {name: pieces + i for i, name in enumerate(names)}
    assert summary.config.language.vocab == first + len(ADDED_TOKENS) == extended.vocab_size
    stored = read_params(tmp_path / "out")
    for name, value in (("model.embed_tokens.weight", stored["language/embed/embedding"]),
                        ("lm_head.weight", stored["language/head/kernel"].T)):
        np.testing.assert_array_equal(value[:len(rows[name])], rows[name])
        assert not value[len(rows[name]):].any()
    layouts.write(tmp_path / "out", tmp_path / "hf", "hf")
    back = layouts.raw(tmp_path / "hf" / "llava")
    layouts.assert_same_arrays(layouts.raw(tmp_path / "llava"), back)
    assert json.loads((tmp_path / "hf/llava" / ADDED_FILE).read_text()) == extended.added
    config = layouts.read_json(tmp_path / "hf/llava/config.json")
    assert config["image_token_index"] == pieces == extended.added[IMAGE_TOKEN]
    assert config["text_config"]["vocab_size"] == pieces + spare
    layouts.convert(tmp_path / "hf", tmp_path / "again", partial=True)
    layouts.assert_same_checkpoint(tmp_path / "again", tmp_path / "out")


def test_llava_of_the_hub_through_the_published_layout(sized, tensors, tokenizer, tmp_path):
    """Its `<image>` is a token there, and stays the one that stands for the image."""
    names = (IMAGE_TOKEN, "<pad>")
    pieces, rows = of_the_hub(tmp_path / "llava", sized, tensors, tokenizer, names)
    layouts.convert(tmp_path / "llava", tmp_path / "out", partial=True)
    legion = layouts.write(tmp_path / "out", tmp_path / "legion")
    layouts.convert(legion, tmp_path / "again", clip=legion / "clip", partial=True)
    layouts.write(tmp_path / "again", tmp_path / "hf", "hf")
    vocab = pieces + len(names) + len(ADDED_TOKENS)
    head = layouts.raw(tmp_path / "hf" / "llava")["language_model.lm_head.weight"]
    np.testing.assert_array_equal(head, rows["lm_head.weight"][:vocab])
    config = layouts.read_json(tmp_path / "hf/llava/config.json")
    assert config["image_token_index"] == pieces


def test_run_on_a_llava_of_the_hub_keeps_its_rows(sized, tensors, tokenizer, tmp_path):
    of_the_hub(tmp_path / "llava", sized, tensors, tokenizer, (IMAGE_TOKEN, "<pad>"))
    layouts.convert(tmp_path / "llava", tmp_path / "out", partial=True)
    layouts.trained_run(tmp_path / "run", tmp_path / "out", trainable=("query/lora_[ab]$",))
    layouts.write(tmp_path / "run", tmp_path / "hf", "hf")
    before, after = layouts.raw(tmp_path / "llava"), layouts.raw(tmp_path / "hf" / "llava")
    layouts.assert_same_arrays(*({k: v for k, v in state.items() if "q_proj" not in k}
                                 for state in (before, after)))


def test_llava_alone_needs_partial(sized, tensors, tokenizer, tmp_path):
    source = layouts.llava(tmp_path / "llava", sized, tensors, tokenizer)
    with pytest.raises(CheckpointError) as error:
        layouts.convert(source, tmp_path / "out")
    for name in (*WITHOUT_SAM, "--sam", "--head", "--partial"):
        assert name in str(error.value)
    assert not (tmp_path / "out").exists()
    summary = layouts.convert(source, tmp_path / "out", partial=True)
    assert sorted(summary.absent) == sorted(WITHOUT_SAM)
    assert sorted(checkpoint.read_meta(tmp_path / "out").absent) == sorted(WITHOUT_SAM)
    assert {p.split("/")[0] for p in read_params(tmp_path / "out")} == {
        "vision", "language", "projector"}
    layouts.write(tmp_path / "out", tmp_path / "hf", "hf")
    assert sorted(p.name for p in (tmp_path / "hf").iterdir()) == [
        "README.md", "llava", "prompt_ids.json"]
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "SamModel" not in card and "LoRA" not in card and "holds the LLaVA.\n" in card
    layouts.assert_same_arrays(layouts.raw(tmp_path / "hf" / "llava"), layouts.raw(source))


def test_ids_of_the_prompt_go_with_the_export(sized, converted, tmp_path):
    hf = layouts.write(converted, tmp_path / "hf", "hf")
    ids = json.loads((hf / "prompt_ids.json").read_text())
    image = layouts.read_json(hf / "llava" / "config.json")["image_token_index"]
    assert ids.count(image) == sized.vision.num_patches
    once = [i for n, i in enumerate(ids) if i != image or ids[n - 1] != image]
    ours = encode_prompt(Tokenizer.from_folder(converted / "tokenizer"))
    assert [IMAGE_ID if i == image else i for i in once] == ours.tolist()


def test_half_a_tower_is_missing_even_with_partial(sized, tensors, tokenizer, tmp_path):
    lost = "mask_decoder.iou_token.weight"
    half = {k: v for k, v in tensors.items() if not k.endswith(lost)}
    with pytest.raises(CheckpointError, match=f"{lost}: missing"):
        layouts.convert(layouts.llava(tmp_path / "llava", sized, tensors, tokenizer),
                        tmp_path / "out", config=sized, partial=True,
                        sam=layouts.sam_original(tmp_path / "sam.pth", half))


def test_rope_base_of_another_vicuna_survives_every_layout(sized, tensors, tokenizer, tmp_path):
    source = layouts.llava(tmp_path / "llava", sized, tensors, tokenizer)
    config = layouts.read_json(source / "config.json")
    config["text_config"]["rope_parameters"]["rope_theta"] = 500.0
    (source / "config.json").write_text(json.dumps(config))
    assert layouts.convert(source, tmp_path / "out", partial=True).config.language.rope_base == 500
    legion = layouts.write(tmp_path / "out", tmp_path / "legion")
    hf = layouts.write(tmp_path / "out", tmp_path / "hf", "hf")
    for number, (main, clip) in enumerate(((legion, legion / "clip"), (hf, None))):
        layouts.convert(main, tmp_path / f"again{number}", clip=clip, partial=True)
        layouts.assert_same_checkpoint(tmp_path / f"again{number}", tmp_path / "out")


def test_same_tensor_in_two_folders(sized, tensors, folders, tmp_path):
    again = shutil.copytree(folders[1], tmp_path / "again")
    with pytest.raises(CheckpointError, match=r"vision_model\.\S+: in \S+ and again in \S+"):
        layouts.convert(folders[0], tmp_path / "out", config=sized, clip=folders[1], head=again)
