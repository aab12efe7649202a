"""predict/photo_sources.py and photo_files.py: which photos there are, and their bytes."""

import io
import json
import os
import threading

import bucket_server
import pytest
from PIL import Image

from input_pipeline.datasets import open_dataset
from input_pipeline.photos.images import ImageError
from input_pipeline.records import builder
from input_pipeline.records.record import DataError
from input_pipeline.scarred_photos import dataset_folder
from legion_jax.predict.photo_sources import (
    FileSource,
    RecordSource,
    SourceError,
    check_apart,
    open_source,
)

server, bucket = bucket_server.server, bucket_server.bucket


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "photos [1]"
    for name in ("b.jpg", "a.png", "in/c.jpg", "in/deep er/d.png", ".hidden.png", ".git/e.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def read(source):
    return [source.read(index, 1 << 20)[1].decode() for index in range(len(source.names))]


def test_a_folder_is_all_its_files_in_order(tree):
    source = open_source(f"{tree}/")
    assert list(source.names) == read(source) == ["a.png", "b.jpg", "in/c.jpg", "in/deep er/d.png"]
    assert source.image(2) == str(tree / "in/c.jpg") and source.size(2) == len("in/c.jpg")


def test_links_are_followed_once(tree, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.png").write_bytes(b"x")
    (other / "back").symlink_to(tree)
    for name in ("A_link", "z_link"):
        (tree / name).symlink_to(other)
    (tree / "in" / "up").symlink_to(tree)
    (tree / "0_same").symlink_to(tree / "in")
    (tree / "self").symlink_to(tree / "self")
    names = list(open_source(str(tree)).names)
    assert names == ["A_link/x.png", "a.png", "b.jpg", "in/c.jpg", "in/deep er/d.png", "self"]


def test_a_file_and_a_name_that_looks_like_a_pattern(tree):
    source = open_source(str(tree / "in/c.jpg"))
    assert source.names == ["c.jpg"] and read(source) == ["in/c.jpg"]
    (tree / "x*.png").write_bytes(b"star")
    (tree / "xy.png").write_bytes(b"y")
    assert read(open_source(str(tree / "x*.png"))) == ["star"]


def test_patterns(tree, monkeypatch):
    assert list(open_source(f"{tree.parent}/*/*.jpg").names) == ["photos [1]/b.jpg"]
    assert read(open_source(f"{tree.parent}/photos ?1?/**/*.[pj]*g")) == [
        "a.png", "b.jpg", "in/c.jpg", "in/deep er/d.png"]
    monkeypatch.chdir(tree)
    assert open_source("*.jpg").names == ["b.jpg"] and open_source("*.jpg").image(0) == "./b.jpg"
    with pytest.raises(SourceError, match=r"\*\.gif: no file matches"):
        open_source("*.gif")


def test_a_list(tree, tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "files.txt").write_bytes(
        b"\xef\xbb\xbf# comment\r\n\r\n../photos [1]/b.jpg\r\n   \n" + f"{tree}/in/c.jpg\n".encode()
        + b"../photos [1]/in/../b.jpg\n../photos [1]/gone.png\n../photos [1]/ba\xffd.png\n"
        + b"../no\0.png")
    source = open_source(f"@{tmp_path}/lists/files.txt")
    assert source.names[:3] == ["photos [1]/b.jpg", "photos [1]/in/c.jpg", "photos [1]/gone.png"]
    assert source.repeated == 1
    assert [source.read(k, 99)[1] for k in (0, 1)] == [b"b.jpg", b"in/c.jpg"]
    for index, reason in ((2, "gone.png: No such file"), (3, "ba.*d.png: No such file"),
                          (4, "embedded null")):
        with pytest.raises(ImageError, match=reason):
            source.read(index, 99)
    json.dumps(source.identity()), source.image(3).encode()
    monkeypatch.chdir(tree)
    (tree / "l").write_text("in/c.jpg")
    assert read(open_source("@l")) == ["in/c.jpg"]
    (tree / "l").write_text("# nothing\n\n")
    with pytest.raises(SourceError, match="l: the list names no files"):
        open_source("@l")
    with pytest.raises(SourceError, match="none.txt: No such file"):
        open_source("@none.txt")


def test_what_is_no_plain_file_is_not_waited_for(tree):
    os.mkfifo(tree / "pipe.png")
    source = open_source(str(tree))
    refusals = []
    thread = threading.Thread(target=lambda: refusals.append(pytest.raises(
        ImageError, source.read, source.names.index("pipe.png"), 9)), daemon=True)
    thread.start()
    thread.join(10)
    assert "pipe.png: a device, not a file" in str(refusals[0].value)
    with pytest.raises(ImageError, match="in: a folder, not a file"):
        FileSource("list", "", str(tree), ["in"]).read(0, 9)
    with pytest.raises(ImageError, match="zero: a device"):
        FileSource("list", "", "", ["/dev/zero"]).read(0, 9)


def test_files_above_the_limit_are_not_read(tree):
    with pytest.raises(ImageError, match="b.jpg: 5 bytes, limit 4"):
        open_source(str(tree / "b.jpg")).read(0, 4)
    assert open_source(str(tree / "b.jpg")).read(0, 5)[1] == b"b.jpg"


@pytest.mark.parametrize("images, output, message", [
    ("{t}", "{t}/out", "out: lies in"), ("{t}", "{t}", "lies in"),
    ("{t}/in", "{t}", "choose another"),
    ("{t}/**/*.png", "{t}/in/out", "lies in"), ("{t}/*.png", "{t}", "where the photos are"),
    ("{t}/a.png", "{t}", "where the photos are"), ("@{t}/in/l", "{t}/in", "where the photos are"),
    ("{t}", "{t}/../link", "lies in")])
def test_results_may_not_land_among_the_photos(tree, images, output, message):
    (tree / "in/l").write_text("c.jpg")
    (tree.parent / "link").symlink_to(tree)
    place = str(tree).replace("[1]", "?1?") if "*" in images else tree
    with pytest.raises(SourceError, match=message):
        check_apart(open_source(images.format(t=place)), output.format(t=tree))


@pytest.mark.parametrize("images, output", [
    ("{t}", "{t} results"), ("{t}/a.png", "{t}/out"), ("{t}/*.png", "{t}/out"), ("@{t}/l", "out")])
def test_results_may_lie_elsewhere(tree, images, output):
    (tree / "l").write_text("in/c.jpg")
    place = str(tree).replace("[1]", "?1?") if "*" in images else tree
    check_apart(open_source(images.format(t=place)), output.format(t=tree))


def test_sources_are_told_apart(tree, tmp_path):
    one = open_source(str(tree)).identity()
    assert one == open_source(f"{tree}/in/..").identity()
    (tree / "new.png").write_bytes(b"")
    assert (changed := open_source(str(tree)).identity())["names"] != one["names"]
    assert changed["photos"] == one["photos"] + 1
    tree.rename(tmp_path / "moved")
    assert open_source(str(tmp_path / "moved")).identity()["place"] != one["place"]


def test_a_bucket(bucket, tmp_path):
    for name in ("d/b.jpg", "d/a [1].png", "d/in/c.jpg", "d/.thumbs/x.jpg", "e.jpg"):
        (bucket / name).write_bytes(name.encode())
    folder = open_source(f"{bucket}/d")
    assert list(folder.names) == ["a [1].png", "b.jpg", "in/c.jpg"]
    assert read(folder)[0] == "d/a [1].png" and folder.image(1) == f"{bucket}/d/b.jpg"
    pattern = open_source(f"{bucket}/d/*.jpg")
    assert list(pattern.names) == ["b.jpg"] and read(pattern) == ["d/b.jpg"]
    assert read(open_source(f"{bucket}/d/a [1].png")) == ["d/a [1].png"]
    (bucket / "list.txt").write_text(f"d/b.jpg\n{bucket}/e.jpg\n")
    listed = open_source(f"@{bucket}/list.txt")
    assert read(listed) == ["d/b.jpg", "e.jpg"]
    assert list(listed.names) == [f"{bucket}/d/b.jpg", f"{bucket}/e.jpg"]
    with pytest.raises(ImageError, match="e.jpg: 5 bytes, limit 4"):
        listed.read(1, 4)
    with pytest.raises(SourceError, match="name the folder itself"):
        open_source(f"{bucket}/**/x.jpg")
    with pytest.raises(SourceError, match=f"{bucket}/none: no such"):
        open_source(f"{bucket}/none")
    with pytest.raises(SourceError, match=f"lies in {bucket}/d"):
        check_apart(folder, f"{bucket}/d/out")


def test_a_prepared_data_set(tmp_path):
    dataset_folder.make_dataset(tmp_path / "photos", num_train=6, num_test=3)
    builder.prepare(open_dataset("synthscars/photos", str(tmp_path / "photos")), tmp_path / "data")
    source = RecordSource(tmp_path / "data", "test[:2]")
    assert source.names == ["00000000", "00000001"]
    image, content = source.read(1, 1 << 20)
    assert image.startswith("test") and image != source.read(0, 1 << 20)[0]
    Image.open(io.BytesIO(content)).verify()
    assert source.identity() != RecordSource(tmp_path / "data", "test[:1]").identity()
    with pytest.raises(ImageError, match=r"test\S+: \d+ bytes, limit 9"):
        source.read(0, 9)
    with pytest.raises(DataError, match="no split 'none'"):
        RecordSource(tmp_path / "data", "none")


def test_patterns_that_go_down_enter_each_folder_once(tmp_path):
    (tmp_path / "in" / ".hidden").mkdir(parents=True)
    for name in ("a.png", "in/b.png", "in/c.jpg", "in/.hidden/d.png", ".e.png"):
        (tmp_path / name).write_bytes(b"x")
    for number in range(3):  # loops of links, by which there are more paths than can be counted
        (tmp_path / f"loop{number}").symlink_to(tmp_path)
    assert open_source(f"{tmp_path}/**/*.png").names == ["a.png", "in/b.png"]
    assert open_source(f"{tmp_path}/**").names == ["a.png", "in/b.png", "in/c.jpg"]
    assert open_source(f"{tmp_path}/*/**/?.*").names == ["in/b.png", "in/c.jpg"]
    assert open_source(f"{tmp_path}/**/.*/*.png").names == ["in/.hidden/d.png"]
    assert open_source(f"{tmp_path}/**/.e*").names == [".e.png"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-8"])
def test_lists_of_any_unicode(tmp_path, encoding):
    (tmp_path / "größe 左.png").write_bytes(b"x")
    (tmp_path / "list").write_text("größe 左.png\r\n", encoding=encoding)
    assert read(open_source(f"@{tmp_path}/list")) == ["x"]


@pytest.mark.parametrize("content, words", [
    (b"\xff\xfea", "begins as UTF-16"), (b"a\n" * 10_000_001, "10000001 lines, limit 10000000")])
def test_lists_that_cannot_be_read(tmp_path, content, words):
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(SourceError, match=words):
        open_source(f"@{tmp_path}/list")
