"""Whole files and folders: complete or absent, cleaned up after kills, locked against others."""

import os
import stat
import subprocess
import sys

import pytest
from repository import ROOT

from input_pipeline import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def run(code, *arguments, check=True):
    return subprocess.run([sys.executable, "-c", f"from input_pipeline import files\n{code}",
                           *map(str, arguments)], cwd=ROOT, check=check, capture_output=True)


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "page.html"
    with files.whole_file(path) as file:
        file.write("ä\ud800")
        file.write(b"\xff")
        assert not path.exists() and len(names(tmp_path)) == 1
        assert file.num_bytes == 4
    assert path.read_bytes() == "ä?".encode() + b"\xff"
    with pytest.raises(KeyboardInterrupt), files.whole_file(path) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_bytes() == "ä?".encode() + b"\xff" and names(tmp_path) == ["page.html"]


def test_texts_and_json(tmp_path):
    files.write_json(str(tmp_path / "a.json"), {"é": [1]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "é": [\n    1\n  ]\n}\n'
    files.write_text(tmp_path / "a.json", "other")
    assert (tmp_path / "a.json").read_text() == "other" and names(tmp_path) == ["a.json"]


def test_an_unfinished_file_is_created_exclusively(tmp_path):
    (tmp_path / "begun").write_text("of somebody else")
    with pytest.raises(FileExistsError):
        files.write_bytes(tmp_path / "a", b"mine", temporary=tmp_path / "begun")
    assert names(tmp_path) == ["begun"]
    files.write_bytes(tmp_path / "a", b"mine", temporary=tmp_path / "free")
    assert names(tmp_path) == ["a", "begun"]


def test_two_writers_of_a_file_do_not_mix(tmp_path):
    path = tmp_path / "a"
    with files.whole_file(path) as first:
        first.write("first")
        files.write_text(path, "second")
        assert path.read_text() == "second"
        first.write(" and last")
    assert path.read_text() == "first and last" and names(tmp_path) == ["a"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    killed = run("import os, sys\nwith files.whole_file(sys.argv[1]) as file, "
                 "files.new_folder(sys.argv[2]) as folder:\n"
                 "    (folder / 'inside').touch()\n    os._exit(9)",
                 tmp_path / "file[1]", tmp_path / "folder", check=False)
    assert killed.returncode == 9 and len(names(tmp_path)) == 2
    files.write_text(tmp_path / "file[1]", "whole")
    with files.new_folder(tmp_path / "folder"):
        assert len(names(tmp_path)) == 2
    assert names(tmp_path) == ["file[1]", "folder"] and not names(tmp_path / "folder")


def test_a_full_disk_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    full = run("import resource, signal, sys\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
               "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
               "files.write_bytes(sys.argv[1], bytes(200))", tmp_path / "a", check=False)
    assert b"File too large" in full.stderr
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_follow_the_umask_which_nobody_touches(tmp_path, mask):
    run("import os, sys\nmask = os.umask(int(sys.argv[2]))\ndel os.umask\n"
        "with files.new_folder(sys.argv[1]) as folder:\n"
        "    files.write_text(folder / 'file', 'text')", tmp_path / "new", mask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o777 & ~mask
    assert stat.S_IMODE((tmp_path / "new/file").stat().st_mode) == 0o666 & ~mask


def test_a_folder_needs_a_free_name(tmp_path):
    for output, message in ((tmp_path, "already exists"),
                            ("", "the name of the output folder is empty")):
        with pytest.raises(files.FilesError, match=message):
            with files.new_folder(output):
                pass


def test_a_lock_is_held_until_its_file_is_closed(tmp_path):
    busy = ValueError("busy")
    with open(tmp_path / "log", "ab") as one, open(tmp_path / "log", "ab") as other:
        files.lock(one, busy)
        with pytest.raises(ValueError, match="busy"):
            files.lock(other, busy)
        one.close()
        files.lock(other, busy)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    files.lock(descriptor, busy)
    os.close(descriptor)


def test_parts_of_a_file_are_locked_one_by_one(tmp_path):
    other = ("import sys\nfile = open(sys.argv[1], 'r+b')\n"
             "files.lock(file, ValueError('busy'), part=int(sys.argv[2]))")
    (tmp_path / "job.json").touch()
    with open(tmp_path / "job.json", "r+b") as file:
        files.lock(file, ValueError("busy"), part=1)
        assert run(other, tmp_path / "job.json", 0).returncode == 0
        assert b"ValueError: busy" in run(other, tmp_path / "job.json", 1, check=False).stderr
