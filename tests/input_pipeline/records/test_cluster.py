"""Reading by Apache Beam: the same records and manifest as without, and nothing half done."""

import dataclasses
import json
import re
import subprocess
import sys

import fake_synthscars
import numpy as np
import pytest
from etils import epath
from fake_richhf import make_fake as make_richhf
from fake_synthscars import DEFECTS, GOOD, IMAGES, write_split
from prepared_sources import prepare, write_times

from input_pipeline.datasets import open_dataset
from input_pipeline.records import dataset, manifest
from input_pipeline.records.dataset import Item
from input_pipeline.records.prepared import open_split
from input_pipeline.records.record import DataError

beam = pytest.importorskip("apache_beam", reason="needs Apache Beam: pip install -e '.[beam]'")

RUNNER = ["--runner=DirectRunner"]
PROCESSES = [*RUNNER, "--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = fake_synthscars.make_fake(tmp_path_factory.mktemp("source"))
    return write_split(root, "test", GOOD[:2], images=IMAGES)


def _lines(made):
    return sorted(json.dumps(entry, sort_keys=True) for entry in
                  manifest.read_manifest(made.data_path))


def assert_same(plain, other):
    """The same records in the same order, manifest and summary; no other files."""
    assert sorted(other.info.splits) == sorted(plain.info.splits)
    for split in plain.info.splits:
        first, second = (open_split(made.data_path, split) for made in (plain, other))
        assert len(first) == len(second)
        for number in range(len(first)):
            np.testing.assert_equal(  # equal where both are NaN
                dataclasses.asdict(first[number]), dataclasses.asdict(second[number]))
    assert _lines(plain) == _lines(other)
    assert manifest.read_summary(plain.data_path) == manifest.read_summary(other.data_path)
    names = [{path.name.partition("-0")[0] for path in made.data_path.iterdir()}
             for made in (plain, other)]
    assert names[0] == names[1]


@pytest.fixture(scope="module")
def plain(source, tmp_path_factory):
    return prepare("synthscars", source, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("options", [RUNNER, PROCESSES])
def test_records_and_manifest_are_those_of_the_plain_way(source, plain, tmp_path, options):
    made = prepare("synthscars", source, tmp_path, beam=options)
    assert_same(plain, made)
    counts = manifest.read_summary(made.data_path)["splits"]["train"]
    assert counts["skipped"]["duplicate id"] == 1 and counts["records"] == 5
    before = write_times(made.data_path)
    for beam in (None, options):
        again = prepare("synthscars", source, tmp_path, beam=beam)
        assert write_times(again.data_path) == before


def test_a_data_set_that_holds_archives_and_caches_travels(tmp_path):
    source = make_richhf(tmp_path / "richhf")
    assert_same(prepare("richhf", source, tmp_path / "a"),
                prepare("richhf", source, tmp_path / "b", beam=RUNNER))


def test_the_graph_does_not_grow_with_the_items(source, tmp_path):
    from input_pipeline.records import cluster
    sizes, dataset = [], open_dataset("synthscars", str(source))
    for number in (10, 20_000):
        items = [Item(str(n), f"{n}.png", ["train/images", {"refs": []}, ""])
                 for n in range(number)]
        pipeline = beam.Pipeline()
        _ = pipeline | cluster.read_items(dataset, "train", items, epath.Path(tmp_path))
        sizes.append(pipeline.to_runner_api().ByteSize())
        lines = (tmp_path / f"train-{manifest.LISTING}").read_text().splitlines()
        assert len(lines) == number
    assert sizes[1] < sizes[0] + 1_000 < 200_000


def test_a_split_without_usable_records_is_an_error_and_leaves_nothing(tmp_path):
    source = write_split(tmp_path / "source", "train", DEFECTS[1:4], images=IMAGES)
    with pytest.raises(DataError, match=f"{source}: train: no usable record"):
        prepare("synthscars", source, tmp_path / "data", beam=RUNNER)
    with pytest.raises(DataError, match="no prepared data set here"):
        open_split(tmp_path / "data", "train")
    assert not list((tmp_path / "data").rglob("*.jsonl*"))


def test_other_failures_are_not_taken_for_missing_records(source, tmp_path, monkeypatch):
    def fail(source, split, item):
        raise OSError("the disk is gone")

    monkeypatch.setattr(dataset, "read_item", fail)
    with pytest.raises(Exception, match="the disk is gone") as caught:
        prepare("synthscars", source, tmp_path, beam=RUNNER)
    assert not isinstance(caught.value, DataError)
    with pytest.raises(DataError, match="no prepared data set here"):
        open_split(tmp_path, "train")


KILLED = """
import os, signal, sys
from input_pipeline.records import builder, dataset
from input_pipeline.datasets import open_dataset
complete = dataset.read_item
def read_item(source, split, item):
    if item.id == "2":
        os.kill(os.getpid(), signal.SIGKILL)
    return complete(source, split, item)
dataset.read_item = read_item
builder.prepare(open_dataset("synthscars", sys.argv[1]), sys.argv[2], beam=sys.argv[3:])
"""


def test_a_killed_build_is_never_read_as_complete_and_starts_anew(source, plain, tmp_path):
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path), *RUNNER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    assert list(tmp_path.glob("synthscars/published/incomplete.*"))
    with pytest.raises(DataError, match="no prepared data set here"):
        open_split(tmp_path, "train")
    assert_same(plain, prepare("synthscars", source, tmp_path, beam=RUNNER))
    assert not list(tmp_path.glob("synthscars/published/incomplete.*"))


def test_a_listing_left_by_a_killed_run_goes_with_the_summary(source, plain, tmp_path):
    made = prepare("synthscars", source, tmp_path)
    (made.data_path / manifest.SUMMARY).unlink()
    (made.data_path / f"train-{manifest.LISTING}").write_text("[]\n")
    assert_same(plain, prepare("synthscars", source, tmp_path))


def test_the_tool_takes_options_of_beam_and_needs_no_tensorflow(source, plain, tmp_path):
    code = ("import atexit, runpy, sys;"
            "atexit.register(lambda: print([m for m in ('tensorflow', 'torch') if m in"
            " sys.modules]));"
            "runpy.run_module('tools.prepare_data', run_name='__main__')")
    command = [sys.executable, "-c", code, "--dataset=synthscars", f"--source={source}",
               f"--data_dir={tmp_path}", "--beam=--runner=DirectRunner"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(r"name outside the source\W+3\W", done.stdout)
    assert done.stdout.strip().endswith("[]")
    assert_same(plain, prepare("synthscars", source, tmp_path))  # complete: opens it
