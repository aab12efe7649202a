"""DMimage: real sets and generators by the names of their folders."""

import shutil

import pytest
from fake_dmimage import FILES, make_fake
from prepared_sources import by_id, prepare, printed_by_the_tool

from input_pipeline.datasets import open_dataset
from input_pipeline.records import manifest
from input_pipeline.records.dataset import image_hash
from input_pipeline.records.record import DataError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_fake(tmp_path_factory.mktemp("source") / "dmimage")


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    return prepare("dmimage", source, tmp_path_factory.mktemp("data"))


def test_a_folder_tells_label_and_generator(prepared):
    records = by_id(prepared, "test")
    told = {name.removeprefix("test_"): (record.label, record.generator)
            for name, record in records.items()}
    assert told == {
        "real_coco_valid/0.png": (0, ""), "real_coco_valid/1.png": (0, ""),
        "real_ucid/0.png": (0, ""), "biggan_256/0.png": (1, "biggan_256"),
        "biggan_256/1.png": (1, "biggan_256"), "progan_lsun/cat/0.png": (1, "progan_lsun"),
        "latent-diffusion_text2img_valid/0.png": (1, "latent-diffusion_text2img_valid")}
    for name, record in records.items():
        content = FILES[name.removeprefix("test_")]
        assert record.image == content and record.group_id == image_hash(content)


def test_what_is_no_image_is_counted(prepared):
    counts = manifest.read_summary(prepared.data_path)["splits"]["test"]
    assert counts["skipped"] == {"unreadable image": 1, "not an image file": 1}


def test_other_folders_are_said_to_be_left_out(source, caplog):
    open_dataset("dmimage", str(source)).splits()
    assert "thumbnails is left out" in caplog.text


def test_one_folder_may_be_around_the_sets(source, tmp_path):
    make_fake(tmp_path, around="TestSet/")
    inside, plain = (open_dataset("dmimage", str(path)).splits()["test"]
                     for path in (tmp_path, source))
    assert [item.id for item in inside] == [item.id for item in plain]
    assert {item.file for item in inside} == {f"TestSet/{item.file}" for item in plain}
    make_fake(tmp_path, around="Other/")
    with pytest.raises(DataError, match="name one of: Other/, TestSet/"):
        open_dataset("dmimage", str(tmp_path)).splits()


def test_what_is_missing_is_named(source, tmp_path):
    shutil.copytree(source, tmp_path / "source")
    for name in ("real_coco_valid", "real_ucid"):
        shutil.rmtree(tmp_path / "source" / name)
    with pytest.raises(DataError, match="found no folder real_coco_valid, real_imagenet_valid or"):
        open_dataset("dmimage", str(tmp_path / "source")).splits()
    with pytest.raises(DataError, match="found no folder"):
        open_dataset("dmimage", str(tmp_path)).splits()


def test_the_tool_prepares_it(source, tmp_path):
    assert "not an image file" in printed_by_the_tool("dmimage", source, tmp_path)
