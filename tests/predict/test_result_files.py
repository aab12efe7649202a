"""legion_jax/predict/result_files.py: the line and the files of a photo."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from input_pipeline.photos import regions
from legion_jax.predict import result_files
from legion_jax.predict.prediction import Prediction, Region


def prediction(height=20, width=30):
    first, second = np.zeros((2, height, width), bool)
    first[2:5, 3:9] = True
    second[4:8, 3:6] = True
    regions = [Region("a hand", 4, 10, "six fingers", first, 0.71234567),
               Region("a sky", 12, 17, "", None, 0.0), Region("an eye", 19, 25, "", second, 0.5)]
    return Prediction("synthetic", 0.87654321, 0.9, "real", "The a hand, a sky, an eye", "<p>",
                      finished=True, size=(height, width), regions=regions)


def test_the_line_has_everything_that_json_can_hold():
    line = result_files.as_json("/x/\u00e9.jpg", "in/n", prediction())
    assert json.loads(json.dumps(line)) == line
    assert line | {"artifacts": 0} == {
        "image": "/x/\u00e9.jpg", "name": "in/n", "size": [20, 30], "verdict": "synthetic",
        "probability": 0.87654, "fake_probability": 0.9, "words": "real", "words_agree": False,
        "explanation": "The a hand, a sky, an eye", "answer": "<p>", "finished": True,
        "withheld": False, "artifacts": 0}
    hand, sky, _ = line["artifacts"]
    assert (hand["phrase"], hand["span"], hand["score"]) == ("a hand", [4, 10], 0.71235)
    assert sky["rle"] is None
    np.testing.assert_array_equal(regions.rle_to_mask(hand["rle"]), prediction().regions[0].mask)


@pytest.mark.parametrize("kinds", [(), ("json",), ("mask", "overlay"), result_files.KINDS])
def test_only_the_chosen_files_are_written_and_removed(tmp_path, kinds):
    line = result_files.as_json("x", "in/n", prediction())
    photo = np.zeros((20, 30, 3), np.uint8) if "overlay" in kinds else None
    result_files.write(tmp_path, line, photo, prediction(), kinds=kinds)
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert written == {f"in/n{result_files.ENDINGS[kind]}" for kind in kinds}
    if "mask" in kinds:
        mask = np.asarray(Image.open(tmp_path / "in/n_mask.png"))
        np.testing.assert_array_equal(mask, prediction().mask * np.uint8(255))
    result_files.remove(tmp_path, "in/n", kinds=kinds)
    result_files.remove(tmp_path, "in/n", kinds=kinds)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_unfinished_files_lie_where_they_are_told_to_and_do_not_stay(tmp_path, monkeypatch):
    unfinished = []

    def fail(self, target):
        unfinished.append(str(self.relative_to(tmp_path)))
        raise OSError("the disk is gone")

    (tmp_path / "parts").mkdir()
    monkeypatch.setattr("etils.epath.gpath._GPath.replace", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        result_files.write(tmp_path, result_files.as_json("x", "n", prediction()), None,
                           prediction(), kinds=("mask",),
                           temporary=result_files.epath.Path(tmp_path) / "parts/un")
    [name] = unfinished
    assert name.startswith("parts/un-") and name.endswith("-mask")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_overlay_of_a_large_photo_is_smaller(monkeypatch):
    monkeypatch.setattr(result_files, "OVERLAY_SIDE", 600)
    large = prediction(900, 1200)
    picture = result_files.overlay(np.full((900, 1200, 3), 90, np.uint8), large)
    assert picture.width == 600 and 450 < picture.height < 700
    small = result_files.overlay(np.full((20, 30, 3), 90, np.uint8), prediction())
    assert small.width == 480


def test_an_overlay_names_a_verdict_that_nothing_tells_a_probability_of(monkeypatch):
    titles = []
    monkeypatch.setattr(result_files, "draw_overlay",
                        lambda *_, title: titles.append(title))
    photo = np.zeros((20, 30, 3), np.uint8)
    for probability in (0.75, None):
        result_files.overlay(photo, dataclasses.replace(
            prediction(), verdict="fake", probability=probability))
    assert titles == ["fake 75%", "fake"]


def test_more_files_are_more_work():
    sizes = [result_files.working_bytes(prediction(900, 1200), kinds)
             for kinds in ((), ("mask",), result_files.KINDS)]
    assert 3 * 900 * 1200 < sizes[0] < sizes[1] < sizes[2] < 60 * 900 * 1200
