"""What frozen towers see, kept on disk: the same batches and losses, resumable, never mistaken."""

import dataclasses

import jax
import numpy as np
import pytest
import small_data
import stored_params
from small_data import SPEC, damage, make_config, open_batches

from experiments import base
from input_pipeline.photos.views import CanvasView, CropView
from input_pipeline.records import prepared
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax.config import tiny
from legion_jax.models import param_tree
from legion_jax.models.reading import Reading
from legion_jax.train import data as train_data, frozen_features, losses
from legion_jax.train.knobs import RunSettings
from legion_jax.weights import checkpoint, legion_json, params_files

SMALL = dataclasses.replace(SPEC, vision=CropView(128), sam=CanvasView(128, 128))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Prepared photos, a tokenizer and random weights to see them with."""
    root = tmp_path_factory.mktemp("data")
    model = tiny(small_data.make(root, train=10, test=5).vocab_size)
    params = param_tree.new_params(model, jax.random.key(0))
    (root / "weights").mkdir()
    stored_params.save_params(root / "weights", params)
    legion_json.write_meta(root / "weights", model, base=None, trained=[])
    return root


def run_config(data, **knobs):
    config = make_config(data, **{"features": str(data / "features")} | knobs)
    config.init_from, config.frozen_dtype = str(data / "weights"), "float32"
    config.trainable = base.LOCALISATION[1:]  # there is no LoRA
    return config


def model_of(data):
    return checkpoint.read_meta(data / "weights").config


def caches(config, model, spec=SMALL):
    return train_data.caches(RunSettings.from_config(config), model, spec)[0]


def make(data, config, **options):
    for cache in caches(config, model_of(data)):
        frozen_features.make_cache(cache, config.data.features,
                                   prepared.open_split(cache.data, cache.split), **options)


def batch_of(data, config, step=0):
    tokenizer = Tokenizer.from_folder(data / "tokenizer")
    return open_batches(config, tokenizer, SMALL, model_of(data))[step]


def loss_terms(data, batch):
    model = model_of(data)
    graph, params, _ = param_tree.split_params(param_tree.abstract_model(model),
                                               param_tree.EVERYTHING)
    reader = params_files.Reader(checkpoint.Checkpoint.open(data / "weights"))
    params = param_tree.unflatten({path: np.asarray(reader.read(path))
                                   for path in param_tree.flatten(params)})
    tokenizer = Tokenizer.from_folder(data / "tokenizer")
    index = int(np.flatnonzero(batch["ids"][0] < 0)[0])
    return jax.jit(lambda batch: losses.sums(
        param_tree.merge(graph, params), batch,
        Reading(index, {"[SEG]": tokenizer.seg_id})))(batch)


def test_losses_are_those_without_a_cache(data):
    config = run_config(data)
    make(data, config)
    cached, plain = batch_of(data, config), batch_of(data, run_config(data, features=""))
    assert {"vision_image", "sam_image"} == plain.keys() - cached.keys()
    assert {"seen", "sam_embedding"} == cached.keys() - plain.keys()
    for one, two in zip(jax.tree.leaves(loss_terms(data, cached)),
                        jax.tree.leaves(loss_terms(data, plain)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)


def test_an_interrupted_cache_is_continued(data, monkeypatch):
    config = run_config(data, features=str(data / "interrupted"))
    whole = run_config(data)
    make(data, whole, batch_size=4)
    views, calls = frozen_features._views, []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return views(*arguments)

    monkeypatch.setattr(frozen_features, "_views", stop)
    with pytest.raises(KeyboardInterrupt):
        make(data, config, batch_size=4)
    with pytest.raises(frozen_features.FeatureError,
                       match="not there; tools.cache_features makes it"):
        batch_of(data, config)
    del calls[:]
    monkeypatch.setattr(frozen_features, "_views", lambda *a: calls.append(a) or views(*a))
    make(data, config, batch_size=4)
    assert len(calls) == 8 + 12  # six photos were left of CLIP's ten; SAM's come in three batches
    for name in ("seen", "sam_embedding"):
        np.testing.assert_allclose(batch_of(data, config)[name], batch_of(data, whole)[name],
                                   rtol=1e-5, atol=1e-5)
    assert not [p for p in (data / "interrupted").iterdir() if p.name.startswith(".")]


def test_other_weights_and_preprocessing_are_another_cache(data):
    config, model = run_config(data), model_of(data)
    files = set()
    for spec in (SMALL, dataclasses.replace(SMALL, sam=CanvasView(128, 64))):
        for dtype in ("float32", "bfloat16"):
            config.frozen_dtype = dtype
            files |= {str(c.file("f")) for c in caches(config, model, spec)}
    assert len([f for f in files if "vision" in f]) == 2  # sam_longest is nothing to CLIP
    assert len([f for f in files if "sam" in f]) == 4


def test_trained_towers_are_not_kept(data):
    config, model = run_config(data), model_of(data)
    config.trainable = (r"^sam_encoder/neck",)
    assert [c.tower for c in caches(config, model)] == ["vision"]
    config.trainable, config.loss.bce, config.loss.dice = (r"^verdict/",), 0.0, 0.0
    assert [c.tower for c in caches(config, model)] == ["vision"]


def test_an_unreadable_record_has_no_features(data, tmp_path):
    damage(data, tmp_path)
    config = run_config(data)
    config.data.data_dir, config.data.features = str(tmp_path / "data"), str(tmp_path / "features")
    make(data, config, batch_size=4)
    values = np.concatenate([batch_of(data, config, step)["seen"] for step in range(5)])
    bad = np.concatenate([batch_of(data, config, step)["bad"] for step in range(5)])
    assert bad.any()
    np.testing.assert_array_equal(np.abs(values).max((1, 2)) == 0, bad == 1)
