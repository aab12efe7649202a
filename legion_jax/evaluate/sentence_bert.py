"""BERT as an encoder of sentences: ids -> one unit vector per text (Devlin et al., 2019).

The vector is the mean of the last states of a text's own ids (Reimers & Gurevych, 2019).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from legion_jax.models import param_tree
from legion_jax.models.attention import masked_attention
from legion_jax.models.initial import normal, parameter
from legion_jax.models.layers import Dense, Mlp, gelu, layer_norm, run_stack, stack

# {parameter path: published name}; {} is the number of a layer. Kernels are published transposed.
EMBEDDINGS = {
    "word": "embeddings.word_embeddings.weight",
    "position": "embeddings.position_embeddings.weight",
    "segment": "embeddings.token_type_embeddings.weight",
    "norm/scale": "embeddings.LayerNorm.weight", "norm/bias": "embeddings.LayerNorm.bias"}
LAYER_PARTS = {
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "out": "attention.output.dense", "norm1": "attention.output.LayerNorm",
    "mlp/up": "intermediate.dense", "mlp/down": "output.dense", "norm2": "output.LayerNorm"}


@dataclasses.dataclass(frozen=True)
class SentenceBertConfig:
    """Sizes; those of all-MiniLM-L6-v2 unless said otherwise."""

    vocab: int = 30522
    positions: int = 512
    segments: int = 2
    width: int = 384
    mlp: int = 1536
    heads: int = 12
    layers: int = 6
    norm_eps: float = 1e-12


class SentenceBertLayer(nnx.Module):
    """Post-norm transformer block with biased projections and GELU."""

    def __init__(self, config: SentenceBertConfig):
        D = config.width
        self.query, self.key, self.value, self.out = (Dense(D, D) for _ in range(4))
        self.norm1, self.norm2 = (layer_norm(D, config.norm_eps) for _ in range(2))
        self.mlp = Mlp(D, config.mlp, D)
        self.heads = config.heads

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """x [B, S, D], mask bool[B, 1, S, S] -> [B, S, D]."""
        B, S, D = x.shape
        q, k, v = (part(x).reshape(B, S, self.heads, -1)
                   for part in (self.query, self.key, self.value))  # [B, S, N, H]
        x = self.norm1(x + self.out(masked_attention(q, k, v, mask).reshape(B, S, D)))
        return self.norm2(x + self.mlp(x, gelu))


class SentenceBert(nnx.Module):
    """Embeddings of word pieces, positions and the first segment, norm, layers, mean."""

    def __init__(self, config: SentenceBertConfig):
        D = config.width
        self.word = parameter((config.vocab, D), normal(0.02))
        self.position = parameter((config.positions, D), normal(0.02))
        self.segment = parameter((config.segments, D), normal(0.02))
        self.norm = layer_norm(D, config.norm_eps)
        self.layers = stack(lambda: SentenceBertLayer(config), config.layers)

    def __call__(self, ids: jax.Array, lengths: jax.Array) -> jax.Array:
        """Vectors of length one, float32[B, D].

        Args:
            ids: int[B, S]; what is behind a text's own ids does not matter.
            lengths: int[B], how many are a text's own; at least 1.
        """
        S = ids.shape[1]
        own = jnp.arange(S) < lengths[:, None]  # [B, S]
        mask = jnp.broadcast_to(own[:, None, None], (len(ids), 1, S, S))
        # Accelerators would multiply float32 in less than float32.
        with jax.default_matmul_precision("highest"):
            x = self.norm(self.word[...][ids] + self.position[...][:S] + self.segment[...][0])
            x, _ = run_stack(lambda x, layer: (layer(x, mask), None), x, self.layers, remat="none")
        mean = jnp.where(own[..., None], x, 0).sum(1) / lengths[:, None]  # [B, D]
        return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


def from_published(config: SentenceBertConfig,
                   read: Callable[[str], np.ndarray]) -> SentenceBert:
    """The encoder with published weights.

    Args:
        read: name of a tensor as transformers' BertModel has it -> the tensor.

    Raises ValueError naming the parameter whose shape is not that of `config`.
    """
    graph, params = nnx.split(nnx.eval_shape(lambda: SentenceBert(config)))
    flat = {}
    for path, wanted in param_tree.flatten(nnx.to_pure_dict(params)).items():
        array = (read(EMBEDDINGS[path]) if path in EMBEDDINGS else
                 _stacked(path.removeprefix("layers/"), config.layers, read))
        if array.shape != wanted.shape:
            raise ValueError(f"{path}: shape {array.shape}, not {wanted.shape}")
        flat[path] = jnp.asarray(array, jnp.float32)
    return nnx.merge(graph, param_tree.unflatten(flat))


def _stacked(path: str, layers: int, read: Callable[[str], np.ndarray]) -> np.ndarray:
    """A parameter of all layers along a leading axis L."""
    part, _, kind = path.rpartition("/")
    name = f"encoder.layer.{{}}.{LAYER_PARTS[part]}.{'bias' if kind == 'bias' else 'weight'}"
    arrays = [read(name.format(number)) for number in range(layers)]
    return np.stack([array.T for array in arrays] if kind == "kernel" else arrays)
