"""What holds for every data set: archives, repeated runs, and runs that are killed at half."""

import os
import pathlib
import signal
import subprocess
import sys
import tarfile

import pytest
from fake_folders import zip_tree
from prepared_sources import write_times
from repository import ROOT, SUPPORT
from sheet_pages import make_source

from input_pipeline.datasets import ALL, open_dataset
from input_pipeline.records import builder, manifest
from input_pipeline.records.prepared import find_version, open_split
from input_pipeline.records.record import DataError


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    return {kind: make_source(kind, root / kind) for kind in ALL}


@pytest.fixture(scope="module")
def built(sources, tmp_path_factory):
    root = tmp_path_factory.mktemp("built")
    return {kind: builder.prepare(made, root / kind) for kind, made in sources.items()}


def contents(folder):
    """({split: records}, manifest) of a prepared data set."""
    path = find_version(folder)
    splits = manifest.read_summary(path)["splits"]
    return ({name: [repr(r) for r in open_split(path, name)] for name in splits},
            list(manifest.read_manifest(path)))


@pytest.mark.parametrize("kind", ALL)
def test_second_run_changes_nothing(sources, built, kind):
    path = built[kind].data_path
    before = write_times(path)
    assert builder.prepare(sources[kind], path.parents[2]).data_path == path
    assert write_times(path) == before


# FakeClue is published as archives; its own tests read it from folders and from one archive too.
@pytest.mark.parametrize("kind", [kind for kind in ALL if kind != "fakeclue"])
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_an_archive_is_the_folder(sources, built, kind, suffix, tmp_path):
    source, packed = pathlib.Path(sources[kind].source), tmp_path / f"{kind}{suffix}"
    files = sorted(path for path in source.rglob("*") if path.is_file())
    if suffix == ".zip":
        zip_tree(packed, {str(path.relative_to(source)): path.read_bytes() for path in files})
    else:
        with tarfile.open(packed, "w") as archive:
            for path in files:
                archive.add(path, path.relative_to(source))
    name = f"{kind}/{sources[kind].config}"
    builder.prepare(open_dataset(name, str(packed)), tmp_path / "data")
    assert contents(tmp_path / "data") == contents(built[kind].data_path)


def kill_all(sources: list[list[str]], root: str) -> None:
    """Prepare each (name, path) in a process of its own that dies over its middle item."""
    complete = builder.read_item

    def die(dataset, split, item):
        if (split, item.id) == middle:
            os.kill(os.getpid(), signal.SIGKILL)
        return complete(dataset, split, item)

    builder.read_item = die
    for name, path in sources:
        dataset = open_dataset(name, path)
        items = [(split, item.id) for split, listed in dataset.splits().items() for item in listed]
        middle = items[len(items) // 2]
        if not (child := os.fork()):
            builder.prepare(dataset, f"{root}/{dataset.name}")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_a_killed_run_is_never_read_as_complete_and_the_next_one_is_whole(
        sources, built, tmp_path):
    named = [(f"{kind}/{made.config}", made.source) for kind, made in sources.items()]
    code = f"import test_every_builder as t; t.kill_all({named!r}, {str(tmp_path)!r})"
    places = f"{pathlib.Path(__file__).parent}:{SUPPORT}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=ROOT, env=os.environ | {"PYTHONPATH": places}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for kind, made in sources.items():
        left = list((tmp_path / kind).rglob("*.array_record*"))
        with pytest.raises(DataError, match="no prepared data set here"):
            find_version(tmp_path / kind)
        builder.prepare(made, tmp_path / kind)
        assert contents(tmp_path / kind) == contents(built[kind].data_path)
        assert not [file for file in left if file.exists()]
