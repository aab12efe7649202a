"""Which prepared splits are published test sets: told by number, names and contents."""

import hashlib
import json
import uuid

import pytest

from input_pipeline.datasets import fakeclue, folder_binary, loki, open_dataset, richhf, synthscars
from input_pipeline.records.dataset import Item


def items(number, name="{}.png"):
    return [Item(str(k), name.format(k)) for k in range(number)]


@pytest.fixture
def asked(tmp_path):
    """What a data set says of items; it need not hold any."""
    def ask(kind, config, split, entries):
        return kind(str(tmp_path), config).unlike_published(split, entries)
    return ask


def test_other_counts_are_other_sets(asked):
    assert asked(richhf.RichHF, "published", "test", items(955)) == ""
    assert asked(richhf.RichHF, "published", "test", items(954)) == (
        "test has 954 items, as published 955")
    for config in ("published", "photos"):
        assert asked(synthscars.SynthScars, config, "test", items(120))
    ufd = folder_binary.UniversalFakeDetect
    assert asked(ufd, "capped", "guided", items(2000)) == asked(ufd, "all", "san", items(440)) == ""
    assert "at least 200" in asked(ufd, "all", "biggan", items(30))


def test_names_tell(asked):
    uuids = [Item("0", f"media_data/image/{uuid.uuid4()}.jpg") for _ in range(229)]
    assert asked(loki.Loki, "regions", "test", uuids) == ""
    mixed = uuids[:200] + items(29)
    assert asked(loki.Loki, "regions", "test", mixed) == (
        "87% of the files of test are named as the published ones")
    of_clue = items(5000, "genimage/a/{}.png")
    assert asked(fakeclue.FakeClue, "published", "test", of_clue) == ""
    for config, split, entries in (("dedup", "test", of_clue), ("published", "train", of_clue),
                                   ("published", "test", items(5000)),
                                   ("published", "test", of_clue[:400])):
        assert asked(fakeclue.FakeClue, config, split, entries)


def test_a_thousand_photos_of_ones_own_are_not_synthscars(tmp_path, monkeypatch):
    for split in ("train", "test"):
        folder = tmp_path / split / "annotations"
        folder.mkdir(parents=True)
        (folder / f"{split}.json").write_text(json.dumps(
            [{str(k): {"img_file_name": f"{k}.jpg"}} for k in range(1000)]))
    dataset = open_dataset("synthscars/published", str(tmp_path))
    found = dataset.splits()
    assert dataset.unlike_published("test", found["test"]) == (
        "the annotations of test are not the published file")
    digest = hashlib.sha256((tmp_path / "test/annotations/test.json").read_bytes()).hexdigest()
    monkeypatch.setitem(synthscars.DIGESTS, "test", digest[:8])
    assert dataset.unlike_published("test", found["test"]) == ""
