"""Examples of records: the one list of their fields, masks in the order of the text."""

import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline.batches.examples import (
    ExampleError,
    ExampleSpec,
    blank_example,
    blank_views,
    fields,
    training_example,
    view_fields,
)
from input_pipeline.photos.regions import mask_to_png, unpack_masks
from input_pipeline.photos.views import CanvasView, CropView
from input_pipeline.records.record import SYNTHETIC, Record, Region
from input_pipeline.text import conversation
from input_pipeline.text.tokenizer import train_tokenizer

SPEC = ExampleSpec(vision=CropView(28), sam=CanvasView(64, 48), text_length=700, mask_slots=3,
                   mask_canvas=40, instruction=conversation.INSTRUCTION)
LEFT, RIGHT = [1, 1, 8, 1, 8, 12, 1, 12], [12, 1, 20, 1, 20, 12, 12, 12]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer([conversation.build_prompt(), "A sun and a moon."], 400,
                           tmp_path_factory.mktemp("tokenizer") / "made")


def record(*regions, content=None, **values):
    if content is None:
        buffer = io.BytesIO()
        Image.new("RGB", (24, 16), "red").save(buffer, "PNG")
        content = buffer.getvalue()
    return Record(id="train_0", dataset="made", file_name="0.png", group_id="0", image=content,
                  label=SYNTHETIC, caption="A sun and a moon.", regions=regions, **values)


@pytest.mark.parametrize("length", [None, 650])
def test_examples_have_the_fields_of_the_list(tokenizer, length):
    listed = fields(SPEC, length)
    for example in (training_example(tokenizer, SPEC, record(), length),
                    blank_example(tokenizer, SPEC, length)):
        assert {name: (np.shape(value), value.dtype) for name, value in example.items()} == {
            name: (shape, np.dtype(dtype)) for name, (shape, dtype) in listed.items()}
    assert blank_views(SPEC).keys() == view_fields(SPEC).keys() <= listed.keys()


def test_a_blank_example_counts_for_no_loss(tokenizer):
    blank = blank_example(tokenizer, SPEC)
    assert blank["bad"] == 1 and blank["label"] == -1 and not blank["loss_mask"].any()
    assert not blank["mask_valid"].any() and not blank["vision_image"].any()
    assert blank["resized_size"].tolist() == [48, 48]
    assert blank["original_size"].tolist() == [40, 40] and blank["valid"].any()


def test_masks_follow_their_phrases(tokenizer):
    marked = np.zeros((16, 24), np.uint8)
    marked[3:5, 20:] = 1
    example = training_example(tokenizer, SPEC, record(
        Region("moon", 12, 16, mask=mask_to_png(marked)), Region("sun", 2, 5, polygons=[LEFT]),
        Region("elsewhere", polygons=[RIGHT])))
    first, second, empty = unpack_masks(example["masks"])
    assert example["mask_valid"].tolist() == [True, True, False] and example["dropped"] == 1
    assert first.sum() == 7 * 11 and first[1:12, 1:8].all() and not empty.any()
    np.testing.assert_array_equal(second[:16, :24], marked)


def test_an_unusable_record_is_named(tokenizer):
    with pytest.raises(ExampleError, match="record train_0: train_0: not an image"):
        training_example(tokenizer, SPEC, record(content=b"text"))
    with pytest.raises(ExampleError, match="record train_0: polygon lies wholly outside"):
        training_example(tokenizer, SPEC,
                         record(Region("sun", 2, 5, polygons=[[30, 1, 40, 1, 40, 9]])))
