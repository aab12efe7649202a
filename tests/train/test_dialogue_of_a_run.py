"""legion_jax/train/setup.py: the dialogue of a run must have what its losses look at."""

import pytest

from input_pipeline.text.dialogue import SIDA, dialogue_named
from legion_jax.train import recipes, setup
from legion_jax.train.knobs import ConfigError, RunSettings

TEXTS = ["[CLS] The image is real", "The image is full synthetic", "The image is tampered"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{dialogue: folder of a tokenizer for it}."""
    root = tmp_path_factory.mktemp("tokenizers")
    for name in ("legion", "llava15_chat", "sida_described"):
        dialogue_named(name).train_tokenizer(TEXTS, 400, root / name)
    return {name: root / folder for name, folder in (
        ("legion", "legion"), ("llava15_chat", "llava15_chat"), ("raw", "llava15_chat"),
        ("sida", "sida_described"), ("sida_described", "sida_described"),
        ("lisa", "sida_described"))}


def read(folders, recipe, **changes):
    config = recipes.load(recipe).get_config()
    config.update_from_flattened_dict(changes)
    config.data.tokenizer = str(folders[config.data.dialogue])
    config.data.text_length = 300
    return setup.read_task(RunSettings.from_config(config, without_data=True))


@pytest.mark.parametrize("recipe, dialogue, watched", [
    ("tiny", "legion", ["[SEG]"]), ("tiny_fakevlm", "llava15_chat", []),
    ("tiny_sida", "sida_described", ["[CLS]", "[SEG]"])])
def test_a_task_is_what_its_dialogue_says(folders, recipe, dialogue, watched):
    task = read(folders, recipe)
    spec = task.examples
    assert spec.dialogue.name == dialogue and list(task.reading.watched) == watched
    assert spec.soft_masks == spec.learn_labels == (recipe == "tiny_sida")


def test_the_first_stage_of_sida_learns_no_text_unless_it_is_told_to(folders):
    with pytest.raises(ConfigError, match="config.loss.ce: 3.0, but the answers of the dialogue "
                                          "sida hold no captions to learn; config.data.learn_l"):
        read(folders, "tiny_sida", **{"data.dialogue": "sida", "data.learn_labels": False})
    task = read(folders, "tiny_sida", **{"data.dialogue": "sida", "data.instruction": ""})
    assert task.examples.instruction == SIDA.instruction
    read(folders, "tiny_sida", **{"data.dialogue": "sida", "data.learn_labels": False,
                                  "loss.ce": 0.0})


@pytest.mark.parametrize("recipe, changes, message", [
    ("tiny_fakevlm", {"data.dialogue": "raw"}, "raw only asks, it has no form for answers"),
    ("tiny_sida", {"data.dialogue": "lisa"},
     r"verdict above 0, but no answer of the dialogue lisa has the \[CLS\]"),
    ("tiny_sida", {"data.dialogue": "lisa", "loss.verdict": 0.0},
     r"bce and dice above 0, but no answer of the dialogue lisa has the \[SEG\]"),
    ("tiny", {"data.dialogue": "lisa", "loss.verdict": 1.0}, "bce and dice above 0"),
    ("tiny_sida", {"data.mask_canvas": 120}, "mask_canvas: 120 px, but with soft_masks")])
def test_losses_on_what_no_answer_has(folders, recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        read(folders, recipe, **changes)
