"""A whole CLIP, with the blocks that none of the systems runs: of these a case has states, too."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from legion_jax.config import LegionConfig
from legion_jax.convert.table import clip_rules
from legion_jax.models import clip, param_tree
from legion_jax.models.layers import numerics
from tools.verify_case.whole import assemble


def tower_states(config: LegionConfig, read: Callable[[str], np.ndarray],
                 image: np.ndarray) -> np.ndarray:
    """Every hidden state float32[1 + L, B, 1 + P, D] of uint8[B, C, C, 3].

    `read(name)` gives a tensor of the tower by its name in a CLIP folder.
    """
    whole = dataclasses.replace(config, vision=dataclasses.replace(config.vision, select_layer=-1))
    shapes = param_tree.abstract_params(whole)
    params = param_tree.unflatten({
        rule.path.removeprefix("vision/"):
            assemble(rule, read, shapes[rule.path].shape).astype("float32")
        for rule in clip_rules(whole)})
    graph = nnx.split(nnx.eval_shape(lambda: clip.ClipTower(whole.vision)))[0]

    @jax.jit
    def states(params, image):
        return param_tree.merge(graph, params)(clip.normalize(image), capture=True)[1]

    with numerics(config):
        return np.asarray(states(params, image))
