"""Prediction: one compiled path for photos of any size."""

import dataclasses
import subprocess
import sys

import compilations
import jax
import numpy as np
import pytest
import small_checkpoint
from small_checkpoint import QUESTION

from input_pipeline.errors import UserError
from input_pipeline.records.verdict_classes import ClassError
from legion_jax.config import VerdictConfig
from legion_jax.memory import OutOfMemoryError
from legion_jax.predict.predictor import Predictor
from legion_jax.predict.sampling import Sampling
from legion_jax.weights import legion_json

folder, tokenizer, photos = (
    small_checkpoint.folder, small_checkpoint.tokenizer, small_checkpoint.photos)


def load(folder, **settings):
    """On one device, which compiles soonest."""
    return Predictor.from_folder(folder, devices=jax.devices()[:1], batch_size=3, group=2,
                                 **settings)


@pytest.fixture(scope="module")
def predictor(folder):
    return load(folder)


def test_sizes_share_programs(predictor, photos):
    predictor(photos[:3], explain="always")  # an odd number: groups are filled up
    programs = compilations.programs(predictor)
    compiled = []
    with compilations.heard(compiled.append):
        results = predictor(photos, explain="always")
        predictor(photos[:1])
        predictor(photos, explain="skim")
    assert not compiled  # nothing at all, small helpers included
    assert compilations.programs(predictor) == programs == 7  # each program once
    assert [r.size for r in results] == [p.shape[:2] for p in photos]


def test_a_stream_takes_photos_as_it_needs_them_and_loses_none(predictor, photos):
    taken = []

    def items():
        for key in range(17):
            taken.append(key)
            yield f"photo {key}", photos[key % 5]

    results, ahead = {}, 0
    for key, result in predictor.stream(items(), explain="always"):
        assert key not in results
        results[key] = result
        ahead = max(ahead, len(taken) - len(results))
    assert list(taken) == list(range(17)) and results.keys() == {f"photo {k}" for k in range(17)}
    assert ahead <= 3 + 4 * 2  # places, and at most two groups before and behind them
    alone = predictor(photos, explain="always")
    for key in range(17):
        assert results[f"photo {key}"].answer == alone[key % 5].answer
        np.testing.assert_array_equal(results[f"photo {key}"].mask, alone[key % 5].mask)
    assert not list(predictor.stream([], explain="always"))


def test_a_photo_judged_real_keeps_its_explanation_to_itself(predictor, photos):
    """All modes over the same photos, of which some are judged real."""
    shown = predictor(photos, explain="always")
    judged = np.array([r.verdict == "real" for r in shown])
    assert judged.any() and not judged.all(), "the random model should judge both ways"
    assert all(r.answer and not r.withheld for r in shown)
    for mode in ("fakes", "skim", "never"):
        for result, whole, real in zip(predictor(photos, explain=mode), shown, judged, strict=True):
            assert (result.verdict, result.fake_probability) == (
                whole.verdict, whole.fake_probability)
            assert result.withheld == (real or mode == "never")
            if result.withheld:
                assert not (result.explanation or result.answer or result.regions)
                assert not result.mask.any() and result.mask.shape == whole.size
            else:
                assert result.answer == whole.answer
                np.testing.assert_array_equal(result.mask, whole.mask)
            # Whether the words agree is known wherever the language model was asked.
            asked = not result.withheld or mode == "fakes"
            assert result.words == (whole.words if asked else None)
            assert result.words_agree == (whole.words_agree if asked else None)


@pytest.mark.parametrize("items, words", [
    ([np.zeros((2, 8, 3), np.uint8)], "photo 0 of the stream: .key, photo. is wanted"),
    ([("a", "a.png")], "photo a: an array uint8.* or a photo of PIL is wanted, got str"),
    ([("a", np.zeros((8, 8, 3), np.float32))], "expected uint8"), ([("a", None)], "NoneType")])
def test_what_is_no_photo_is_named(predictor, items, words):
    with pytest.raises(UserError, match=words):
        list(predictor.stream(items))


def test_one_photo_is_no_list_and_arrays_of_jax_are_photos(predictor, photos):
    with pytest.raises(UserError, match=r"write \[photo\]"):
        predictor(photos[0])
    ours, same = predictor([photos[0], jax.numpy.asarray(photos[0])], explain="never")
    assert ours.fake_probability == same.fake_probability


@pytest.mark.parametrize("bad", [dict(batch_size=0), dict(batch_size=1.5), dict(group=-1)])
def test_sizes_that_are_none_are_named(config, tokenizer, bad):
    with pytest.raises(UserError, match=f"{next(iter(bad))}: a whole number"):
        Predictor(config, {}, tokenizer, question=QUESTION, **bad)


def test_an_unknown_mode_is_named(predictor, photos):
    with pytest.raises(UserError, match="explain: fakes, always, skim, never, not 'all'"):
        predictor(photos, explain="all")


def test_draws_depend_on_the_seed_and_the_photo_not_on_the_batch(folder, photos):
    def answers(predictor, order):
        items = ((f"n{i}", photos[i % 5]) for i in order)
        results = dict(predictor.stream(items, explain="always"))
        return [results[f"n{i}"].answer for i in range(6)]

    first, second = (load(folder, sampling=Sampling(temperature=2.0, seed=n)) for n in (1, 2))
    one = answers(first, range(6))
    assert one == answers(first, reversed(range(6)))
    assert one != answers(second, range(6)) and one[0] != one[5]  # the same photo twice


def test_int8_answers(folder, predictor, photos):
    small = load(folder, int8=True)(photos, explain="always")
    for a, b in zip(predictor(photos, explain="always"), small, strict=True):
        assert a.probability == b.probability  # the verdict does not pass through it
        assert b.answer and b.size == a.size


def test_batching_and_devices_do_not_change_the_answer(folder, predictor, photos):
    # On all eight devices, whose tensor axis has four: as many as there are heads.
    together, alone = Predictor.from_folder(folder, batch_size=4), predictor
    assert together.mesh.shape["tensor"] == 4 and together.mesh.shape["data"] == 2
    masks = 0
    for batched, single in zip(together(photos, explain="always"),
                               alone(photos, explain="always"), strict=True):
        assert batched.answer == single.answer
        assert batched.verdict == single.verdict
        assert batched.probability == pytest.approx(single.probability, abs=1e-5)
        assert len(batched.regions) == len(single.regions)
        for a, b in zip(batched.regions, single.regions, strict=True):
            assert (a.mask is None) == (b.mask is None)
            if a.mask is not None:
                masks += 1
                assert a.mask.shape == batched.size
                assert (a.mask == b.mask).mean() > 0.999
    assert masks, "the random model should ask for masks"


def test_larger_photos_than_the_canvas_keep_their_size(predictor, monkeypatch):
    photo = np.full((300, 700, 3), 90, np.uint8)
    wanted = predictor([photo], explain="always")[0]
    monkeypatch.setattr("legion_jax.predict.predictor.LARGEST_CANVAS", 256)
    result = predictor([photo], explain="always")[0]
    assert result.mask.shape == wanted.mask.shape == (300, 700)
    assert result.mask.any() and (result.mask == wanted.mask).mean() > 0.95


def test_untrained_model_needs_no_files(config, tokenizer, photos):
    sized = dataclasses.replace(config, language=dataclasses.replace(
        config.language, vocab=tokenizer.vocab_size, max_positions=512))
    predictor = Predictor.untrained(sized, tokenizer, question=QUESTION, batch_size=2,
                                    devices=jax.devices()[:1])
    assert len(predictor(photos[:1], explain="never")) == 1


def test_a_head_without_a_class_of_real_photos_is_refused_before_it_is_loaded(config, tmp_path):
    legion_json.write_meta(tmp_path, dataclasses.replace(
        config, verdict=VerdictConfig(classes=("synthetic", "tampered"))), base=None)
    with pytest.raises(ClassError, match=f"{tmp_path}: no class .* real: synthetic, tampered; to "
                                         f"choose, call one of the 2 classes real or authentic"):
        Predictor.from_folder(tmp_path)  # which has no parameters


@pytest.mark.parametrize("explain", ["always", "never"])
def test_out_of_memory_is_called_so(predictor, photos, monkeypatch, explain):
    def look(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1024 bytes.")

    monkeypatch.setattr(predictor._programs, "look", look)
    words = "out of memory while predicting: 1.0 KiB were asked for; .* a smaller batch_size"
    with pytest.raises(OutOfMemoryError, match=words):
        predictor(photos[:1], explain=explain)
    with pytest.raises(OutOfMemoryError, match=words):
        predictor.verdict_logits([photos[0]])


def test_importing_it_loads_no_heavy_library_that_it_does_without():
    heavy = {"torch", "tensorflow", "tensorboardX", "jinja2", "scipy.optimize", "sklearn", "nltk"}
    code = f"import sys, legion_jax.predict.predictor; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
