"""convert/family.py: which member of the family a folder is, and what cannot be made of it."""

import dataclasses
import json
import shutil

import family_folders
import layouts
import numpy as np
import published
import pytest
from stored_params import read_params

from input_pipeline.errors import UserError
from input_pipeline.text.tokenizer_files import ADDED_FILE, as_json
from legion_jax.config import LegionConfig, LoraConfig, VerdictConfig
from legion_jax.convert import family, from_torch, import_command
from legion_jax.convert.names import LISA
from legion_jax.weights import checkpoint

HEADS = {"decoder_num_heads": 4}
ROWS = 300
OF_SIDA = ("model.cls_head.", "model.sida_fc1.", "model.attention_layer.")


@pytest.fixture(scope="module")
def fakevlm_config(config) -> LegionConfig:
    return dataclasses.replace(
        config, language=dataclasses.replace(config.language, vocab=ROWS), lora=LoraConfig(),
        sam=None, verdict=VerdictConfig("words", ("real", "fake"), hidden=0))


@pytest.fixture(scope="module")
def sida_config(config) -> LegionConfig:
    return dataclasses.replace(
        config, language=dataclasses.replace(config.language, vocab=ROWS), lora=LoraConfig(),
        projector="linear", fusion=True,
        verdict=VerdictConfig("token", ("real", "synthetic", "tampered"), hidden=24))


@pytest.fixture(scope="module")
def fakevlm(fakevlm_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fakevlm") / "in"
    family_folders.fakevlm(folder, fakevlm_config, family_folders.random_tensors(fakevlm_config))
    return folder


@pytest.fixture(scope="module")
def sida(sida_config, tmp_path_factory):
    return family_folders.sida(tmp_path_factory.mktemp("sida"), sida_config,
                               family_folders.random_tensors(sida_config))


@pytest.fixture(scope="module")
def lisa(sida_config, tmp_path_factory):
    """A LISA: without what SIDA adds to one, [CLS] among it."""
    tensors = {name: value for name, value in family_folders.random_tensors(sida_config).items()
               if not name.startswith(OF_SIDA)}
    return family_folders.sida(tmp_path_factory.mktemp("lisa"), sida_config, tensors,
                               tokens=family.LISA.tokens)


def edited(folder, target, **changes):
    """A copy whose config.json has these fields; None removes one."""
    copy = shutil.copytree(folder, target)
    config = layouts.read_json(copy / "config.json") | changes
    (copy / "config.json").write_text(json.dumps(
        {name: value for name, value in config.items() if value is not None}))
    return copy


def refused(tmp_path, main, **given) -> str:
    with pytest.raises(UserError) as error:
        layouts.convert(main, tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()
    message = str(error.value)
    assert len(message.splitlines()) == 1 and len(message) < 400
    return message


def test_a_lisa_has_no_verdict(lisa, tmp_path):
    main, clip = lisa
    summary = layouts.convert(main, tmp_path / "jax", clip=clip, sam_config=HEADS)
    meta = checkpoint.read_meta(tmp_path / "jax")
    assert (summary.config.verdict, summary.config.fusion, meta.dialogue) == (None, False, "lisa")
    assert summary.config.projector == "linear" and not meta.absent and not summary.unknown
    back = layouts.write(tmp_path / "jax", tmp_path / "back")
    layouts.assert_same_arrays(layouts.raw(main), layouts.raw(back))


def check_new_rows(folder, tensors, first: int, tokens: tuple[str, ...]) -> None:
    """Each of `tokens`, from row `first` on, begins with the mean of all rows there were."""
    stored, tokenizer = read_params(folder), checkpoint.Checkpoint.open(folder).tokenizer
    assert [tokenizer.added[token] for token in tokens] == list(
        range(first, first + len(tokens)))
    rows = first + len(tokens)
    for name, matrix in (("model.embed_tokens.weight", stored["language/embed/embedding"]),
                         ("lm_head.weight", stored["language/head/kernel"].T)):
        before = tensors[name]
        np.testing.assert_array_equal(matrix[:first], before)
        mean = before.astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(matrix[first:rows], np.tile(mean, (len(tokens), 1)), rtol=1e-6)
        assert not matrix[rows:].any()


def test_a_lisa_becomes_a_sida(lisa, sida_config, tmp_path):
    """[CLS] comes after what there is; its head and the fusion are still to be trained."""
    main, clip = lisa
    parts = {"clip": clip, "sam_config": HEADS, "system": "sida"}
    message = refused(tmp_path, main, **parts)
    assert "nothing of verdict, fusion" in message and "--partial" in message
    summary = layouts.convert(main, tmp_path / "jax", partial=True, **parts)
    meta = checkpoint.read_meta(tmp_path / "jax")
    assert meta.config.verdict == sida_config.verdict and meta.config.fusion
    assert (meta.dialogue, sorted(meta.absent)) == ("sida", ["fusion", "verdict"])
    assert summary.config.language.vocab == ROWS + 1 == meta.vocabulary.rows
    check_new_rows(tmp_path / "jax", layouts.raw(main), ROWS, ("[CLS]",))
    assert from_torch.verify(tmp_path / "jax", progress=False) == []
    back = layouts.write(tmp_path / "jax", tmp_path / "back")
    assert layouts.read_json(back / "config.json")["vocab_size"] == ROWS + 1
    assert layouts.read_json(back / ADDED_FILE)["[CLS]"] == ROWS
    layouts.convert(back, tmp_path / "again", clip=back / "clip", sam_config=HEADS, partial=True,
                    system="sida")
    layouts.assert_same_checkpoint(tmp_path / "again", tmp_path / "jax")


def test_a_trained_sida_that_began_as_a_lisa_is_written_as_a_sida(lisa, tmp_path):
    main, clip = lisa
    layouts.convert(main, tmp_path / "jax", clip=clip, sam_config=HEADS, system="sida",
                    partial=True)
    trained = layouts.trained_run(tmp_path / "run", tmp_path / "jax", dialogue="sida",
                                  trainable=("/lora_[ab]$", "^(verdict|fusion)/"))
    back = layouts.write(tmp_path / "run", tmp_path / "back")
    tensors = layouts.raw(back)
    assert all(LISA.to_published(name) for name in tensors)
    packed = np.concatenate([trained[f"fusion/{name}/kernel"].T
                             for name in ("query", "key", "value")])
    np.testing.assert_array_equal(tensors["model.attention_layer.in_proj_weight"], packed)
    layouts.convert(back, tmp_path / "again", clip=back / "clip", sam_config=HEADS)
    assert checkpoint.read_meta(tmp_path / "again").dialogue == "sida"
    again = read_params(tmp_path / "again")
    for path, value in trained.items():
        assert "/lora_" in path or np.array_equal(again[path], value), path


def test_a_sida_is_prepared_for_its_second_stage(sida, tmp_path):
    """[END] comes last; a folder that has it is one of that stage."""
    main, clip = sida
    parts = {"sam_config": HEADS}
    layouts.convert(main, tmp_path / "jax", clip=clip, system="sida_described", **parts)
    meta = checkpoint.read_meta(tmp_path / "jax")
    assert (meta.dialogue, meta.absent) == ("sida_described", ())
    check_new_rows(tmp_path / "jax", layouts.raw(main), ROWS, ("[END]",))
    back = layouts.write(tmp_path / "jax", tmp_path / "back")
    layouts.convert(back, tmp_path / "again", clip=back / "clip", **parts)
    layouts.assert_same_checkpoint(tmp_path / "again", tmp_path / "jax")


def test_a_bare_llava_becomes_a_sida(config, fakevlm_config, tmp_path):
    """Spare rows are taken first, in the order of the published training."""
    tensors = family_folders.random_tensors(dataclasses.replace(config, lora=LoraConfig()))
    llava = {name: value for name, value in tensors.items() if not name.startswith(
        ("model.grounding_encoder.", "model.text_hidden_fcs.", "prediction_head.",
         "model.region_encoder.")) and "inv_freq" not in name}
    rng = np.random.default_rng(3)
    llava |= {name: rng.normal(size=(ROWS, config.language.width)).astype(np.float32)
              for name in layouts.VOCABULARY}
    family_folders.fakevlm(tmp_path / "in", fakevlm_config, llava, spare=2)
    sam = layouts.sam_original(tmp_path / "sam.pth", tensors)
    layouts.convert(tmp_path / "in", tmp_path / "jax", sam=sam, sam_config=HEADS, system="sida",
                    partial=True)
    meta = checkpoint.read_meta(tmp_path / "jax")
    assert sorted(meta.absent) == ["fusion", "text_projection", "verdict"]
    assert meta.config.projector == "mlp2x_gelu" and meta.vocabulary.rows == ROWS + 2
    added = checkpoint.Checkpoint.open(tmp_path / "jax").tokenizer.added
    assert [added[token] for token in ("[CLS]", "[SEG]", "<im_start>", "<im_end>")] == [
        ROWS - 2, ROWS - 1, ROWS, ROWS + 1]
    check_new_rows(tmp_path / "jax", llava, ROWS, ("<im_start>", "<im_end>"))


def test_partial_llava_is_still_begun_as_a_legion(fakevlm_config, tmp_path):
    family_folders.fakevlm(tmp_path / "in", fakevlm_config,
                           family_folders.random_tensors(fakevlm_config), spare=8)
    layouts.convert(tmp_path / "in", tmp_path / "jax", partial=True, sam_config=HEADS)
    meta = checkpoint.read_meta(tmp_path / "jax")
    assert meta.dialogue == "legion" and "sam_encoder" in meta.absent


@pytest.mark.parametrize("classes", [None, ["real", "fake", "edited"]])
def test_heads_of_other_numbers_of_classes(sida_config, tmp_path, classes):
    """Named by config.json, or refused."""
    config = dataclasses.replace(sida_config, verdict=dataclasses.replace(
        sida_config.verdict, classes=("real", "synthetic", "tampered", "swapped")))
    main, clip = family_folders.sida(tmp_path, config, family_folders.random_tensors(config))
    message = refused(tmp_path, edited(main, tmp_path / "own", verdict_classes=classes), clip=clip,
                      sam_config=HEADS)
    assert "verdict_classes must be 4 names" in message and "cls_head.0.3.weight" in message
    assert layouts.convert(main, tmp_path / "jax", clip=clip,
                           sam_config=HEADS).config == dataclasses.replace(
                               config, dtype="bfloat16", remat="layers")


@pytest.mark.parametrize("lost", ["model.visual_model.mask_decoder.iou_token.weight",
                                  "model.attention_layer.in_proj_bias",
                                  "model.cls_head.0.0.weight", "model.sida_fc1.weight"])
def test_tensors_that_a_sida_lacks(sida, tmp_path, lost):
    """By their names in the files."""
    main = shutil.copytree(sida[0], tmp_path / "own")
    (main / "pytorch_model.bin").unlink()
    published.save_shards(main, {k: v for k, v in layouts.raw(sida[0]).items() if k != lost},
                          suffix=".safetensors", shards=1)
    message = refused(tmp_path, main, clip=sida[1], sam_config=HEADS)
    assert message.startswith(f"{lost}: missing")


def test_a_sida_without_its_fusion(sida, tmp_path):
    main = shutil.copytree(sida[0], tmp_path / "own")
    (main / "pytorch_model.bin").unlink()
    tensors = {k: v for k, v in layouts.raw(sida[0]).items()
               if not k.startswith(OF_SIDA) or "cls_head" in k}
    published.save_shards(main, tensors, suffix=".safetensors", shards=1)
    summary = layouts.convert(main, tmp_path / "jax", clip=sida[1], sam_config=HEADS)
    assert summary.config.verdict.source == "token" and not summary.config.fusion


def test_sida_without_clip(sida, tmp_path):
    message = refused(tmp_path, sida[0], sam_config=HEADS)
    assert "nothing of vision" in message and "--clip" in message


@pytest.mark.parametrize("tokens", [("[SEG]", "<im_start>", "<im_end>"),
                                    ("[CLS]", "<im_start>", "<im_end>")])
def test_sida_whose_tokenizer_lacks_a_token(sida_config, tmp_path, tokens):
    main, clip = family_folders.sida(tmp_path, sida_config,
                                     family_folders.random_tensors(sida_config), tokens=tokens)
    message = refused(tmp_path, main, clip=clip, sam_config=HEADS)
    lacking = next(iter(set(family.SIDA.tokens) - set(tokens)))
    assert f"has no {lacking}" in message and "the dialogue sida needs it" in message


def test_fakevlm_whose_tokenizer_lacks_something(fakevlm, tmp_path):
    bare = shutil.copytree(fakevlm, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    assert "tokenizer.json: not found" in refused(tmp_path, bare)
    other = shutil.copytree(fakevlm, tmp_path / "other")
    added = layouts.read_json(other / ADDED_FILE)
    (other / ADDED_FILE).write_bytes(as_json({"<image>": added["<image>"]}))
    assert "has no <pad>" in refused(tmp_path, other)


def test_another_row_for_images(fakevlm, tmp_path):
    own = edited(fakevlm, tmp_path / "own", image_token_index=5, image_token_id=None)
    assert "config.json of the checkpoint says 5" in refused(tmp_path, own)


def test_what_only_another_system_has(fakevlm, sida, lisa, folders, tmp_path):
    given = {"clip": sida[1], "sam_config": HEADS}
    assert "has no SAM" in refused(tmp_path, fakevlm, sam_config=HEADS)
    assert "again in" in refused(tmp_path, fakevlm, clip=folders[1])
    assert "--system: legion, fakevlm, lisa, sida, sida_described, not 'lego'" in refused(
        tmp_path, fakevlm, system="lego")
    assert "draws no masks" in refused(tmp_path, lisa[0], system="fakevlm", clip=lisa[1])
    assert "verdict head of another system" in refused(tmp_path, sida[0], system="legion", **given)
    head = tmp_path / "head.safetensors"
    published.save(head, {"prediction_head.0.weight": np.ones((2, 2), np.float32)})
    message = refused(tmp_path, sida[0], head=head, **given)
    assert message.startswith("prediction_head.0.weight: part of the model, but ")
    novel = tmp_path / "novel.safetensors"
    published.save(novel, {"model.sida_fc1.bias": np.ones(32, np.float32)})
    message = refused(tmp_path, lisa[0], head=novel, **given)
    assert message.startswith("model.sida_fc1.bias: part of the model, but ")


def test_config_of_another_system(fakevlm, sida, tmp_path):
    main, clip = sida
    given = {"clip": clip, "sam_config": HEADS}
    message = refused(tmp_path, fakevlm, config_file=str(main / "config.json"))
    assert "text_config" in message and "config.json" in message
    message = refused(tmp_path, main, config_file=str(fakevlm / "config.json"), **given)
    assert "text_config" in message and "LISA" in message
    message = refused(tmp_path, edited(main, tmp_path / "own", mm_projector_type="mlp2x_gelu"),
                      **given)
    assert "mm_projector_type must be 'linear'" in message


def test_command_takes_the_system(sida, tmp_path, capsys):
    values = dict.fromkeys((*import_command.FOLDERS, *import_command.SMALL_FILES)) | {
        "checkpoint": str(sida[0]), "clip": str(sida[1]), "system": "sida", "lora_alpha": 16.0,
        "merge_lora": False, "partial": False, "allow_nonfinite": False}
    (tmp_path / "sam.json").write_text(json.dumps(HEADS))
    import_command.convert(values | {"sam_config": str(tmp_path / "sam.json")},
                           str(tmp_path / "jax"))
    printed = capsys.readouterr().out
    assert "sida" in printed and "real, synthetic, tampered" in printed
    assert "prediction_head" not in printed


def test_runs_of_a_fakevlm_go_out(fakevlm, tmp_path):
    """What was trained whole into the folder it came as; LoRA for the base, and back."""
    layouts.convert(fakevlm, tmp_path / "jax")
    trained = layouts.trained_run(tmp_path / "whole", tmp_path / "jax", dialogue="llava15_chat",
                                  trainable=(".*",), rank=0)
    back = layouts.raw(layouts.write(tmp_path / "whole", tmp_path / "back"))
    before = layouts.raw(fakevlm)
    assert back.keys() == before.keys()
    np.testing.assert_array_equal(back["multi_modal_projector.linear_1.weight"],
                                  trained["projector/up/kernel"].T)
    layouts.trained_run(tmp_path / "run", tmp_path / "jax", dialogue="llava15_chat",
                        trainable=("/lora_[ab]$", "^language/head/"))
    adapter = layouts.write(tmp_path / "run", tmp_path / "adapter", "adapter")
    layouts.convert(fakevlm, tmp_path / "again", adapter=adapter)
    assert checkpoint.read_meta(tmp_path / "again").dialogue == "llava15_chat"
    layouts.assert_same_arrays(read_params(tmp_path / "again"), read_params(tmp_path / "run"))


def test_an_adapter_of_sida_has_the_names_of_its_code(sida, tmp_path):
    main, clip = sida
    layouts.convert(main, tmp_path / "jax", clip=clip, sam_config=HEADS)
    layouts.trained_run(tmp_path / "run", tmp_path / "jax", dialogue="sida", trainable=(
        "/lora_[ab]$", "^language/embed/", "^(text_projection|mask_decoder|verdict|fusion)/"))
    adapter = layouts.write(tmp_path / "run", tmp_path / "adapter", "adapter")
    modules = layouts.raw_file(adapter / "trained_modules.safetensors")
    assert {".".join(name.split(".")[:3]) for name in modules} == {
        "model.visual_model.mask_decoder", "model.text_hidden_fcs.0", "model.cls_head.0",
        "model.sida_fc1.weight", "model.sida_fc1.bias", "model.attention_layer.out_proj",
        "model.attention_layer.in_proj_weight", "model.attention_layer.in_proj_bias"}
    layouts.convert(main, tmp_path / "again", clip=clip, adapter=adapter, sam_config=HEADS)
    layouts.assert_same_arrays(read_params(tmp_path / "again"), read_params(tmp_path / "run"))


def test_training_state_of_sida(sida, sida_config, tmp_path):
    """PEFT's names and LoRA in one file, a vision tower beside the rest."""
    main, clip = sida
    rng, width = np.random.default_rng(4), sida_config.language.width
    state = {f"base_model.model.{name}": value for name, value in layouts.raw(main).items()}
    factors = {f"model.layers.{i}.self_attn.{n}_proj.lora_{f}.{{}}weight":
               rng.normal(size=shape).astype(np.float32)
               for i in range(sida_config.language.layers) for n in "qv"
               for f, shape in (("A", (2, width)), ("B", (width, 2)))}
    state |= {f"base_model.model.{name.format('default.')}": v for name, v in factors.items()}
    state |= {f"base_model.model.model.vision_tower.vision_tower.{name}": value
              for name, value in layouts.raw(clip).items()}
    published.save(tmp_path / "pytorch_model.bin", state)
    summary = layouts.convert(
        tmp_path / "pytorch_model.bin", tmp_path / "jax", clip=clip, sam_config=HEADS,
        config_file=str(main / "config.json"), tokenizer=str(main), lora_alpha=16.0)
    assert summary.config.lora.rank == 2 and summary.config.fusion and not summary.unknown
    layouts.convert(main, tmp_path / "base", clip=clip, sam_config=HEADS)
    stored = read_params(tmp_path / "jax")
    np.testing.assert_array_equal(stored["language/layers/query/lora_a"][0],
                                  factors["model.layers.0.self_attn.q_proj.lora_A.{}weight"].T)
    layouts.assert_same_arrays({path: v for path, v in stored.items() if "lora_" not in path},
                               read_params(tmp_path / "base"))
