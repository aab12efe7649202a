"""`--format` of an export: weights that came as .bin go out as safetensors, and back."""

import json
import resource

import layouts
import published
import pytest

from legion_jax.convert.to_torch import export, in_format

SIZE = 1 << 16


def converted(sized, tmp_path, suffix=".bin"):
    legion, clip = published.make(tmp_path / "in", sized, suffix=suffix)
    return layouts.convert(legion, tmp_path / "jax", config=sized, clip=clip), legion


@pytest.mark.parametrize("file, file_format, expected", [
    ("pytorch_model-00001-of-00002.bin", "safetensors", "model-00001-of-00002.safetensors"),
    ("pytorch_model.bin.index.json", "safetensors", "model.safetensors.index.json"),
    ("model.safetensors.index.json", "bin", "pytorch_model.bin.index.json"),
    ("model.safetensors", "bin", "pytorch_model.bin"),
    ("training_state.bin", "safetensors", "training_state.safetensors"),
    ("sam_vit_h.pth", "safetensors", "sam_vit_h.safetensors"),
    ("sam_vit_h.pth", "bin", "sam_vit_h.pth"),
    ("pytorch_model.bin", None, "pytorch_model.bin"),
    ("model.safetensors", "safetensors", "model.safetensors")])
def test_names_of_files_in_the_other_format(file, file_format, expected):
    assert in_format(file, file_format) == expected


@pytest.mark.parametrize("suffix, file_format, other", [
    (".bin", "safetensors", ".safetensors"), (".safetensors", "bin", ".bin")])
def test_asked_format_is_written_and_holds_the_same(sized, tmp_path, suffix, file_format, other):
    _, legion = converted(sized, tmp_path, suffix)
    out = tmp_path / "out"
    export(str(tmp_path / "jax"), str(out), file_format=file_format, progress=False)
    assert not list(out.rglob(f"*{suffix}")) and len(list(out.rglob(f"*{other}"))) == 3
    index, = out.glob("*.index.json")
    assert set(json.loads(index.read_text())["weight_map"].values()) == {
        file.name for file in out.glob(f"*{other}")}
    before, after = published.load(legion), published.load(out)
    assert before.keys() == after.keys()
    assert all((published.to_array(before[k]) == published.to_array(after[k])).all()
               for k in before)
    layouts.convert(out, tmp_path / "again", config=sized, clip=out / "clip")
    layouts.assert_same_checkpoint(tmp_path / "again", tmp_path / "jax")


@pytest.mark.parametrize("file_format", ["bin", "safetensors"])
def test_full_disk_names_the_file_and_leaves_nothing(sized, tmp_path, file_format):
    converted(sized, tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, hard))
    try:
        with pytest.raises(OSError, match=r"model.*\.(bin|safetensors)"):
            export(str(tmp_path / "jax"), str(tmp_path / "out"), file_format=file_format,
                   progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "jax"]
