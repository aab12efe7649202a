"""Prediction of the relatives: verdicts in words and on a token, and masks by them.

The models are random; rows of their heads are made large, so that they say what a test needs.
"""

import dataclasses
from collections.abc import Callable

import compilations
import jax
import numpy as np
import pytest
import relatives
from random_models import randomized

from input_pipeline.errors import UserError
from input_pipeline.text.dialogue import LLAVA15_CHAT, SIDA
from legion_jax.models import param_tree
from legion_jax.predict.prediction import Question
from legion_jax.predict.predictor import Predictor

WORDS = ["This is a real image.", "This is a fake image.", "The image is tampered."] * 20
NEW = 6


def predictor_of(config, tokenizer, dialogue, change: Callable = lambda params: None,
                 **options) -> Predictor:
    """On one device, three answers at a time; `change` the parameters, which it may do in place."""
    sized = dataclasses.replace(config, language=dataclasses.replace(
        config.language, vocab=tokenizer.vocab_size, max_positions=512))
    params = {path: np.array(x) for path, x in param_tree.flatten(param_tree.split_params(
        randomized(param_tree.abstract_model(sized)), param_tree.EVERYTHING)[1]).items()}
    change(params)
    question = Question("Real?", max_new_tokens=NEW, mask_slots=2, dialogue=dialogue.name)
    return Predictor(sized, params, tokenizer, question=question, batch_size=3, group=2,
                     mesh=jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1),
                                            ("data", "fsdp", "tensor", "sequence")), **options)


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in (
        (40, 60), (61, 33), (100, 100), (8, 200))]


@pytest.fixture(scope="module")
def llava_tokenizer(tmp_path_factory):
    return LLAVA15_CHAT.train_tokenizer(WORDS, 330, tmp_path_factory.mktemp("llava") / "t")


@pytest.fixture(scope="module")
def sida_tokenizer(tmp_path_factory):
    return SIDA.train_tokenizer(WORDS, 330, tmp_path_factory.mktemp("sida") / "t")


@pytest.fixture(scope="module")
def in_words(config, llava_tokenizer):
    """A predictor that says " real" or " fake" now and then."""
    def change(params):
        ids = [llava_tokenizer.encode(word, bos=False)[0] for word in ("real", "fake")]
        params["language/head/kernel"][:, ids] *= 4
    return predictor_of(relatives.fakevlm(config), llava_tokenizer, LLAVA15_CHAT, change)


def test_words_are_the_verdict_and_their_odds_its_score(in_words, photos):
    results = in_words(photos, explain="always")
    assert len({result.words for result in results}) > 1, "the random model should say several"
    for result in results:
        assert result.by_words and result.verdict == result.words
        assert 0 < result.fake_probability < 1 and not result.regions and not result.mask.any()
        if result.verdict is None:
            assert result.probability is None
        else:
            odds = result.fake_probability
            assert result.probability == pytest.approx(
                odds if result.verdict == "fake" else 1 - odds)


def test_odds_are_those_where_the_answer_first_says_one(in_words, photos, llava_tokenizer):
    """Against a pass over the prompt and what was said before, without a cache."""
    model = param_tree.merge(
        param_tree.split_params(param_tree.abstract_model(in_words.config),
                                param_tree.EVERYTHING)[0], in_words._scheduler._params)
    rules, prompt = in_words._programs.answering.rules, in_words._programs.answering.prompt

    @jax.jit
    def log_probabilities(ids, image):
        x = model.embed(ids[None], model.see(image[None]), prompt.index(-200))
        states = model.read(x, np.ones(x.shape[:2], bool))
        return jax.nn.log_softmax(model.language.logits(states[0]), axis=-1)

    jobs = [in_words._job(number, (number, photo)) for number, photo in enumerate(photos)]
    for job in list(in_words._scheduler.run(iter(jobs), explain="always")):
        said = [k for k, token in enumerate(job.tokens) if token in rules.verdict_ids]
        before = [*prompt, *job.tokens[:said[0] if said else 0]]
        padded = np.zeros(len(prompt) + NEW, np.int32)
        padded[:len(before)] = before
        place = len(before) - 1 + in_words.config.vision.num_patches - 1
        wanted = np.asarray(log_probabilities(padded, job.views["vision_image"]))[place]
        np.testing.assert_allclose(job.logits, wanted[list(rules.verdict_ids)], rtol=1e-4)


def test_words_decide_who_is_shown_once_they_are_read(in_words, photos):
    shown = in_words(photos, explain="always")
    for mode in ("fakes", "skim", "never"):
        for result, whole in zip(in_words(photos, explain=mode), shown, strict=True):
            assert (result.verdict, result.fake_probability) == (
                whole.verdict, whole.fake_probability)
            assert result.withheld == (whole.verdict == "real" or mode == "never")
            assert result.answer == ("" if result.withheld else whole.answer)


def test_nothing_compiles_once_all_has_been_seen(in_words, photos):
    in_words(photos[:3], explain="always")
    compiled = []
    with compilations.heard(compiled.append):
        in_words(photos, explain="fakes")
        in_words(photos[:1], explain="never")
    assert not compiled


def test_logits_of_all_photos_for_calibration(in_words, photos):
    logits = in_words.verdict_logits(photos)
    fake = np.exp(logits[:, 1]) / np.exp(logits).sum(-1)
    np.testing.assert_allclose(
        fake, [result.fake_probability for result in in_words(photos)], rtol=1e-5)


def says(tokenizer, *tokens):
    """A change of parameters by which every answer begins with these tokens, and then ends.

    The embeddings of a cycle are so large that no layer turns them much, and the head's column of
    each points along the one before it.
    """
    chain = [tokenizer.encode("Real? ASSISTANT:", bos=False)[-1], *(
        tokenizer.added[token] for token in tokens), tokenizer.eos_id]

    def change(params):
        embedding, head = params["language/embed/embedding"], params["language/head/kernel"]
        rng = np.random.default_rng(1)
        for token in chain:
            embedding[token] = 100 * rng.normal(size=embedding.shape[1])
        for before, after in zip(chain, chain[1:], strict=False):
            direction = embedding[before] * params["language/norm/scale"]
            head[:, after] = 10 * direction / np.linalg.norm(direction)
    return change


def judged_as(name: str, config):
    """A change by which the head always says this class."""
    def change(params):
        bias = params["verdict/down/bias"]
        bias[:] = -100.0
        bias[relatives.sida(config).classes.index(name)] = 100.0
    return change


@pytest.mark.parametrize("judged, tokens, masks", [
    ("tampered", ["[CLS]", "[SEG]"], 1), ("real", ["[CLS]", "[SEG]"], 0), (None, ["[SEG]"], 0),
    pytest.param("tampered", ["[CLS]"], 0, marks=pytest.mark.slow),
    pytest.param("synthetic", ["[CLS]", "[SEG]"], 0, marks=pytest.mark.slow)])
def test_masks_of_tampered_photos_alone(config, sida_tokenizer, photos, judged, tokens, masks):
    """A class on [CLS], and a mask per [SEG] where the class is tampered; without [CLS] neither."""
    changes = [says(sida_tokenizer, *tokens), judged_as(judged or "tampered", config)]
    predictor = predictor_of(relatives.sida(config), sida_tokenizer, SIDA,
                             lambda params: [change(params) for change in changes])
    for result in predictor(photos[:3], explain="always"):
        assert result.answer.split() == [*tokens, "</s>"] and result.finished
        assert result.verdict == judged and not result.by_words
        assert result.fake_probability == (
            None if judged is None else pytest.approx(float(judged != "real"), abs=1e-6))
        drawn = [region for region in result.regions if region.mask is not None]
        assert len(drawn) == masks and all(r.mask.shape == result.size for r in drawn)
    if judged == "real":
        assert all(result.withheld for result in predictor(photos[:1], explain="fakes"))
    assert np.isnan(predictor.verdict_logits(photos[:1])).any() == (judged is None)


def test_a_tokenizer_without_what_is_watched_is_named(config, llava_tokenizer, sida_tokenizer):
    with pytest.raises(UserError, match=r"has no \[CLS\], which the model needs"):
        predictor_of(relatives.sida(config), llava_tokenizer, LLAVA15_CHAT)
    with pytest.raises(UserError, match="read by the slow tokenizer's rules, the dialogue llava15"):
        predictor_of(relatives.fakevlm(config), sida_tokenizer, LLAVA15_CHAT)
