"""What the machine can do at best: operations of the work, and a plain product of matrices."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from legion_jax.models.flops import Sizes, answering, products, training
from tools.bench.cases import Case, run_settings, without_lora

MASK_TOWERS = ("sam_encoder", "text_projection", "mask_decoder", "frame")


def train_flops(case: Case) -> float:
    """Operations of one update, as `legion_jax.models.flops` counts them."""
    settings = run_settings(case)
    sizes = Sizes(case.text, case.image_index, case.masks, case.canvas, case.prompt)
    return case.batch * training(case.model, sizes, trainable=settings.trainable,
                                 losses=dataclasses.asdict(settings.loss)).model


def answer_flops(case: Case) -> float:
    """Operations of the answers to all photos, masks included."""
    model = without_lora(case)
    once, token = answering(model, Sizes(case.prompt, case.image_index, 0, 0), new=case.new)
    sizes = Sizes(case.prompt, case.image_index, case.masks, case.canvas)
    masks = sum(product.forward for product in products(model, sizes)
                if product.tower in MASK_TOWERS)
    return case.photos * (once + case.new * token + masks)


def square_products(side: int, *, peer: bool) -> tuple[dict[str, Callable], float]:
    """Products of two float32 matrices of this side by jax and torch, and their operations."""
    a, b = jax.random.normal(jax.random.key(0), (2, side, side))
    ours = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
    contestants: dict[str, Callable] = {"jax": lambda: ours(a, b).block_until_ready()}
    if peer:
        import torch
        c, d = (torch.tensor(jax.device_get(x)) for x in (a, b))
        contestants["torch"] = lambda: c @ d
    return contestants, 2.0 * side ** 3
