"""legion_jax/models/flops.py and chips.py: operations against XLA's own count, and known chips."""

import dataclasses

import jax
import pytest
from random_models import IMAGE_INDEX, READING, random_batch

from experiments import base
from legion_jax.config import (
    ClipConfig,
    LanguageConfig,
    LegionConfig,
    LoraConfig,
    SamConfig,
    VerdictConfig,
)
from legion_jax.models import attention, flops, param_tree
from legion_jax.train import losses, setup
from legion_jax.train.knobs import RunSettings

EVERY_LOSS = {"ce": 1.0, "bce": 1.0, "dice": 1.0, "verdict": 1.0}


@pytest.fixture(scope="module")
def single() -> LegionConfig:
    """One layer of each kind, since XLA counts the body of a loop once; wide, for few others."""
    return LegionConfig(
        vision=ClipConfig(image_size=64, patch=8, width=128, mlp=512, heads=2, layers=2),
        language=LanguageConfig(vocab=256, width=256, mlp=768, heads=4, layers=1,
                                max_positions=256),
        lora=LoraConfig(rank=4, dropout=0.0),
        sam=SamConfig(image_size=128, patch=8, width=128, mlp=512, heads=2, layers=2, window=6,
                      global_blocks=(1,), prompt_width=64, mask_channels=4, decoder_layers=1,
                      decoder_heads=2, decoder_mlp=128, iou_hidden=32),
        verdict=VerdictConfig(classes=("tampered", "real"), hidden=64), dtype="float32",
        remat="none")


@pytest.mark.parametrize("trainable, weights", [
    (base.LOCALISATION, EVERY_LOSS | {"verdict": 0.0}),
    pytest.param(param_tree.EVERYTHING, EVERY_LOSS, marks=pytest.mark.slow),
    (base.VERDICT_ONLY, dict.fromkeys(EVERY_LOSS, 0.0) | {"verdict": 1.0})])
def test_operations_are_those_xla_counts(single, trainable, weights, monkeypatch):
    monkeypatch.setattr(attention, "SHORT", 1 << 30)  # on a CPU, blocks compute logits again
    batch = random_batch(single, [[8], [9, 11]], length=64, slots=3, canvas=64)
    graph, params, frozen = param_tree.split_params(param_tree.abstract_model(single), trainable)

    def loss(params):
        sums = losses.sums(param_tree.merge(graph, params, frozen), batch,
                           dataclasses.replace(READING, first_target=20),
                           wanted=[name for name in weights if weights[name]])
        return sum(jax.tree.leaves(sums))

    def gradients(params, others):
        frozen.update(others)
        return jax.grad(loss)(params)

    counted = jax.jit(gradients).lower(params, dict(frozen)).cost_analysis()["flops"]
    formula = 2 * flops.training(single, flops.Sizes(64, IMAGE_INDEX, 3, 64, first_target=20),
                                 trainable=trainable, losses=weights).model
    # XLA also counts norms, softmax and element-wise operations: some per cent at these widths.
    assert formula < counted < 1.06 * formula


def test_operations_per_frozen_and_trained_weight():
    settings = RunSettings.from_config(base.get_config(), without_data=True)
    model = setup.model_config(settings, 32007)
    sizes = flops.Sizes(961, 36, 8, 1024)
    weights = EVERY_LOSS | {"verdict": 0.0}
    lora = flops.training(model, sizes, trainable=base.LOCALISATION, losses=weights)
    full = flops.training(model, sizes, trainable=param_tree.EVERYTHING, losses=weights)
    kernels = 32 * (4 * 4096 ** 2 + 3 * 4096 * 11008) * (961 - 1 + 576)
    frozen = sum(p.forward for p in flops.products(model, sizes)
                 if p.tower in ("vision", "projector", "sam_encoder"))
    assert lora.model == pytest.approx(4 * kernels + frozen, rel=0.12)  # the rest is attention
    assert full.model - lora.model == pytest.approx(2 * kernels + 2 * frozen, rel=0.03)
    assert lora.model < lora.executed < full.executed
    kept, least = (flops.training(dataclasses.replace(model, remat=remat), sizes, losses=weights,
                                  trainable=base.LOCALISATION).executed
                   for remat in ("attention", "none"))
    assert least == lora.model < kept < 0.85 * lora.executed
    mixed = flops.training(dataclasses.replace(model, remat="none,sam_encoder=layers"), sizes,
                           losses=weights, trainable=param_tree.EVERYTHING)
    sam = sum(p.forward for p in flops.products(model, sizes) if p.tower == "sam_encoder")
    assert 0.5 * sam < mixed.executed - mixed.model < sam  # nothing of another tower
    once, token = flops.answering(model, flops.Sizes(164, 36, 0, 0), new=512)
    assert token == pytest.approx(2 * 6.7e9, rel=0.05) and once > 500 * token
