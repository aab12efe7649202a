"""LLaMA decoder with optional LoRA and a preallocated key/value cache (Touvron et al., 2023)."""

import operator

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from legion_jax.config import LanguageConfig, LoraConfig
from legion_jax.models.attention import cached_attention, causal_attention
from legion_jax.models.initial import normal, parameter
from legion_jax.models.layers import Dense, rms_norm, run_stack, stack
from legion_jax.sharding import BATCH, HEADS, SEQUENCE, constrain


@flax.struct.dataclass
class Cache:
    """Keys and values of every layer, each [L, B, S, N, H]; S is the longest sequence allowed."""

    key: jax.Array
    value: jax.Array


def round_to_bf16(x: jax.Array) -> jax.Array:
    """Round float32 values to bfloat16 and back, in a way the compiler may not undo."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def rope_tables(positions: jax.Array, config: LanguageConfig, position_dtype: str):
    """Rotary angles (Su et al., 2021): positions int[B, S] -> cos, sin float32[B, S, 1, H/2].

    `position_dtype="bfloat16"` rounds the tables as the published code does.
    """
    H = config.head_width
    # On the host, rounded where PyTorch rounds: powers differ between devices and libraries.
    exponent = np.arange(0, H, 2, dtype=np.float32) / np.float32(H)
    power = (config.rope_base ** exponent.astype(np.float64)).astype(np.float32)
    frequency = np.float32(1) / power
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return (round_to_bf16(cos), round_to_bf16(sin)) if position_dtype == "bfloat16" else (cos, sin)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Apply rotary positions to x [B, S, N, H], half-split layout."""
    cos, sin = cos.astype(x.dtype), sin.astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class LlamaLayer(nnx.Module):
    """Pre-norm block: rotary attention and a SiLU-gated MLP, no biases."""

    def __init__(self, config: LanguageConfig, lora: LoraConfig, dtype, *, int8: bool = False):
        D, F = config.width, config.mlp

        def dense(name, i, o):
            own = lora if name in lora.targets else None
            return Dense(i, o, bias=False, lora=own, int8=int8)

        self.norm1 = rms_norm(D, config.norm_eps, dtype)
        self.norm2 = rms_norm(D, config.norm_eps, dtype)
        self.query, self.value = dense("query", D, D), dense("value", D, D)
        self.key, self.out = dense("key", D, D), dense("out", D, D)
        self.gate, self.up = dense("gate", D, F), dense("up", D, F)
        self.down = dense("down", F, D)
        self.heads, self.adapted = config.heads, lora.targets

    def __call__(self, x, rope, attend, *, key=None):
        """x [B, T, D] -> ([B, T, D], the cache `attend` returned).

        `attend(q, k, v)`, all [B, T, N, H], returns what the queries see, [B, T, N, H], and a cache
        or None. `key` switches LoRA dropout on.
        """
        B, T, D = x.shape
        keys = {} if key is None else dict(zip(
            self.adapted, jax.random.split(key, len(self.adapted)), strict=True))

        def project(name, x):
            return getattr(self, name)(x, keys.get(name))

        h = self.norm1(x)
        q, k, v = (constrain(project(name, h).reshape(B, T, self.heads, -1), BATCH, None, HEADS,
                             None) for name in ("query", "key", "value"))
        attended, cache = attend(rotate(q, *rope), rotate(k, *rope), v)
        x = x + project("out", attended.reshape(B, T, D))
        h = self.norm2(x)
        x = x + project("down", jax.nn.silu(project("gate", h)) * project("up", h))
        return constrain(x, BATCH, SEQUENCE, None), cache


class Llama(nnx.Module):
    """Token embeddings, layers, final norm and output head; `int8` kernels for prediction only."""

    def __init__(self, config: LanguageConfig, lora: LoraConfig, dtype=jnp.float32, *,
                 position_dtype: str = "float32", remat: str = "none", int8: bool = False):
        self.embed = nnx.Embed(config.padded_vocab, config.width, dtype=dtype,
                               embedding_init=nnx.initializers.zeros, rngs=nnx.Rngs(0))
        self.embed.embedding = parameter((config.padded_vocab, config.width), normal(0.02))
        self.layers = stack(lambda: LlamaLayer(config, lora, dtype, int8=int8), config.layers)
        self.norm = rms_norm(config.width, config.norm_eps, dtype)
        self.head = Dense(config.width, config.padded_vocab, bias=False, int8=int8)
        self.config, self.position_dtype = config, position_dtype
        self.dtype, self.remat = dtype, remat

    def __call__(self, x, positions, valid, *, key=None, capture: bool = False):
        """Uncached causal pass, as in training.

        Args:
            x: embeddings [B, S, D].
            positions: int[B, S], rotary positions.
            valid: bool[B, S], False at padding, which nobody attends to.
            key: switches LoRA dropout on.
            capture: also return the input of every layer and the output of the last.

        Returns:
            States after the final norm [B, S, D]; with `capture` a pair of it and
            [1 + L, B, S, D], whose last entry is after the final norm.
        """
        rope = rope_tables(positions, self.config, self.position_dtype)
        keys = None if key is None else jax.random.split(key, self.config.layers)

        def attend(q, k, v):
            return causal_attention(q, k, v, valid), None

        def body(x, layer_and_key):
            layer, key = layer_and_key
            y, _ = layer(x, rope, attend, key=key)
            return y, x if capture else None

        x, states = run_stack(body, x, (self.layers, keys), remat=self.remat)
        x = self.norm(x)
        return (x, jnp.concatenate([states, x[None]])) if capture else x

    def init_cache(self, batch: int, length: int) -> Cache:
        """Empty cache for `batch` rows of up to `length` positions."""
        c = self.config
        shape = (c.layers, batch, length, c.heads, c.head_width)
        empty = constrain(jnp.zeros(shape, self.dtype), None, BATCH, None, HEADS, None)
        return Cache(empty, empty)

    def taken_apart(self) -> list[LlamaLayer]:
        """L layers, their weights copied out of the stack (no leading axis), for `extend`."""
        graph, params = nnx.split(self.layers)
        # Without the barrier XLA would copy them where they are used: in every turn of a loop.
        apart = jax.lax.optimization_barrier([
            jax.tree.map(operator.itemgetter(number), params)
            for number in range(self.config.layers)])
        return [nnx.merge(graph, params) for params in apart]

    def extend(self, x, positions, mask, cache: Cache, index, *, causal: bool = False,
               apart: list[LlamaLayer] | None = None) -> tuple[jax.Array, Cache]:
        """Cached pass over T new positions written at `index`.

        Args:
            x: embeddings [B, T, D]; positions: int[B, T]; mask: bool[B, 1, T, S].
            cache: holds S positions; index: int scalar, where the new ones go.
            causal: the mask shows nobody what is written behind; `index` is then static.
            apart: of `taken_apart`; every layer is then compiled by itself.

        Returns:
            States after the final norm [B, T, D] and the new cache.
        """
        rope = rope_tables(positions, self.config, self.position_dtype)
        first = index if causal else None

        def body(carry, layer_and_number):
            x, cache = carry
            layer, number = layer_and_number

            def attend(q, k, v):
                # The cache travels in the carry, so each write changes one slice in place.
                start = (number, 0, index, 0, 0)
                new = Cache(jax.lax.dynamic_update_slice(cache.key, k[None], start),
                            jax.lax.dynamic_update_slice(cache.value, v[None], start))
                return cached_attention(q, new.key, new.value, number, mask, first=first), new

            x, cache = layer(x, rope, attend)
            return (x, cache), None

        if apart is None:
            numbers = jnp.arange(self.config.layers)
            (x, cache), _ = jax.lax.scan(body, (x, cache), (self.layers, numbers))
        else:
            for number, layer in enumerate(apart):
                (x, cache), _ = body((x, cache), (layer, number))
        return self.norm(x), cache

    def logits(self, states: jax.Array) -> jax.Array:
        """states [..., D] -> float32[..., V padded]; padding rows hold the lowest float."""
        logits = self.head(states.astype(self.dtype)).astype(jnp.float32)
        real = jnp.arange(self.config.padded_vocab) < self.config.vocab
        return jnp.where(real, logits, jnp.finfo(jnp.float32).min)
