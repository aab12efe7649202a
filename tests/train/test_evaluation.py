"""legion_jax/train/evaluation.py: a run is scored as evaluation would score its parameters."""

import dataclasses
import pathlib

import jax
import pytest
import several_hosts
import small_data
from hypothesis import given, strategies as st
from random_models import randomized

from input_pipeline.records import prepared
from input_pipeline.records.record import DataError
from input_pipeline.text import conversation
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax import sharding
from legion_jax.config import LoraConfig, from_dict, to_dict
from legion_jax.evaluate.run import evaluate
from legion_jax.models import param_tree
from legion_jax.models.reading import Reading
from legion_jax.predict.prediction import Question
from legion_jax.predict.predictor import Predictor
from legion_jax.train import evaluation, setup
from legion_jax.train.knobs import ConfigError, RunSettings

data = small_data.data
# A [SEG] in the question asks for a mask, so that a model that says anything draws one.
INSTRUCTION = "Is this photo real? [SEG]"


def settings_of(data, **knobs) -> RunSettings:
    config = small_data.make_config(data, instruction=INSTRUCTION, mask_canvas=80)
    config.eval.every, config.eval.photos, config.eval.max_new_tokens = 90, 3, 6
    config.eval.batch_size = 3
    for name, value in knobs.items():
        group, _, knob = name.rpartition("__")
        setattr(getattr(config, group) if group else config, knob, value)
    return RunSettings.from_config(config)


@pytest.fixture(scope="module")
def task(data, config) -> setup.Task:
    return task_of(data, config)


def task_of(data, config) -> setup.Task:
    tokenizer = Tokenizer.from_folder(data / "tokenizer")
    model = dataclasses.replace(config, lora=LoraConfig(rank=0), language=dataclasses.replace(
        config.language, vocab=tokenizer.vocab_size, max_positions=512))
    settings = settings_of(data)
    prompt = conversation.encode_prompt(tokenizer, INSTRUCTION)
    return setup.Task(model, tokenizer, setup.example_spec(settings.data, model),
                      Reading(conversation.image_index(prompt), {"[SEG]": tokenizer.seg_id},
                              len(prompt)))


def test_scores_are_those_of_the_evaluation_of_the_same_parameters(data, task, monkeypatch):
    settings = settings_of(data)
    monkeypatch.setattr(conversation, "parse_answer", with_a_region)
    params = random_params(task.model)
    records = prepared.open_split(data / "data", "test")
    alone = Predictor(task.model, params, task.tokenizer, batch_size=2, question=Question(
        INSTRUCTION, task.examples.sam_longest, 6, settings.data.mask_slots),
        mesh=sharding.make_mesh((1, 1, 1), jax.devices()[:1]))
    expected, rows = evaluate(alone, [records[k] for k in evaluation.spaced(len(records), 3)])
    assert any(row["num_masks"] for row in rows)

    mesh = sharding.make_mesh((2, 2, 2))
    trained, tree = laid_out(params, mesh)
    score = evaluation.of_run(settings, task, mesh)
    for _ in range(2):  # the second time by the same programs
        scores = score(trained, tree)
        assert scores == pytest.approx(evaluation.named_scores(expected), rel=1e-4, abs=1e-5)
    assert {"localisation.mean.f1", "detection.accuracy", "text.rouge_l"} <= scores.keys()
    zeros = jax.tree.map(lambda x: 0 * x, (trained, tree))
    assert score(*zeros) != scores


def with_a_region(text, parse=conversation.parse_answer, **asked):
    """Whatever random parameters say, the first [SEG] belongs to it."""
    return dataclasses.replace(parse(text, **asked), regions=[
        conversation.AnswerRegion("", 0, 0, "", seg_index=0)])


def random_params(model):
    return param_tree.flatten(param_tree.split_params(
        randomized(param_tree.abstract_model(model)), param_tree.EVERYTHING)[1])


def laid_out(params, mesh):
    """A trainable and a frozen tree on the devices of a mesh."""
    tree = param_tree.unflatten(params)
    tree = jax.tree.map(
        lambda x, layout: jax.make_array_from_callback(x.shape, layout, lambda part: x[part]),
        tree, sharding.tree_shardings(tree, mesh))
    return {"language": tree.pop("language")}, tree


def scores_on(data, config, shape) -> dict:
    """Scores of random parameters on a mesh of all devices of all hosts."""
    conversation.parse_answer = with_a_region  # this process ends soon
    data, model = pathlib.Path(data), from_dict(config)
    mesh = sharding.make_mesh(shape)
    score = evaluation.of_run(settings_of(data), task_of(data, model), mesh)
    return score(*laid_out(random_params(task_of(data, model).model), mesh))


@pytest.mark.slow
def test_hosts_score_together(data, config):
    one, = several_hosts.run(scores_on, str(data), to_dict(config), (2, 2, 2), hosts=1)
    for shape in ((2, 2, 2), (1, 8, 1), (1, 2, 2, 2)):
        two = several_hosts.run(scores_on, str(data), to_dict(config), shape)
        assert two[0] == two[1] == pytest.approx(one, rel=1e-4, abs=1e-5)


@given(st.integers(1, 500), st.integers(1, 500))
def test_photos_are_spread_over_the_split(total, wanted):
    numbers = evaluation.spaced(total, wanted)
    assert len(numbers) == min(total, wanted) and numbers == sorted(set(numbers))
    assert numbers[0] == 0 and numbers[-1] < total
    gaps = {b - a for a, b in zip(numbers[:-1], numbers[1:], strict=True)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_the_end_is_scored_too(data, task):
    score = evaluation.of_run(settings_of(data, optimizer__total_steps=200), task,
                              sharding.make_mesh((8, 1, 1)))
    assert [done for done in range(1, 201) if score.due(done)] == [90, 180, 200]


@pytest.mark.parametrize("knobs, words", [
    ({"eval__metric": "localisation.f1"}, "config.eval.metric: one of localisation.mean.f1, .*, "
                                          "not 'localisation.f1'"),
    ({"eval__every": 0, "checkpoint_keep_best": 1}, "config.checkpoint_keep_best: 1, but "),
    ({"eval__every": 100, "checkpoint_keep_best": 1}, "100 is no multiple of config.checkpoint_"),
    ({"data__data_dir": "", "data__mixture": (("a", "train", 1.0),)}, "config.data.data_dir, whic"),
    ({"data__eval_split": "nowhere"}, "nowhere")])
def test_what_cannot_be_scored_is_refused_at_the_start(data, task, knobs, words):
    with pytest.raises((ConfigError, DataError), match=words):
        evaluation.of_run(settings_of(data, **knobs), task, sharding.make_mesh((8, 1, 1)))


def test_nothing_is_scored_where_it_is_not_asked_for(data, task):
    assert evaluation.of_run(settings_of(data, eval__every=0), task,
                             sharding.make_mesh((8, 1, 1))) is None


def test_scores_over_other_photos_are_no_rank_beside_these(data):
    basis = evaluation.basis(settings_of(data))
    assert basis == "localisation.mean.f1 over 3 photos of test"
    for knobs in ({"eval__photos": 4}, {"data__eval_split": "test[:2]"},
                  {"eval__metric": "detection.auc"}):
        assert evaluation.basis(settings_of(data, **knobs)) != basis


def test_verdicts_of_several_classes_are_ranked_by_them():
    scores = evaluation.named_scores({"detection": {"accuracy": 0.75, "classes": {
        "accuracy": 0.5, "macro_f1": 0.25, "by_class": {"real": {"recall": 1.0}}}}})
    assert scores == {"detection.accuracy": 0.75, "detection.classes.accuracy": 0.5,
                      "detection.classes.macro_f1": 0.25}
    for name, value in scores.items():
        assert evaluation.rank(scores, name) == value
    binary = evaluation.named_scores({"detection": {"accuracy": 0.75}})
    assert evaluation.rank(binary, "detection.classes.macro_f1") is None


def test_more_is_better_of_every_rank(caplog):
    scores = {"localisation.mean.f1": 0.25, "detection.nll": 0.5}
    assert evaluation.rank(scores, "localisation.mean.f1") == 0.25
    assert evaluation.rank(scores, "detection.nll") == -0.5
    assert evaluation.rank({"detection.nll": float("inf")}, "detection.nll") is None
    caplog.clear()
    assert evaluation.rank({}, "detection.nll") is None and not caplog.records
    assert evaluation.rank(scores, "text.rouge_l") is None
    assert "text.rouge_l has no value over these photos" in caplog.text
