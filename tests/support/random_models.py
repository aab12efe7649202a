"""Models with random values in every parameter, and batches to train them on."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from legion_jax.config import LegionConfig
from legion_jax.models import param_tree
from legion_jax.models.reading import Reading

IMAGE_INDEX, SEG_ID, IMAGE_ID = 3, 90, -200
READING = Reading(IMAGE_INDEX, {"[SEG]": SEG_ID})
# What runs once or twice takes longer to optimise than to run.
QUICK_COMPILE = {"xla_backend_optimization_level": 0}


def randomized(abstract: nnx.Module, *, seed: int = 0) -> nnx.Module:
    """`abstract` (from `nnx.eval_shape`) with values in which no parameter is zero or one.

    Nothing can hide behind a bias of zero, a norm of one or an untouched LoRA factor.
    """
    graph, params = nnx.split(abstract)
    flat, rng = param_tree.flatten(nnx.to_pure_dict(params)), np.random.default_rng(seed)

    def value(name, leaf):
        noise = rng.normal(size=leaf.shape)
        if name.endswith("scale"):
            noise = 1 + 0.1 * noise
        elif name.endswith("kernel"):
            noise = noise * leaf.shape[-2] ** -0.5
        else:
            noise = 0.3 * noise
        return jnp.asarray(noise, jnp.float32)

    # Tests were written for what comes out in this order: the vision tower's, then by path.
    paths = sorted(flat, key=lambda path: (not path.startswith("vision/"), path))
    return nnx.merge(graph, param_tree.unflatten({path: value(path, flat[path])
                                                  for path in paths}))


def random_batch(config: LegionConfig, segs: list[list[int]], *, length: int = 14,
                 slots: int = 3, canvas: int = 32, seed: int = 0) -> dict[str, np.ndarray]:
    """A training batch with one row per entry of `segs`, the indices of its [SEG] tokens.

    Rows differ in length, size of the photo and number of ground-truth masks (as many as [SEG]s,
    up to `slots`); labels go 1, 0, -1, 2, 1 and so on. Targets start at index 6.
    """
    rng, B = np.random.default_rng(seed), len(segs)
    ids = rng.integers(5, 80, (B, length)).astype(np.int32)
    ids[:, IMAGE_INDEX] = IMAGE_ID
    ends = length - np.arange(B) % 4
    valid = np.arange(length) < ends[:, None]
    ids[~valid] = 0
    for row, places in enumerate(segs):
        assert all(IMAGE_INDEX < k < ends[row] for k in places)
        ids[row, places] = SEG_ID
    number = np.array([min(len(places), slots) for places in segs])
    sam = config.sam.image_size
    resized = np.stack([[sam, sam // (1 + i % 3)][::1 - 2 * (i % 2)] for i in range(B)])
    masks = rng.integers(0, 2, (B, slots, canvas, canvas), dtype=np.uint8)
    mask_valid = np.arange(slots) < number[:, None]
    return {
        "vision_image": rng.integers(0, 256, (B, *2 * (config.vision.image_size,), 3), np.uint8),
        "sam_image": rng.integers(0, 256, (B, sam, sam, 3), np.uint8),
        "resized_size": resized.astype(np.int32),
        "original_size": np.maximum(resized * canvas // sam - np.arange(B)[:, None] % 3, 1).astype(
            np.int32),
        "ids": ids, "valid": valid, "loss_mask": valid & (np.arange(length) >= 6),
        "masks": np.packbits(masks * mask_valid[..., None, None], axis=-1),
        "mask_valid": mask_valid, "label": np.resize([1, 0, -1, 2], B).astype(np.int32),
        "dropped": (np.arange(B) % 2).astype(np.int32), "bad": np.zeros(B, np.int32),
    }
