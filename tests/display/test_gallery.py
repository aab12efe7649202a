"""The gallery of a page: items, pictures, and what the scripts are told."""

import base64
import io

import numpy as np
import pytest
from html_page import Page
from PIL import Image

from input_pipeline import files
from input_pipeline.errors import UserError
from legion_jax.display import gallery, overlay


def test_large_photos_are_reduced():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((1500, 3000, 3), np.uint8)).save(buffer, "JPEG")
    code = gallery.picture(buffer.getvalue(), "a", (1500, 3000))
    with Image.open(io.BytesIO(base64.b64decode(code))) as picture:
        assert picture.size == (gallery.SIDE, gallery.SIDE // 2)
    with pytest.raises(UserError, match="photo a: 3000x1500 pixels, but rows.jsonl tells 3000x15"):
        gallery.picture(buffer.getvalue(), "a", (15, 3000))


def test_pieces_count_characters_and_leave_overlaps_out():
    text = "🦊 an ear, an eye"
    assert gallery.pieces(text, [[2, 8], None, [5, 12], [10, 16], [90, 95], [3, 3]]) == [
        ["🦊 ", None], ["an ear", 0], [", ", None], ["an eye", 3]]
    assert gallery.pieces("", []) == []


def test_an_item_is_what_is_true_until_more_is_added():
    item = gallery.truth_item(3, "a", label=2, size=(4, 6), reference=[["x", 0]],
                              regions=[{"phrase": "x", "rle": None}], category="human")
    assert item["n"] == 3 and item["label"] == "tampered" and item["category"] == "human"
    assert item["answers"] == item["marks"] == [] and item["union"] is None and item["marked"]


def test_scripts_are_told_the_colours_of_overlays():
    config = gallery.config({"id": ("by id", False)}, {"bad": "broken"}, truth="Masks")
    assert [tuple(map(int, tone.split(","))) for tone in [*config["palette"], config["union"]]] == [
        *overlay.PALETTE, overlay.UNION]
    assert config["sorts"] == [{"key": "id", "words": "by id", "down": False}]
    assert (config["truth"], config["reference"]) == ("Masks", "Reference")


def test_items_and_pictures_end_a_page(tmp_path):
    evil = "</script><script>alert(1)</script>"
    with files.whole_file(tmp_path / "page.html") as file:
        file.write("<html><body>")
        gallery.write_items(file, [{"id": evil}, {"id": "b"}])
        gallery.write_pictures(file, ["QUJD", ""])
    page = Page((tmp_path / "page.html").read_text())
    assert [item["id"] for item in page.items] == [evil, "b"]
    assert page.scripts["jpeg-0"] == "QUJD" and "jpeg-1" in page.ids
    assert any("1 photo could not be shown" in text for text in page.texts)
