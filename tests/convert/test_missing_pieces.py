"""What a checkpoint folder lacks is named together with what would supply it."""

import json
import shutil

import layouts
import numpy as np
import published
import pytest

from input_pipeline.files import FilesError
from legion_jax.convert import from_torch
from legion_jax.convert.plan import Options
from legion_jax.weights.checkpoint_error import CheckpointError
from tools.inspect_params import __main__ as inspect_params


def refused(main, tmp_path, **parts) -> str:
    options = parts.pop("options", Options())
    with pytest.raises(CheckpointError) as error:
        from_torch.convert(str(main), str(tmp_path / "out"), options=options, progress=False,
                           **parts)
    assert not (tmp_path / "out").exists()
    return str(error.value)


def test_heads_of_an_unknown_mask_decoder(folders, tmp_path):
    message = refused(folders[0], tmp_path, clip=str(folders[1]))
    assert "decoder_num_heads" in message and "--sam_config" in message and "256" in message


@pytest.mark.parametrize("file, hint", [
    ("tokenizer.model", "--tokenizer"), ("config.json", "--config"),
    ("added_tokens.json", "llava-hf/llava-1.5-7b-hf")])
def test_missing_file_names_the_flag_or_the_folder_that_has_it(folders, tmp_path, file, hint):
    legion = shutil.copytree(folders[0], tmp_path / "legion")
    (legion / file).unlink()
    message = refused(legion, tmp_path, clip=str(folders[1]))
    assert f"legion/{file}: not found" in message and hint in message


def test_heads_that_the_rotary_frequencies_contradict(folders, tmp_path):
    legion = shutil.copytree(folders[0], tmp_path / "legion")
    config = json.loads((legion / "config.json").read_text())
    config["num_attention_heads"] *= 2
    (legion / "config.json").write_text(json.dumps(config))
    message = refused(legion, tmp_path, clip=str(folders[1]))
    assert f"num_attention_heads {config['num_attention_heads']}" in message
    assert "rotary_emb.inv_freq is (6,)" in message


def test_a_whole_model_is_no_adapter(folders, tmp_path):
    message = refused(folders[0], tmp_path, clip=str(folders[1]), adapter=str(folders[0]))
    assert "no LoRA in it" in message


def lora_folder(folder):
    """Factors for one kernel, without the config that tells their scale."""
    folder.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    published.save(folder / "adapter_model.safetensors", {
        name.format(factor): np.ones((2, 2), np.float32) for factor in "AB"})
    return folder


def test_only_its_config_tells_the_scale_of_an_adapter(folders, tmp_path):
    adapter = lora_folder(tmp_path / "adapter")
    message = refused(folders[0], tmp_path, clip=str(folders[1]), adapter=str(adapter))
    assert "adapter/adapter_config.json: not found" in message


def test_an_adapter_is_no_checkpoint(folders, tmp_path):
    adapter = lora_folder(tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    assert "an adapter; --adapter takes it" in refused(adapter, tmp_path, clip=str(folders[1]))


def test_listing_goes_on_without_the_heads_and_says_so(sized, folders, tmp_path):
    bare = shutil.copytree(folders[0], tmp_path / "legion")
    (bare / "sam_config.json").unlink()
    listed = inspect_params.of_torch(str(bare), clip=str(folders[1]))
    assert not listed.problems and any("--sam_config" in note for note in listed.notes)


@pytest.mark.parametrize("output", ["", "dangling"])
def test_output_that_cannot_be_made(sized, folders, tmp_path, output, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FilesError, match="already exists" if output else "empty"):
        layouts.convert(folders[0], output, config=sized, clip=folders[1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling"]
