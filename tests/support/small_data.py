"""A prepared data set of scarred photos, and the config and batches of a run that reads it."""

import json
import pathlib

import pytest

from experiments import tiny
from input_pipeline.batches import loader
from input_pipeline.batches.examples import ExampleSpec
from input_pipeline.datasets import open_dataset
from input_pipeline.photos.views import CanvasView, CropView
from input_pipeline.records import prepared
from input_pipeline.records.builder import prepare
from input_pipeline.scarred_photos import dataset_folder
from input_pipeline.text.tokenizer import Tokenizer, train_tokenizer
from legion_jax.config import tiny as tiny_model
from legion_jax.train import data as train_data
from legion_jax.train.knobs import RunSettings

MODEL = tiny_model()
SPEC = ExampleSpec(vision=CropView(32), sam=CanvasView(64, 64), text_length=300, mask_slots=3,
                   mask_canvas=80, instruction="Is this photo real? Name its artifacts.")


def make(root: pathlib.Path, *, train: int, test: int) -> Tokenizer:
    """Scarred photos, prepared in `data/`, and a tokenizer of their texts in `tokenizer/`."""
    dataset_folder.make_dataset(root / "photos", num_train=train, num_test=test, size=72)
    prepare(open_dataset("synthscars/photos", str(root / "photos")), root / "data")
    records = json.loads((root / "photos/train/annotations/train.json").read_text())
    captions = [next(iter(record.values()))["caption"] for record in records]
    return train_tokenizer(captions, 420, root / "tokenizer")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make(root, train=24, test=5)
    return root


def make_config(data, **knobs):
    config = tiny.get_config()
    config.data.data_dir, config.batch_size = str(data / "data"), 4
    config.data.text_length = SPEC.text_length
    config.data.update(knobs)
    return config


def open_batches(config, tokenizer, spec=SPEC, model=MODEL, places=None):
    """The rows `places` of every batch of a run, by step."""
    settings = RunSettings.from_config(config)
    return loader.train_batches(train_data.open_rows(settings, tokenizer, spec, model, places))


def damage(data: pathlib.Path, target: pathlib.Path) -> None:
    """A copy of the prepared data set in which a few bytes of one record are gone."""
    folder = prepared.find_version(data / "data")
    copy = target / "data" / folder.relative_to(data / "data")
    copy.mkdir(parents=True)
    for file in folder.iterdir():
        content = bytearray(file.read_bytes())
        if "-train.array_record" in file.name:
            pixels = content.index(b"IDAT", len(content) // 3) + 20  # inside some photo
            content[pixels:pixels + 64] = bytes(64)
        (copy / file.name).write_bytes(content)
