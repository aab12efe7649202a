"""Tokenizer, conversation and images against vectors of the published code.

Exact everywhere: ids, masks, strings, and pixels after normalising in float32.
"""

import json

import numpy as np
import pytest

from input_pipeline.photos.images import clip_image, read_image, sam_image, sam_size
from input_pipeline.text.conversation import (
    build_conversation,
    build_prompt,
    encode_example,
    encode_prompt,
    image_index,
    locate_phrases,
    tag_phrases,
)
from input_pipeline.text.tokenizer import Tokenizer
from tools.verify_case.legion.legion_inputs import published_caption

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


def test_golden_tokenization(golden):
    tokenizer = Tokenizer.from_folder(golden / "checkpoint")
    meta = json.loads((golden / "meta.json").read_text())
    assert tokenizer.vocab_size == meta["vocab_size"]
    assert tokenizer.seg_id == meta["seg_token_idx"]
    assert tokenizer.phrase_start_id == meta["bop_token_idx"]
    assert tokenizer.phrase_end_id == meta["eop_token_idx"]
    for case in meta["tokenization"]:
        text, ids = case["text"], case["ids"]
        assert tokenizer.encode(text) == ids, text
        assert tokenizer.encode(text, bos=False) == case["ids_no_special"], text
        assert tokenizer.encode_with_image(text) == case["image_token_ids"], text
        assert tokenizer.decode(ids) == case["decoded"], text
        assert tokenizer.decode(ids, skip_special=True) == case["decoded_skip_special"], text
    for case in meta["eval"]:
        ids = [*tokenizer.encode_with_image(case["prompt"]), *case["new_ids"]]
        assert tokenizer.decode(ids) == case["decoded_raw"]


def test_golden_folder_is_written_back_unchanged(golden, tmp_path):
    Tokenizer.from_folder(golden / "checkpoint").save(tmp_path / "copy")
    copies = list((tmp_path / "copy").iterdir())
    assert len(copies) == 4
    for path in copies:
        assert path.read_bytes() == (golden / "checkpoint" / path.name).read_bytes(), path.name


@pytest.fixture(scope="session")
def reference(golden):
    meta = json.loads((golden / "meta.json").read_text())
    with np.load(golden / "inputs.npz") as arrays:
        inputs = {name: arrays[name] for name in arrays if name.startswith(("t", "eval"))}
    return Tokenizer.from_folder(golden / "checkpoint"), meta, inputs


def test_golden_prompts(reference):
    tokenizer, meta, inputs = reference
    for index, case in enumerate(meta["eval"]):
        assert build_prompt(case["question"]) == case["prompt"]
        ids = encode_prompt(tokenizer, case["question"])
        np.testing.assert_array_equal(ids, inputs[f"eval{index}_input_ids"][0])
    assert image_index(encode_prompt(tokenizer)) == 36
    assert len(encode_prompt(tokenizer)) == 164


def test_golden_tagging(reference):
    _, meta, _ = reference
    for sample, wrapped in zip(meta["train_samples"], meta["train_conversations"], strict=True):
        caption, phrases = sample["caption"], sample["spans_in_given_order"]
        spans = locate_phrases(caption, phrases)
        assert [list(span) for span in spans] == sample["tokens_positive_in_given_order"]
        assert build_conversation(sample["question"], tag_phrases(caption, spans)) == wrapped


@pytest.mark.parametrize("name", ["train", "trunc"])
def test_golden_examples(reference, name):
    tokenizer, meta, inputs = reference
    ids, labels = inputs[f"{name}_input_ids"], inputs[f"{name}_labels"]
    for row, sample in enumerate(meta["train_samples"]):
        spans = locate_phrases(sample["caption"], sample["spans_in_given_order"])
        example = encode_example(
            tokenizer,
            sample["question"],
            tag_phrases(sample["caption"], spans),
            length=ids.shape[1],
        )
        np.testing.assert_array_equal(example.ids, ids[row])
        np.testing.assert_array_equal(example.valid, inputs[f"{name}_attention_masks"][row])
        np.testing.assert_array_equal(example.loss_mask, labels[row] != -100)
        np.testing.assert_array_equal(ids[row][example.loss_mask], labels[row][example.loss_mask])
        assert example.num_segs == (ids[row] == meta["seg_token_idx"]).sum()
        if name == "trunc":
            assert example.num_segs == meta["trunc"]["seg_per_row"][row]
        else:
            assert not example.truncated and example.num_segs == len(spans)


def test_golden_captions(reference):
    _, meta, _ = reference
    for case in meta["eval"]:
        assert published_caption(case["decoded_raw"]) == (case["caption"], case["phrases"])


def clip_pixels(image):
    """Normalises as CLIPImageProcessor does; float32[3, 336, 336]."""
    table = (np.arange(256) * (1 / 255)).astype(np.float32)
    pixels = table[clip_image(image, 336)] - MEAN.astype(np.float32)
    return (pixels / STD.astype(np.float32)).transpose(2, 0, 1)


def sam_pixels(image, longest):
    """Normalises and pads as SAM does; float32[3, 1024, 1024] and the size inside."""
    mean = np.array([123.675, 116.28, 103.53], np.float32)
    std = np.array([58.395, 57.12, 57.375], np.float32)
    padded, (height, width) = sam_image(image, longest, 1024)
    pixels = (padded.astype(np.float32) - mean) / std
    pixels[height:] = 0
    pixels[:, width:] = 0
    return pixels.transpose(2, 0, 1), (height, width)


def stats(pixels):
    flat = pixels.reshape(3, -1).astype(np.float64)
    return np.stack(
        [flat.sum(1), np.abs(flat).sum(1), (flat**2).sum(1), flat.min(1), flat.max(1)], axis=1
    )


def prepared(golden):
    meta = json.loads((golden / "meta.json").read_text())
    for index, entry in enumerate(meta["preprocess"]):
        yield f"prep{index}", read_image(golden / "preprocess" / entry["file"])


def test_golden_clip_views(full_golden):
    golden = full_golden
    with np.load(golden / "outputs.npz") as outputs:
        for name, image in prepared(golden):
            pixels = clip_pixels(image)
            np.testing.assert_array_equal(pixels[:, 3::7, 3::7], outputs[f"{name}_clip_s7"])
            np.testing.assert_array_equal(pixels[:, :10, :10], outputs[f"{name}_clip_corner"])
            np.testing.assert_allclose(stats(pixels), outputs[f"{name}_clip_stats"], rtol=1e-9)
    with np.load(golden / "inputs.npz") as inputs:
        for index, wanted in enumerate(inputs["clip_pixels"]):
            image = read_image(golden / "images" / f"image_{index}.png")
            np.testing.assert_array_equal(image, inputs[f"image_{index}_u8"])
            np.testing.assert_array_equal(clip_pixels(image), wanted)


def test_golden_sam_sizes(golden):
    with np.load(golden / "outputs.npz") as outputs:
        table = outputs["preprocess_shape_table"]
    for height, width, longest, *size in table.tolist():
        assert sam_size(height, width, longest) == tuple(size), (height, width, longest)


def test_golden_sam_views(golden):
    with np.load(golden / "outputs.npz") as outputs:
        for name, image in prepared(golden):
            for longest in (512, 1024):
                pixels, size = sam_pixels(image, longest)
                key = f"{name}_sam{longest}"
                assert size == tuple(outputs[f"{key}_shape"])
                np.testing.assert_allclose(stats(pixels), outputs[f"{key}_stats"], rtol=1e-9)
            np.testing.assert_array_equal(pixels[:, 5::16, 5::16], outputs[f"{key}_s16"])
            np.testing.assert_array_equal(pixels[:, :10, :10], outputs[f"{key}_corner"])


def test_golden_resized_photos(full_golden):
    golden = full_golden
    longest = json.loads((golden / "meta.json").read_text())["train_image_size"]
    for path in sorted((golden / "images").glob("train_sam_resized_*.png")):
        photo = read_image(path.with_name(path.name.replace("train_sam_resized", "image")))
        padded, (height, width) = sam_image(photo, longest, 1024)
        np.testing.assert_array_equal(padded[:height, :width], read_image(path))


@pytest.mark.parametrize(
    "text, caption, phrases",
    [
        ("<s>USER: x ASSISTANT: <p> an ear </p> [SEG] :bent.</s>", "an ear :bent.", ["an ear"]),
        ("jacket.\nTo", "jacket.To", []),
        ("a < b and c > d", "a d", []),
        ("x ASSISTANT:y", "x ASSISTANT:y", []),
        ("'quoted'", "quoted", []),
        ("a    b", "a b", []),
        ("<p> one <p> two </p>", "one two", ["one <p> two"]),
    ],
)
def test_published_caption(text, caption, phrases):
    assert published_caption(text) == (caption, phrases)
