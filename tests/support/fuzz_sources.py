"""Targets of `fuzz_run` that are files of a whole: annotations beside photos, a tokenizer, lists.

Like `fuzz_run.TARGETS`: {target: (a good file, made when it is wanted; what reads it)}.
"""

import json
import pathlib
import tempfile
import types
from collections.abc import Callable

import fake_ddvqa
import fake_fakeclue
import fake_loki
import fake_richhf
import fake_sid_set
import fake_synthscars

from input_pipeline.datasets import open_dataset
from input_pipeline.records import manifest
from input_pipeline.records.dataset import Notes
from input_pipeline.records.record import RecordError
from input_pipeline.text.tokenizer import Tokenizer, train_tokenizer
from legion_jax.config import tiny, to_dict
from legion_jax.predict import calibration, photo_sources
from legion_jax.weights import legion_json

TEXTS = ["The left hand has six fingers.", "A sign with letters that are none."]


def _of_source(name: str, make: Callable, file: str, split: str):
    """A source in which one file is another one, read item by item as preparing does."""
    def good() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            make(pathlib.Path(folder))
            return (pathlib.Path(folder) / file).read_bytes()

    def read(content: bytes, folder: pathlib.Path) -> None:
        make(folder)
        (folder / file).write_bytes(content)
        dataset, refused = open_dataset(name, str(folder)), None
        for item in dataset.splits()[split]:
            try:
                dataset.read(item, Notes()).as_features()
            except RecordError as error:  # costs the item
                refused = error
        if refused:
            raise refused

    return good, read


ENTRY = {"split": "train", "id": "a", "file": "a.png", "notes": [], "status": "kept", "label": 1,
         "category": "x", "generator": "y", "group_id": "g", "image": "0" * 64, "regions": 2}
SKIPPED = {"split": "train", "id": "b", "file": "b.png", "status": "skipped", "reason": "torn",
           "detail": "unreadable", "notes": [
               {"kind": "dropped", "reason": "empty", "detail": "no pixel", "region": 1}]}
COUNTS = {"items": 2, "published": None, "records": 1, "regions": 2, "label": {"1": 1},
          "category": {"x": 1}, "generator": {"y": 1}, "skipped": {"torn": 1}, "repaired": {},
          "dropped": {"empty": 1}}
SUMMARY = {"dataset": "made", "config": "up", "source": "/x", "digest": "0", "content": "1",
           "groups": 1, "groups_in_several_splits": 0, "images_with_several_labels": 0,
           "splits": {"train": COUNTS}}
CALIBRATION = {"format": calibration.FORMAT, "temperature": 1.5, "fingerprint": "0", "step": 3}
META = {"format": legion_json.FORMAT, "config": to_dict(tiny()), "trained": ["a"], "question": {},
        "base": {"path": "/weights", "fingerprint": "0", "step": None}}


def _read_manifest(content, folder):
    (folder / f"train-{manifest.MANIFEST}").write_bytes(content)
    list(manifest.read_manifest(folder))


def _read_summary(content, folder):
    (folder / manifest.SUMMARY).write_bytes(content)
    manifest.read_summary(folder)


def _read_calibration(content, folder):
    (folder / calibration.FILE).write_bytes(content)
    calibration.load(types.SimpleNamespace(folder=folder, fingerprint="0", step=3))


_ADDED = []  # the file beside the good tokenizer.model


def _tokenizer() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        made = pathlib.Path(folder) / "made"
        train_tokenizer(TEXTS, 300, made)
        _ADDED.append((made / "added_tokens.json").read_bytes())
        return (made / "tokenizer.model").read_bytes()


def _read_tokenizer(content, folder):
    (folder / "tokenizer.model").write_bytes(content)
    (folder / "added_tokens.json").write_bytes(_ADDED[0])
    tokenizer = Tokenizer.from_folder(folder)
    tokenizer.decode(tokenizer.encode(TEXTS[0]))


def _read_list(content, folder):
    (folder / "photos").mkdir()
    for name in ("a.png", "b.png"):
        (folder / "photos" / name).write_bytes(b"")
    (folder / "list.txt").write_bytes(content)
    source = photo_sources.open_source(f"@{folder}/list.txt")
    for index in range(len(source.names)):
        source.image(index)
    source.identity()


TARGETS = {
    "synthscars": _of_source("synthscars/published", fake_synthscars.make_fake,
                             "train/annoations/train.json", "train"),
    "loki": _of_source("loki", fake_loki.make_fake, "image/open_ended_vqa.json", "test"),
    "fakeclue": _of_source(
        "fakeclue", lambda root: fake_fakeclue.make_fake(root, packed=False, defects=False),
        "data_json/train.json", "train"),
    "ddvqa": _of_source("ddvqa/general", fake_ddvqa.make_fake,
                        "DQ_FF++/train_set/Original/Original.json", "train"),
    "sid_set": _of_source("sid_set/parquet", fake_sid_set.make_parquet,
                          "data/train-00000-of-00002.parquet", "train"),
    "richhf": _of_source("richhf", fake_richhf.make_fake, "train.tfrecord", "train"),
    "manifest": (lambda: f"{json.dumps(ENTRY)}\n{json.dumps(SKIPPED)}\n".encode(), _read_manifest),
    "summary": (lambda: json.dumps(SUMMARY).encode(), _read_summary),
    "calibration": (lambda: json.dumps(CALIBRATION).encode(), _read_calibration),
    "legion.json": (lambda: json.dumps(META).encode(),
                    lambda content, _: legion_json.parse_meta("legion.json", content)),
    "tokenizer.model": (_tokenizer, _read_tokenizer),
    "photo list": (lambda: b"photos/a.png\nphotos/b.png\n\n# no photo\nphotos/a.png\n", _read_list),
}
