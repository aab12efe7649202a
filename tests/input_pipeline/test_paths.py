"""input_pipeline/paths.py: what the user named, or one sentence."""

import pytest

from input_pipeline import paths
from input_pipeline.errors import UserError


def test_paths_and_uris(tmp_path):
    assert str(paths.find("a/b", "--x")) == "a/b"
    assert str(paths.find("file:///a/b", "--x")) == "/a/b"
    assert str(paths.find("gs://bucket/b", "--x")) == "gs://bucket/b"
    assert not paths.folder(str(tmp_path / "new"), "--x").exists()


@pytest.mark.parametrize("text, words", [("", "--x: empty"), ("ftp://a/b", "ftp:// is not")])
def test_what_names_nothing(text, words):
    with pytest.raises(UserError, match=words):
        paths.find(text, "--x")


def test_files_that_can_be_written(tmp_path):
    assert paths.file(str(tmp_path / "new.tsv"), "--x") == tmp_path / "new.tsv"
    assert str(paths.file("gs://bucket/new/a.tsv", "--x")) == "gs://bucket/new/a.tsv"
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "a" / "b", "no folder .*a$")):
        with pytest.raises(UserError, match=f"--x: {path}.* {message}"):
            paths.file(str(path), "--x")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(UserError, match="--x: .*f is a file, not a folder"):
        paths.folder(str(tmp_path / "f"), "--x")
