"""The other systems of the family: small models of the small LEGION's sizes, and small data."""

import dataclasses
import pathlib

from input_pipeline.datasets import open_dataset
from input_pipeline.records import prepared
from input_pipeline.records.builder import prepare
from input_pipeline.scarred_photos import dataset_folder
from input_pipeline.text.dialogue import dialogue_named
from legion_jax.config import TOKEN, WORDS, LegionConfig, VerdictConfig

# {recipe of a system: layout of its photos, data set that reads them, dialogue}
DATA = {"tiny_fakevlm": ("fakeclue", "fakeclue/published", "llava15_chat"),
        "tiny_sida": ("sid_set", "sid_set/folders", "sida_described")}


def make_data(root: pathlib.Path, recipe: str, *, train: int, test: int) -> None:
    """Scarred photos, prepared in `data/`, and a tokenizer of their texts in `tokenizer/`."""
    layout, dataset, dialogue = DATA[recipe]
    dataset_folder.make_dataset(root / "photos", num_train=train, num_test=test, size=72,
                                layout=layout)
    prepare(open_dataset(dataset, str(root / "photos")), root / "data")
    source = prepared.open_split(root / "data", "train")
    spoken = dialogue_named(dialogue)
    texts = [spoken.answer_to(label, source[number].caption) for number in range(len(source))
             for label in ("real", "synthetic", "tampered")]
    spoken.train_tokenizer(texts, 420, root / "tokenizer")


def fakevlm(config: LegionConfig) -> LegionConfig:
    """No SAM, and the words are the verdict."""
    return dataclasses.replace(config, sam=None,
                               verdict=VerdictConfig(WORDS, ("real", "fake"), hidden=0))


def sida(config: LegionConfig) -> LegionConfig:
    """A linear projector, a head of three classes on [CLS], and fusion."""
    return dataclasses.replace(
        config, projector="linear", fusion=True,
        verdict=VerdictConfig(TOKEN, ("real", "synthetic", "tampered"), hidden=24))
