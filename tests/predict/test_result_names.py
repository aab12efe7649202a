"""legion_jax/predict/result_names.py: names of results that are safe and told apart."""

import os
import random
import unicodedata

import pytest

from legion_jax.predict.result_names import output_names


def test_names_are_those_of_the_photos():
    assert output_names(["a.png", "inner/b.v2.jpg", "no_suffix", "c.d"]) == [
        "a", "inner/b.v2", "no_suffix", "c"]
    assert output_names([]) == []


def test_names_never_collide():
    assert output_names(["a.png", "a.jpg", "a_jpg.png", "b.png", "c/a.png"]) == [
        "a_png", "a_jpg_2", "a_jpg", "b", "c/a"]
    assert output_names(["job.png", "JOB"]) == ["job_png", "JOB_file"]  # beside job.json


@pytest.mark.parametrize("first, second", [
    ("Photo.jpg", "photo.jpg"), ("D/x.png", "d/X.png"), ("stra\u00dfe.png", "STRASSE.png"),
    ("caf\u00e9.png", "cafe\u0301.png"), ("a?.png", "a*.png"), ("a[1].png", "a_1_.png"),
    ("../a.png", ".a.png/../b.png")])
def test_what_some_file_system_takes_for_equal_is_told_apart(first, second):
    names = output_names([first, second])
    keys = {unicodedata.normalize("NFC", name).casefold() for name in names}
    assert len(keys) == 2, names


@pytest.mark.parametrize("name", [
    "../../etc/passwd", "/etc/passwd", "gs://bucket/x/../../y.png", "a/./b.jpg", "..", "...", ".",
    "/", "a\nb\x1b[31m.png", "\u202egnp.exe", "bad\udcff\udcfe.png", "con\\..\\x.png",
    "a:b*c?[1].png",
    "x" * 300 + ".jpg", "\u00e9" * 200 + ".png", "/".join("y" * 200 for _ in range(9)) + "/z.png",
    " .png", "end. /x .png", "a.json/x.png", "b_mask.png/x.png", "parts/x.png", "PARTS/y.jpg"])
def test_hostile_names_are_made_safe(name, tmp_path):
    safe, = output_names([name])
    parts = safe.split("/")
    assert not {"", ".", ".."} & {*parts} and not safe.startswith((".", "/"))
    assert all(len(part.encode()) < 200 and not part.startswith(".") for part in parts)
    assert not {*"*?[]"} & {*safe}
    assert safe.isprintable() and len(safe.encode()) < 800
    assert not parts[0].lower() == "parts" or len(parts) == 1
    assert not any(part.endswith((".json", ".png")) for part in parts[:-1])
    target = tmp_path / f"{safe}_overlay.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"")
    assert os.path.realpath(target).startswith(str(tmp_path))


def test_long_names_that_begin_alike_stay_apart():
    first, second = output_names(["x" * 300 + "1.png", "x" * 300 + "2.png"])
    assert first != second and first[:160] == second[:160] == "x" * 160


def test_any_names_are_told_apart_and_always_the_same():
    rng = random.Random(0)
    letters = ["a", "A", ".", "/", "_", "2", "\u00e9", "\n", "?", "png", "jpg"]
    names = sorted({"".join(rng.choices(letters, k=rng.randint(1, 6))) for _ in range(3000)})
    unique = output_names(names)
    assert len({unicodedata.normalize("NFC", n).casefold() for n in unique}) == len(names)
    assert output_names(names) == unique
