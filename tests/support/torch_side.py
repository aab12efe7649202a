"""Random PyTorch models, their weights carried into ours by the conversion table, and closeness."""

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from legion_jax.config import LegionConfig
from legion_jax.convert.table import rules
from legion_jax.models import param_tree
from tools.verify_case.whole import assemble


def randomize(module: torch.nn.Module, *, seed: int = 0) -> torch.nn.Module:
    """Make every parameter random: norms around one, everything else around zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_scale = "norm" in name and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if is_scale else 0.2 * noise)
    return module.eval()


def tensors(module: torch.nn.Module, rename=lambda name: name) -> dict[str, np.ndarray]:
    """State dict as numpy arrays; `rename` gives the published name of a tensor."""
    return {rename(name): value.numpy() for name, value in module.state_dict().items()}


def fill(module: nnx.Module, root: str, config: LegionConfig, state: dict) -> nnx.Module:
    """A copy of `module`, the part of the model at path `root`, with the values of `state`.

    Args:
        module: may be abstract (`nnx.eval_shape`).
        config: of the whole model; the conversion table depends on it.
        state: {published tensor name: array}.
    """
    graph, params = nnx.split(module)
    table = {rule.path.removeprefix(f"{root}/"): rule for rule in rules(config)
             if rule.path.startswith(f"{root}/")}
    shapes = {p: a.shape for p, a in param_tree.flatten(nnx.to_pure_dict(params)).items()}
    assert table.keys() == shapes.keys()
    flat = {path: jnp.asarray(assemble(rule, state.__getitem__, shapes[path]))
            for path, rule in table.items()}
    return param_tree.merge(graph, param_tree.unflatten(flat))


def assert_close(ours, theirs, tolerance: float = 1e-5) -> None:
    """The largest difference, measured in the largest value of `theirs`."""
    ours = np.asarray(ours, np.float64)
    theirs = np.asarray(theirs.detach() if torch.is_tensor(theirs) else theirs, np.float64)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()
