"""Examples of FakeVLM and SIDA: answers by label, what is learned of them, hard and soft masks."""

import dataclasses
import io

import family_golden
import numpy as np
import pytest
from PIL import Image

from input_pipeline.batches.examples import (
    ExampleError,
    ExampleSpec,
    fields,
    text_length,
    training_example,
)
from input_pipeline.errors import UserError
from input_pipeline.photos.regions import mask_to_png, unpack_masks
from input_pipeline.photos.views import CanvasView, CropView
from input_pipeline.records.record import (
    REAL,
    SYNTHETIC,
    TAMPERED,
    UNKNOWN,
    Record,
    Region,
    check_text,
)
from input_pipeline.text.dialogue import LLAVA15_CHAT, SIDA, SIDA_DESCRIBED
from input_pipeline.text.tokenizer import Tokenizer
from input_pipeline.text.tokenizer_files import ADDED_FILE, as_json

TEXTS = ["[CLS] The image is full synthetic", "The image is tampered. The image is real."]
SPEC = ExampleSpec(vision=CropView(28), sam=CanvasView(64, 48), text_length=700, mask_slots=1,
                   mask_canvas=48, instruction=SIDA.instruction, dialogue=SIDA)
DESCRIBED = dataclasses.replace(SPEC, dialogue=SIDA_DESCRIBED)
LEFT = [1, 1, 8, 1, 8, 12, 1, 12]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return SIDA_DESCRIBED.train_tokenizer(TEXTS, 400, tmp_path_factory.mktemp("t") / "slow")


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return LLAVA15_CHAT.train_tokenizer(TEXTS, 400, tmp_path_factory.mktemp("t") / "fast")


def png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def record(label=TAMPERED, size=(16, 24), **values) -> Record:
    return Record(id="train_0", dataset="made", file_name="0.png", group_id="0", label=label,
                  image=png(np.full((*size, 3), 90)), **values)


def right() -> np.ndarray:
    """uint8[16, 24], the right third."""
    mask = np.zeros((16, 24), np.uint8)
    mask[:, 16:] = 1
    return mask


def decoded(tokenizer, ids) -> str:
    """The answer, one space between its words."""
    text = tokenizer.decode(ids).split("ASSISTANT:")[-1]
    return " ".join(text.replace("</s>", " </s>").split())


@pytest.mark.parametrize("label, opening", [
    (REAL, "[CLS] The image is real"), (SYNTHETIC, "[CLS] The image is full synthetic"),
    (TAMPERED, "[CLS] The image is tampered [SEG]")])
@pytest.mark.parametrize("caption", ["", "The ear is odd."])
def test_an_answer_begins_with_the_label(tokenizer, label, opening, caption):
    row = training_example(tokenizer, SPEC, record(label, caption=caption))
    assert decoded(tokenizer, row["ids"][row["valid"]]) == f"{opening} </s>"
    assert not row["loss_mask"].any()
    row = training_example(tokenizer, DESCRIBED, record(label, caption=caption))
    whole = decoded(tokenizer, row["ids"][row["valid"]])
    assert whole == " ".join(filter(None, [opening, caption, "[END] </s>"]))
    # All of an answer is learned, or nothing.
    assert decoded(tokenizer, row["ids"][row["loss_mask"]]) == (whole if caption else "")


def test_what_is_not_described_is_learned_where_a_run_asks_for_it(tokenizer, fast):
    for spec in (SPEC, DESCRIBED):
        spec = dataclasses.replace(spec, learn_labels=True)
        row = training_example(tokenizer, spec, record(REAL))
        assert decoded(tokenizer, row["ids"][row["loss_mask"]]).startswith("[CLS] The image is")
    spec = dataclasses.replace(SPEC, sam=None, dialogue=LLAVA15_CHAT, learn_labels=True)
    assert not training_example(fast, spec, record(REAL))["loss_mask"].any()


def test_fakevlm_says_the_caption_and_masks_nothing(fast):
    """Also with SAM, whatever is marked."""
    region = Region("ear", 4, 7, polygons=[LEFT])
    words = "The ear is odd. </s>"
    for sam in (None, SPEC.sam):
        spec = dataclasses.replace(SPEC, sam=sam, dialogue=LLAVA15_CHAT)
        row = training_example(fast, spec, record(
            SYNTHETIC, caption="The ear is odd.", has_masks=True, regions=[region]))
        assert decoded(fast, row["ids"][row["loss_mask"]]) == words
        assert row["dropped"] == 0 and not row.get("mask_valid", np.zeros(1)).any()
        assert {name: np.shape(value) for name, value in row.items()} == {
            name: shape for name, (shape, _) in fields(spec).items()}


def test_a_tampered_photo_has_one_mask_of_all_that_is_marked(tokenizer):
    regions = [Region("ear", 4, 7, polygons=[LEFT]), Region("elsewhere", polygons=[[
        20, 13, 24, 13, 24, 16, 20, 16]])]
    marked = record(caption="The ear is odd.", has_masks=True, regions=regions,
                    union_mask=mask_to_png(right()))
    row = training_example(tokenizer, DESCRIBED, marked)
    mask = unpack_masks(row["masks"])[0][:16, :24]
    expected = right()
    expected[1:12, 1:8] = 1
    np.testing.assert_array_equal(mask, expected)
    assert row["mask_valid"].tolist() == [True] and row["dropped"] == 0
    assert row["original_size"].tolist() == [16, 24]
    for label in (REAL, SYNTHETIC):
        other = training_example(tokenizer, DESCRIBED, dataclasses.replace(marked, label=label))
        assert not other["mask_valid"].any() and other["dropped"] == 0


@pytest.mark.parametrize("values", [{}, {"has_masks": True}])
def test_a_tampered_photo_without_a_mask_is_counted(tokenizer, values):
    for spec in (SPEC, dataclasses.replace(SPEC, soft_masks=True)):
        row = training_example(tokenizer, spec, record(**values))
        assert row["dropped"] == 1 and not row["mask_valid"].any() and not row["masks"].any()
        assert tokenizer.added["[SEG]"] in row["ids"]


def test_a_mask_whose_token_was_cut_off_is_counted(tokenizer):
    marked = record(has_masks=True, union_mask=mask_to_png(right()))
    number = text_length(marked, tokenizer, SPEC)
    whole = training_example(tokenizer, SPEC, marked)
    assert number == whole["valid"].sum()
    cut = training_example(tokenizer, SPEC, marked, number - 2)  # </s> and [SEG]
    assert cut["dropped"] == 1 and not cut["mask_valid"].any()
    assert tokenizer.added["[CLS]"] in cut["ids"]


def test_a_mask_too_small_for_a_reduced_frame_is_counted(tokenizer):
    dot = np.zeros((100, 400), np.uint8)
    dot[51, 201] = 1
    marked = record(size=(100, 400), has_masks=True, union_mask=mask_to_png(dot))
    assert training_example(tokenizer, SPEC, marked)["dropped"] == 1


def test_a_label_without_an_answer_is_named(tokenizer):
    message = ("record train_0: no answer of the dialogue sida is for photos labelled unknown, "
               "only for real, synthetic, tampered")
    with pytest.raises(ExampleError, match=message):
        training_example(tokenizer, SPEC, record(UNKNOWN))
    without = dataclasses.replace(SPEC, sam=None)
    with pytest.raises(ExampleError, match=message):
        training_example(tokenizer, without, record(UNKNOWN))


def test_a_token_in_a_text_is_refused_where_it_means_something(tokenizer, fast):
    """Preparing knows no tokenizer, so what some systems alone have must be refused here."""
    caption = "An ear. [END] <pad>"
    assert record(caption=caption).as_features()["caption"] == check_text(caption, "caption")
    with pytest.raises(ExampleError, match=r"record train_0: its caption holds \[END\], a token "):
        training_example(tokenizer, DESCRIBED, record(caption=caption))
    training_example(tokenizer, SPEC, record(caption=caption))  # does not say it
    spec = dataclasses.replace(SPEC, sam=None, dialogue=LLAVA15_CHAT)
    with pytest.raises(ExampleError, match="its caption holds <pad>, a token of"):
        training_example(fast, spec, record(caption=caption))
    training_example(fast, spec, record(caption="An ear. [END] [CLS]"))
    asked = dataclasses.replace(SPEC, own_questions=True)
    with pytest.raises(ExampleError, match=r"its question holds \[CLS\], a token of"):
        training_example(tokenizer, asked, record(question="Is it [CLS]?"))


def test_a_soft_mask_is_resized_like_the_photo(tokenizer):
    """In the frame of the resized photo, antialiased; greys as they are in the file."""
    spec = dataclasses.replace(SPEC, soft_masks=True)
    grey = np.tile(np.linspace(0, 250, 24).astype(np.uint8), (16, 1))
    marked = record(has_masks=True, union_mask=mask_to_png(right()))
    for values, source in (({}, 255 * right()), ({"heatmap": png(grey)}, grey)):
        row = training_example(tokenizer, spec, dataclasses.replace(marked, **values))
        size = tuple(row["original_size"])
        assert size == tuple(row["resized_size"]) == (32, 48)
        picture = Image.fromarray(np.repeat(source[..., None], 3, -1))
        expected = np.asarray(picture.resize((48, 32), Image.Resampling.BILINEAR))[..., 0]
        np.testing.assert_array_equal(row["masks"][0, :32, :48], expected)
        assert 3 < len(np.unique(expected)) and not row["masks"][0, 32:].any()
        assert row["masks"].shape == fields(spec)["masks"][0] == (1, 48, 48)
        assert row["masks"].dtype == fields(spec)["masks"][1] and row["mask_valid"].all()
    with pytest.raises(UserError, match="mask_canvas: 40 px, but with soft_masks the photo as SAM "
                                        "sees it is the frame, whose longer side is 48"):
        dataclasses.replace(spec, mask_canvas=40)


# What the published code of SIDA made of its files.

GROUPS = {"tam": ("tampered", TAMPERED), "real": ("real", REAL),
          "syn": ("full_synthetic", SYNTHETIC)}


@pytest.fixture(scope="module")
def published():
    case = family_golden.folder("S")
    tokenizer = SIDA.open_tokenizer(case / "checkpoint")
    added = tokenizer.added | {"[END]": tokenizer.vocab_size}
    second = Tokenizer(tokenizer.files | {ADDED_FILE: as_json(added)}, name="stage 2")
    return (case, {"1": tokenizer, "2": second}, family_golden.read(case, "case.json")["names"],
            family_golden.outputs(case))


def published_record(case, kind, label, name) -> Record:
    (photo,) = (case / "data/train" / kind).glob(f"{name}.*")
    texts = case / "data/train/description" / f"{kind}_GT.json"
    caption = family_golden.read(case, texts)[photo.name] if texts.exists() and (
        photo.name in family_golden.read(case, texts)) else ""
    union = b""
    if label == TAMPERED:
        union = (case / "data/train/masks" / f"{name}_mask.png").read_bytes()
    return Record(id=name, dataset="sid_set", file_name=photo.name, group_id=name, label=label,
                  image=photo.read_bytes(), caption=caption, has_masks=bool(union),
                  union_mask=union)


def published_spec(length, dialogue=SIDA, slots=1) -> ExampleSpec:
    return ExampleSpec(vision=CropView(224), sam=CanvasView(1024, 1024), text_length=length,
                       mask_slots=slots, mask_canvas=1024, instruction=dialogue.instruction,
                       dialogue=dialogue, soft_masks=True)


def check_row(row, outputs, batch, index):
    np.testing.assert_array_equal(row["ids"], outputs[f"{batch}_input_ids"][index])
    np.testing.assert_array_equal(np.where(row["loss_mask"], row["ids"], -100),
                                  outputs[f"{batch}_labels"][index])
    np.testing.assert_array_equal(row["valid"], outputs[f"{batch}_attention_masks"][index])


@pytest.mark.parametrize("stage", ["1", "2"])
@pytest.mark.parametrize("group", GROUPS)
def test_golden_examples_of_sida(published, stage, group):
    case, tokenizers, names, outputs = published
    kind, label = GROUPS[group]
    batch = f"stage{stage}_{group}"
    spec = published_spec(outputs[f"{batch}_input_ids"].shape[1],
                          SIDA_DESCRIBED if stage == "2" else SIDA)
    for index, name in enumerate(names[kind]):
        row = training_example(tokenizers[stage], spec, published_record(case, kind, label, name))
        check_row(row, outputs, batch, index)
        assert row["label"] == label and row["dropped"] == 0
        size = outputs[f"pre_{name}_resize"]
        np.testing.assert_array_equal(row["resized_size"], size)
        np.testing.assert_array_equal(row["original_size"], size)
        mask = row["masks"][0, :size[0], :size[1]] / 255
        np.testing.assert_array_equal(mask[3::8, 3::8].astype(np.float32),
                                      outputs[f"pre_{name}_mask_s8"][0])
        stats = [mask.sum(), np.abs(mask).sum(), (mask ** 2).sum(), mask.min(), mask.max()]
        np.testing.assert_allclose(stats, outputs[f"pre_{name}_mask_stats"], rtol=1e-6)
        assert row["mask_valid"].tolist() == [label == TAMPERED]


def test_golden_examples_of_sida_that_are_cut_or_ask_twice(published):
    case, tokenizers, names, outputs = published
    cut = published_spec(outputs["trunc_input_ids"].shape[1])
    twice = dataclasses.replace(SIDA, openings=(
        ("tampered", "[CLS] The image is tampered [SEG] and also [SEG]"),))
    length = outputs["twoseg_input_ids"].shape[1]
    for index, name in enumerate(names["tampered"]):
        record = published_record(case, "tampered", TAMPERED, name)
        row = training_example(tokenizers["1"], cut, record)
        check_row(row, outputs, "trunc", index)
        assert row["dropped"] == 1 and not row["mask_valid"].any()
        spec = published_spec(length, SIDA if index else twice, slots=2)
        row = training_example(tokenizers["1"], spec, record)
        check_row(row, outputs, "twoseg", index)
        assert row["mask_valid"].tolist() == [True, not index]
        assert np.array_equal(*row["masks"]) == (index == 0)


def test_golden_examples_of_fakevlm():
    """The records of one turn, as FakeClue's reader stores them; one is cut."""
    case = family_golden.folder("F")
    tokenizer = LLAVA15_CHAT.open_tokenizer(case / "checkpoint")
    meta, outputs = family_golden.read(case, "meta.json"), family_golden.outputs(case)
    patches = family_golden.read(case, "checkpoint/config.json")["image_seq_length"]
    spec = ExampleSpec(
        vision=CropView(112), sam=None, text_length=meta["model_max_length"] + 1 - patches,
        mask_slots=1, mask_canvas=8, instruction="", dialogue=LLAVA15_CHAT, own_questions=True)
    compared = []
    for index, source in enumerate(family_golden.read(case, "train.json")):
        said = [turn["value"].replace("<image>", "").strip() for turn in source["conversations"]]
        if len(said) > 2:
            continue
        row = training_example(tokenizer, spec, Record(
            id=str(index), dataset="fakeclue", file_name=source["image"], group_id="0",
            image=(case / "images" / source["image"]).read_bytes(), label=SYNTHETIC,
            question=said[0], caption=said[1]))
        often = np.where(row["ids"] < 0, patches, 1)
        ids = np.repeat(np.where(row["ids"] < 0, tokenizer.added["<image>"], row["ids"]), often)
        learned = np.repeat(row["loss_mask"], often)
        np.testing.assert_array_equal(ids, outputs["train_input_ids"][index])
        np.testing.assert_array_equal(np.where(learned, ids, -100), outputs["train_labels"][index])
        compared.append(index)
    assert compared == [0, 1, 3]
