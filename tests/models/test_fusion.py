"""legion_jax/models/fusion.py against PyTorch's attention, and what its gradient must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from random_models import randomized
from torch_side import assert_close

from legion_jax.models import param_tree
from legion_jax.models.fusion import Fusion

B, K, D, CLASSES = 3, 4, 32, 3
COUNTS = np.array([4, 1, 0])
VALID = np.arange(K) < COUNTS[:, None]


@pytest.fixture(scope="module")
def fusion() -> Fusion:
    return randomized(nnx.eval_shape(lambda: Fusion(CLASSES, D)))


@pytest.fixture(scope="module")
def inputs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(B, K, D)).astype(np.float32),
            rng.normal(size=(B, CLASSES)).astype(np.float32))


def theirs(fusion: Fusion, prompts, logits) -> torch.Tensor:
    """One photo's prompts [n, D] and logits [classes], fused as the published code does."""
    flat = {path: torch.tensor(np.asarray(x)) for path, x in
            param_tree.flatten(nnx.to_pure_dict(nnx.state(fusion))).items()}
    attention = torch.nn.MultiheadAttention(D, 8, batch_first=True)
    names = ("query", "key", "value")
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([flat[f"{n}/kernel"].T for n in names]))
        attention.in_proj_bias.copy_(torch.cat([flat[f"{n}/bias"] for n in names]))
        attention.out_proj.weight.copy_(flat["out/kernel"].T)
        attention.out_proj.bias.copy_(flat["out/bias"])
    prompts = torch.tensor(prompts)[None]
    query = torch.tensor(logits) @ flat["ask/kernel"] + flat["ask/bias"]
    return (prompts + attention(query[None, None], prompts, prompts)[0])[0]


def test_fused_prompts_are_those_of_pytorch(fusion, inputs):
    prompts, logits = inputs
    ours = np.asarray(fusion(prompts, logits, VALID))
    for row, count in enumerate(COUNTS):
        if count:
            assert_close(ours[row, :count], theirs(fusion, prompts[row, :count], logits[row]))
    np.testing.assert_array_equal(ours[2], prompts[2])  # a photo without prompts


def test_what_stands_in_unused_slots_does_not_matter(fusion, inputs):
    prompts, logits = inputs
    other = np.where(VALID[..., None], prompts, np.float32(1e6))
    np.testing.assert_array_equal(fusion(other, logits, VALID)[:2][VALID[:2]],
                                  fusion(prompts, logits, VALID)[:2][VALID[:2]])


def test_one_prompt_leaves_the_query_without_gradient(fusion, inputs):
    """Its weight is exactly 1, whatever the logits are; with several it is not."""
    prompts, logits = inputs
    graph, params = nnx.split(fusion)

    def gradients(row):
        def loss(params, logits):
            fused = nnx.merge(graph, params)(prompts[row:row + 1], logits, VALID[row:row + 1])
            return jnp.where(VALID[row:row + 1, :, None], jnp.sin(fused), 0).sum()
        grads, of_logits = jax.grad(loss, argnums=(0, 1))(params, logits[row:row + 1])
        flat = param_tree.flatten(nnx.to_pure_dict(grads)) | {"logits": of_logits}
        assert all(np.isfinite(g).all() for g in flat.values())
        return {path for path, g in flat.items() if np.any(np.asarray(g))}

    asked = {"ask/kernel", "ask/bias", "query/kernel", "query/bias", "key/kernel", "logits"}
    assert gradients(0) >= asked
    assert gradients(1) == {"value/kernel", "value/bias", "out/kernel", "out/bias"}
    assert not gradients(2)
