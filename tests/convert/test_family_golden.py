"""The published FakeVLM and SIDA cases, converted and written back, and opened by transformers."""

import json
import pathlib
import re

import family_golden
import layouts
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from stored_params import read_params

from legion_jax.convert import from_torch
from legion_jax.weights import checkpoint

DECODER_HEADS = {"decoder_num_heads": 8}  # of the published class, which no file of the case names


@pytest.fixture(scope="module")
def fakevlm(tmp_path_factory):
    """(case, the checkpoint it becomes)."""
    case = family_golden.folder("F")
    output = tmp_path_factory.mktemp("fakevlm") / "jax"
    layouts.convert(case / "checkpoint", output)
    return case, output


@pytest.fixture(scope="module")
def sida(torch_files, tmp_path_factory):
    case = family_golden.folder("S")
    output = tmp_path_factory.mktemp("sida") / "jax"
    layouts.convert(case / "checkpoint", output, clip=case / "clip", sam_config=DECODER_HEADS)
    return case, output


def check_back(source: pathlib.Path, back: pathlib.Path) -> None:
    """Small files by byte; weights by name, file, dtype and every bit."""
    def weights(folder):
        return {p.name for p in folder.iterdir() if p.suffix in (".bin", ".safetensors")}

    assert weights(source) == weights(back)
    for name in weights(source):
        layouts.assert_same_arrays(*(layouts.raw_file(folder / name) for folder in (source, back)))
    for file in source.iterdir():
        if file.name not in weights(source):
            assert (back / file.name).read_bytes() == file.read_bytes(), file.name


def test_fakevlm_is_a_llava_that_judges_in_words(fakevlm):
    case, folder = fakevlm
    meta = checkpoint.read_meta(folder)
    tensors = layouts.raw(case / "checkpoint")
    rows = len(tensors["language_model.lm_head.weight"])
    assert (meta.config.sam, meta.config.projector, meta.dialogue, meta.absent) == (
        None, "mlp2x_gelu", "llava15_chat", ())
    assert (meta.config.verdict.source, meta.config.verdict.classes) == ("words", ("real", "fake"))
    opened = checkpoint.Checkpoint.open(folder).tokenizer
    assert opened.rules == "fast" and opened.vocab_size < rows == meta.config.language.vocab
    params = read_params(folder)
    np.testing.assert_array_equal(params["projector/up/kernel"],
                                  tensors["multi_modal_projector.linear_1.weight"].T)
    np.testing.assert_array_equal(params["language/head/kernel"][:, :rows].T,
                                  tensors["language_model.lm_head.weight"])
    assert {path.split("/")[0] for path in params} == {"vision", "projector", "language"}


def test_fakevlm_goes_back(fakevlm, tmp_path):
    case, folder = fakevlm
    assert from_torch.verify(folder, progress=False) == []
    back = layouts.write(folder, tmp_path / "out")
    check_back(case / "checkpoint", back)
    assert sorted(p.name for p in back.iterdir()) == sorted(
        p.name for p in (case / "checkpoint").iterdir())


def test_sida_has_its_parts(sida):
    case, folder = sida
    meta, tensors = checkpoint.read_meta(folder), layouts.raw(case / "checkpoint")
    config, params = meta.config, read_params(folder)
    assert (config.projector, config.fusion, meta.dialogue) == ("linear", True, "sida")
    assert config.vision.image_size == 224 and config.position_dtype == "bfloat16"
    assert (config.verdict.source, config.classes) == (
        "token", ("real", "synthetic", "tampered"))
    packed = {kind: tensors[f"model.attention_layer.in_proj_{kind}"] for kind in ("weight", "bias")}
    width = config.sam.prompt_width
    for number, name in enumerate(("query", "key", "value")):
        rows = slice(number * width, (number + 1) * width)
        np.testing.assert_array_equal(params[f"fusion/{name}/kernel"], packed["weight"][rows].T)
        np.testing.assert_array_equal(params[f"fusion/{name}/bias"], packed["bias"][rows])
    np.testing.assert_array_equal(params["verdict/down/kernel"],
                                  tensors["model.cls_head.0.3.weight"].T)
    np.testing.assert_array_equal(params["fusion/ask/bias"], tensors["model.sida_fc1.bias"])
    assert {str(params[path].dtype) for path in ("projector/kernel", "fusion/out/kernel")} == {
        "bfloat16", "float32"}


def test_sida_goes_back(sida, tmp_path):
    case, folder = sida
    assert from_torch.verify(folder, progress=False) == []
    back = layouts.write(folder, tmp_path / "out")
    check_back(case / "checkpoint", back)
    check_back(case / "clip", back / "clip")
    assert from_torch.convert(str(back), str(tmp_path / "again"), clip=str(back / "clip"),
                              options=from_torch.Options(sam=DECODER_HEADS),
                              progress=False).config == checkpoint.read_meta(folder).config


@pytest.fixture
def trained(sida, tmp_path):
    """LoRA of the case as a PEFT folder, and its factors by published name."""
    factors = {f"{name}.weight": value for name, value in
               np.load(sida[0] / "lora_init.npz").items()}
    folder = tmp_path / "adapter"
    folder.mkdir()
    safetensors.numpy.save_file(
        {f"base_model.model.{name}": value for name, value in factors.items()},
        folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.05}))
    return folder, factors


def test_lora_of_sida_stays_apart_and_merges(sida, trained, tmp_path):
    (case, _), (adapter, factors) = sida, trained
    layouts.convert(case / "checkpoint", tmp_path / "jax", clip=case / "clip", adapter=adapter,
                    sam_config=DECODER_HEADS)
    lora = checkpoint.read_meta(tmp_path / "jax").config.lora
    assert (lora.rank, lora.alpha, lora.dropout) == (8, 16, 0.05)
    back = layouts.write(tmp_path / "jax", tmp_path / "back", "adapter")
    layouts.assert_same_arrays(layouts.raw(back), layouts.raw(adapter))
    before = layouts.raw(case / "checkpoint")
    after = layouts.raw(layouts.write(tmp_path / "jax", tmp_path / "out"))
    for name, value in before.items():
        module = name.removesuffix(".weight")
        if f"{module}.lora_A.weight" in factors:
            a, b = (factors[f"{module}.lora_{f}.weight"] for f in "AB")
            value = (value.astype(np.float32) + 2 * (b @ a)).astype(value.dtype)
        np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_sida_is_no_llava_of_transformers(sida, tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="one layer.*--layout legion"):
        layouts.write(sida[1], tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def opened_by_transformers(fakevlm, tmp_path_factory):
    """(folder of layout hf, its model, what differs from its weights)."""
    transformers = pytest.importorskip("transformers")
    folder = layouts.write(fakevlm[1], tmp_path_factory.mktemp("hf") / "out", "hf")
    model, report = transformers.LlavaForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True)
    assert not any(report.values()), report
    return folder, model.eval()


def test_transformers_computes_the_same(fakevlm, opened_by_transformers):
    import torch
    import transformers
    case, model = fakevlm[0], opened_by_transformers[1]
    source = transformers.LlavaForConditionalGeneration.from_pretrained(case / "checkpoint").eval()
    outputs = family_golden.outputs(case)
    inputs = {"input_ids": torch.from_numpy(outputs["eval_chat_input_ids"]),
              "attention_mask": torch.from_numpy(outputs["eval_chat_attention_mask"]),
              "pixel_values": torch.from_numpy(outputs["pixel_values"])}
    with torch.no_grad():
        ours, theirs = (m(**inputs).logits[:, -1].numpy() for m in (model, source))
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(ours, outputs["eval_chat_first_logits"], rtol=0, atol=8e-5)
    pad = family_golden.read(case, "checkpoint/added_tokens.json")["<pad>"]
    assert model.config.pad_token_id == model.generation_config.pad_token_id == pad


def test_processor_of_the_export_gives_the_published_inputs(fakevlm, opened_by_transformers):
    import transformers
    case, outputs = fakevlm[0], family_golden.outputs(fakevlm[0])
    processor = transformers.AutoProcessor.from_pretrained(opened_by_transformers[0])
    eval_of = family_golden.read(case, "meta.json")["eval"]["eval_chat"]
    photos = [Image.open(case / "images" / f"image_{i}.png").convert("RGB") for i in range(4)]
    made = processor(images=photos, text=eval_of["texts"], padding=True, return_tensors="np")
    np.testing.assert_allclose(made["pixel_values"], outputs["pixel_values"], rtol=0, atol=1e-5)
    for row, valid, wanted, kept in zip(
            made["input_ids"], made["attention_mask"], outputs["eval_chat_input_ids"],
            outputs["eval_chat_attention_mask"], strict=True):
        assert row[valid == 1].tolist() == wanted[kept == 1].tolist()


def test_code_of_the_card_runs(fakevlm, opened_by_transformers):
    folder = opened_by_transformers[0]
    card = (folder / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)
    wanted = family_golden.outputs(fakevlm[0])["eval_chat_new_ids"][0]
    assert "max_new_tokens=256" in code
    code = code.replace("256", str(len(wanted)))
    space = {"folder": str(folder), "photo": Image.open(
        fakevlm[0] / "images" / "image_0.png").convert("RGB")}
    exec(compile(code, "README.md", "exec"), space)
    assert space["new"].tolist() == wanted.tolist()
    assert "real, fake" in card and "[SEG]" not in card and "SAM" not in card
