"""tools/bench_input: one real run in miniature, its JSON, and what its numbers are made of."""

import io
import json

import numpy as np
import pytest
from commands import run_tool
from PIL import Image

from input_pipeline.datasets import open_dataset
from input_pipeline.records import prepared
from input_pipeline.records.builder import prepare
from input_pipeline.text import conversation
from input_pipeline.text.tokenizer import train_tokenizer
from tools.bench_input import input_contest, stages, synthetic

pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prepared photos and a tokenizer."""
    root = tmp_path_factory.mktemp("bench")
    synthetic.write(root / "source", 12, size=256)
    prepare(open_dataset("synthscars/published", str(root / "source")), root / "data")
    source = prepared.open_split(root / "data", "train")
    captions = [source[i].caption for i in range(len(source))]
    train_tokenizer([*captions, *[conversation.build_prompt()] * 20], 900, root / "tokenizer")
    return root


def bench(folder, *flags):
    return run_tool("tools.bench_input", f"--tokenizer={folder}/tokenizer", "--batch_size=2",
                    "--seconds=0.1", "--rounds=2", *flags, timeout=300)


def test_synthetic_photos_are_like_the_published_ones(folder):
    source = prepared.open_split(folder / "data", "train")
    assert len(source) == 12
    for record in source:
        assert 2 <= len(record.regions) <= 3
        assert min(region.start for region in record.regions) >= 0
        assert Image.open(io.BytesIO(record.image)).size == (256, 256)
    assert synthetic.photo(np.random.default_rng(1), 64) == synthetic.photo(
        np.random.default_rng(1), 64)


@pytest.mark.slow
def test_all_contestants_in_one_run(folder):
    pytest.importorskip("torch")
    done = bench(folder, f"--data_dir={folder}/data", "--peer", "--clip=28", "--sam=64",
                 "--mask_canvas=64", "--buckets=320,384,448")
    assert not done.returncode, done.stderr
    assert "same inputs over 8 photos" in done.stdout
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["checks"]["clip_bytes_different"] == 0
    assert result["speed"].keys() == {"floor", "ours", "peer"}
    assert all(s["images_per_s"] > 0 and s["images_per_core_s"] > 0
               for s in result["speed"].values())
    assert result["ratios"].keys() == {"ours/floor", "ours/peer"}
    assert list(result["stage_ms"]) == ["read record", "decode", "CLIP view", "SAM view", "masks",
                                        "text", "stack"]
    assert sum(row["share_of_batches"] for name, row in result["padding"].items()
               if name != "one length") == pytest.approx(1)
    assert result["padding"]["one length"]["padding"] > 0.5
    views, masks = 28 * 28 * 3 + 64 * 64 * 3, 8 * 64 * 64
    assert views + masks / 8 < result["bytes_per_image"]["ours"] < views + masks / 8 + 4000
    assert 4 * views + masks < result["bytes_per_image"]["peer"] < 4 * views + masks + 8000


@pytest.mark.slow
def test_made_up_photos_and_workers_without_the_peer(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = bench(folder, "--synthetic=4", "--workers=1", "--threads=1")
    assert not done.returncode, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["photos"] == 4 and "checks" not in result
    assert result["speed"].keys() == {"floor", "ours"}
    assert not list(tmp_path.glob("bench_input_*"))


@pytest.mark.parametrize("flags, message", [
    ((), "one of --data_dir and --synthetic"),
    (("--data_dir=nowhere",), "nowhere: no prepared data set here"),
])
def test_mistakes_are_one_sentence(folder, flags, message):
    done = bench(folder, *flags)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def test_turns_are_interleaved_and_compared_within_a_round():
    log = []

    class Fake:
        multiple = 2

        def __init__(self, name, speed):
            self.name, self.speed = name, speed

        def turn(self, count):
            log.append((self.name, count))
            return input_contest.Turn(8 * count, 8 * count / self.speed, 16 * count / self.speed)

    turns = input_contest.take_turns([Fake("floor", 160), Fake("ours", 80)], seconds=4, rounds=2)
    assert log == [("floor", 2), ("floor", 4), ("ours", 2), ("ours", 4),  # to warm up
                   ("floor", 40), ("ours", 20), ("ours", 20), ("floor", 40)]
    speed = input_contest.medians(turns["ours"])
    assert speed["images_per_s"] == pytest.approx(80) and speed["cores"] == pytest.approx(2)
    assert input_contest.ratios(turns)["ours/floor"] == pytest.approx(
        {"images_per_s": 0.5, "images_per_core_s": 0.5})


def test_padding_of_one_length_counts_cut_texts_as_full():
    class Stream:
        def padding(self, steps):
            return {50: (steps, 0.25)}

    assert stages.padding(Stream(), np.array([50, 150]), 100) == {
        "50": {"share_of_batches": 1.0, "padding": 0.25},
        "one length": {"share_of_batches": 1.0, "padding": 0.25}}
