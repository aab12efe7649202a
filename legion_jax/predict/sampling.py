"""How the next token of an answer is chosen from its logits."""

import dataclasses

import jax
import jax.numpy as jnp

from input_pipeline.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Greedy unless told otherwise, as the published inference is.

    Attributes:
        temperature: 0 takes the most probable token; above, tokens are drawn from
            softmax(logits / temperature).
        top_p: draw from the fewest most probable tokens that hold this much probability
            (Holtzman et al., 2020).
        seed: of the draws. A photo's draws depend on it and on the photo's own number, not on the
            batch the photo is in.
        no_repeat: an answer never has the same run of so many tokens twice; 0: it may. Every
            explained artifact repeats `</p> [SEG]` and a few words, so small numbers damage
            answers; 16 and more stop those that go in circles.
        force_seg: `[SEG]` always follows `</p>`, for fine-tuned models that lost it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    no_repeat: int = 0
    force_seg: bool = False

    def __post_init__(self):
        for name, good, range_ in (
                ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
                ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
                ("seed", 0 <= self.seed < 2 ** 32, "0 to 2^32 - 1"),
                ("no_repeat", self.no_repeat >= 0, "0 or more")):
            if not good:
                raise UserError(f"{name}: {range_}, got {getattr(self, name)}")


GREEDY = Sampling()


def choose(logits: jax.Array, tokens: jax.Array, length: jax.Array, numbers: jax.Array, *,
           sampling: Sampling, seg_id: int, close_id: int) -> jax.Array:
    """The next token of every row.

    Args:
        logits: float32[B, V].
        tokens: int[B, M], the answer so far; length: int[B], how many of them count.
        numbers: uint32[B], the photos' own numbers, for the draws.
        seg_id, close_id: tokens `[SEG]` and `</p>`.

    Returns:
        int32[B].
    """
    if sampling.no_repeat:
        logits = ban_repeats(logits, tokens, length, sampling.no_repeat)
    if sampling.temperature:
        logits = keep_top_p(logits / sampling.temperature, sampling.top_p)
        key = jax.random.key(sampling.seed)

        def draw(number, length, logits):
            return jax.random.categorical(
                jax.random.fold_in(jax.random.fold_in(key, number), length), logits)

        token = jax.vmap(draw)(numbers, length, logits)
    else:
        token = logits.argmax(-1)
    if sampling.force_seg:
        last = jnp.take_along_axis(tokens, jnp.maximum(length - 1, 0)[:, None], axis=1)[:, 0]
        token = jnp.where((length > 0) & (last == close_id), seg_id, token)
    return token.astype(jnp.int32)


def keep_top_p(logits: jax.Array, top_p: float) -> jax.Array:
    """[B, V] with the lowest float where a token is outside of the most probable `top_p`."""
    if top_p == 1:
        return logits
    ordered = jnp.sort(logits, axis=-1, descending=True)
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    lowest = jnp.where(before < top_p, ordered, jnp.inf).min(-1, keepdims=True)
    return jnp.where(logits >= lowest, logits, jnp.finfo(logits.dtype).min)


def ban_repeats(logits: jax.Array, tokens: jax.Array, length: jax.Array, run: int) -> jax.Array:
    """[B, V] with the lowest float where a token would repeat a run of `run` tokens.

    `tokens` int[B, M] and `length` int[B] as in `choose`.
    """
    B, M = tokens.shape
    places = M - run + 1
    if places < 1:
        return logits
    tail = length[:, None] - (run - 1) + jnp.arange(run - 1)  # [B, run - 1]
    tail = jnp.take_along_axis(tokens, jnp.maximum(tail, 0), axis=1)
    same = jnp.ones((B, places), bool)
    for offset in range(run - 1):
        same &= tokens[:, offset:offset + places] == tail[:, offset:offset + 1]
    # The run that ends the answer is no repeat of itself: its last token is the one to choose.
    same &= jnp.arange(places) + run - 1 < length[:, None]
    banned = jnp.where(same, tokens[:, run - 1:], logits.shape[1])
    return logits.at[jnp.arange(B)[:, None], banned].set(
        jnp.finfo(logits.dtype).min, mode="drop")
