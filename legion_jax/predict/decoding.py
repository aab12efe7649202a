"""Decoding with a key/value cache in one compiled loop, keeping every [SEG] state.

The published code runs the whole model again for every token and gathers the [SEG] states from
the last run. The state that predicts [SEG] is in hand at the step that emits it, so one cached
pass gives the same answer (LISA, section 3.2, for the role of the state).

A batch is a set of places. An answer that ends leaves its place to the next photo: `prefill` reads
that photo's prompt by itself and `admit` puts it in, while the others stay where they are (Yu et
al., 2022, Orca). All rows write the same column of the cache in a step, and the columns are a ring:
a prompt that comes in takes the columns before the next one, whatever their number, because a key
carries its position in its rotation.

Rows that are prefilled together may have prompts of different length: padding stands between the
image and the instruction. The image keeps its constant index, the last prompt token is last in
every row, and positions count real tokens only.
"""

import flax.struct
import jax
import jax.numpy as jnp

from legion_jax.models.legion import Legion, seg_slots, splice_flags
from legion_jax.models.llama import Cache
from legion_jax.predict.sampling import GREEDY, Sampling, choose
from legion_jax.sharding import BATCH, HEADS, constrain

NO_TOKEN = -1  # an id that is never emitted


@flax.struct.dataclass
class DecodeState:
    """What one decoding step hands to the next.

    Attributes:
        column: int scalar, where the next token of every row goes in the cache.
        hidden: [B, D], state that predicts the next token.
        position: int[B], rotary position of the last token fed.
        cache: keys and values of everything fed, S columns; usable: bool[B, S], those that belong
            to the row's prompt and answer.
        done: bool[B], the row has emitted its end token or M tokens, or holds no photo.
        tokens: int[B, M], filled with the end token.
        length: int[B], tokens emitted, the end token included.
        seg_states: [B, K, D], states that predicted [SEG], in order.
        seg_count: int[B], [SEG]s seen; above K means that the last ones had no slot.
        number: uint32[B], what a photo's random draws depend on.
    """

    column: jax.Array
    hidden: jax.Array
    position: jax.Array
    cache: Cache
    usable: jax.Array
    done: jax.Array
    tokens: jax.Array
    length: jax.Array
    seg_states: jax.Array
    seg_count: jax.Array
    number: jax.Array


def read_prefix(model: Legion, ids: jax.Array) -> Cache:
    """Keys and values [L, 1, I, N, H] of the text before the image, int[1, I], for `prefill`."""
    length = ids.shape[1]
    steps = jnp.arange(length)
    causal = (steps <= steps[:, None])[None, None]
    return model.language.extend(model.language.embed(ids), steps[None], causal,
                                 model.language.init_cache(1, length), 0, causal=True)[1]


def prefill(model: Legion, ids: jax.Array, valid: jax.Array, seen: jax.Array, *,
            image_index: int, max_new: int, slots: int, eos_id: int, seg_id: int, columns: int,
            number: jax.Array, prefix: Cache | None = None) -> DecodeState:
    """Read prompts; the state before the first step.

    Args:
        ids: prompt int[B, T] with the image placeholder at `image_index`; padding, if any, stands
            right behind the placeholder. valid: bool[B, T], False at padding.
        seen: `Legion.see`'s output [B, 1 + P, D].
        max_new, slots: static sizes M and K of the answer.
        columns: S of the cache, at least as many as the prompt needs.
        number: uint32[B], see `DecodeState`.
        prefix: of `read_prefix`, where all rows begin with the same text and it was read before.
    """
    B, num_patches = ids.shape[0], model.config.clip.num_patches
    x = model.embed(ids, seen, image_index)
    valid = splice_flags(valid, image_index, num_patches, True)
    T, S = x.shape[1], columns
    usable = jnp.pad(valid, ((0, 0), (0, S - T)))
    positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
    cache, start = model.language.init_cache(B, S), 0
    if prefix is not None:
        start = image_index
        cache = jax.tree.map(lambda whole, part: whole.at[:, :, :start].set(part), cache, prefix)
    causal = jnp.arange(S)[None, :] <= jnp.arange(start, T)[:, None]
    states, cache = model.language.extend(x[:, start:], positions[:, start:],
                                          (causal & usable[:, None])[:, None], cache, start,
                                          causal=True)
    # A [SEG] in the prompt asks for a mask too, as in the published evaluate().
    seg_places, has_seg, seg_count = seg_slots(ids, seg_id, slots, num_patches)
    # Behind padding the position before a token is the last one that is not padding.
    last_real = jax.lax.cummax(jnp.where(valid, jnp.arange(T), 0), axis=1)
    seg_places = jnp.maximum(jnp.take_along_axis(last_real, seg_places, axis=1) - start, 0)
    seg_states = jnp.take_along_axis(states, seg_places[..., None], axis=1)
    return DecodeState(
        column=jnp.asarray(T % S, jnp.int32), hidden=states[:, -1], position=positions[:, -1],
        cache=cache, usable=usable, done=jnp.zeros(B, bool),
        tokens=jnp.full((B, max_new), eos_id, jnp.int32), length=jnp.zeros(B, jnp.int32),
        seg_count=seg_count.astype(jnp.int32),
        seg_states=constrain(jnp.where(has_seg[..., None], seg_states, 0), BATCH, None, None),
        number=number)


def empty(model: Legion, batch: int, *, columns: int, max_new: int, slots: int,
          eos_id: int) -> DecodeState:
    """A state whose `batch` places are all free."""
    D = model.config.language.width
    return DecodeState(
        column=jnp.zeros((), jnp.int32), hidden=jnp.zeros((batch, D), model.language.dtype),
        position=jnp.zeros(batch, jnp.int32), cache=model.language.init_cache(batch, columns),
        usable=jnp.zeros((batch, columns), bool), done=jnp.ones(batch, bool),
        tokens=jnp.full((batch, max_new), eos_id, jnp.int32),
        length=jnp.zeros(batch, jnp.int32),
        seg_states=constrain(jnp.zeros((batch, slots, D), model.language.dtype), BATCH, None, None),
        seg_count=jnp.zeros(batch, jnp.int32), number=jnp.zeros(batch, jnp.uint32))


def admit(state: DecodeState, new: DecodeState, rows: jax.Array) -> DecodeState:
    """Put prefilled photos into places of a running state.

    Args:
        state: B places and S columns.
        new: R prefilled rows whose cache is T <= S columns, all of them used.
        rows: int[R], places of the photos; B for those that are not to be put in.
    """
    S, T = state.usable.shape[1], new.usable.shape[1]

    def turned(x, axis):
        """The new columns, so that they end before `state.column`."""
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, S - T)
        return jnp.roll(jnp.pad(x, widths), state.column - T, axis)

    def put(old, new):
        return old.at[rows].set(new.astype(old.dtype), mode="drop")

    cache = jax.tree.map(
        lambda old, new: constrain(old.at[:, rows].set(turned(new, 2), mode="drop"),
                                   None, BATCH, None, HEADS, None), state.cache, new.cache)
    usable = put(state.usable, turned(new.usable, 1))
    return state.replace(cache=cache, usable=usable, **{
        name: put(getattr(state, name), getattr(new, name)) for name in (
            "hidden", "position", "done", "tokens", "length", "seg_states", "seg_count",
            "number")})


def decode(model: Legion, state: DecodeState, wanted: jax.Array, *, eos_id: int, seg_id: int,
           close_id: int = NO_TOKEN, sampling: Sampling = GREEDY,
           apart: bool = False) -> DecodeState:
    """Step until `wanted` (int scalar) places are done.

    `close_id` is `</p>`; other arguments as of `sampling.choose` and `prefill`. With `apart` the
    steps read a copy of the layers' weights that is made at the beginning.
    """
    (B, M), K = state.tokens.shape, state.seg_states.shape[1]
    layers = model.language.taken_apart() if apart else None
    rows, S = jnp.arange(B), state.usable.shape[1]

    def step(state):
        token = choose(model.language.logits(state.hidden), state.tokens, state.length,
                       state.number, sampling=sampling, seg_id=seg_id, close_id=close_id)
        token = jnp.where(state.done, eos_id, token)
        is_seg = (token == seg_id) & ~state.done
        slot = jnp.where(is_seg, state.seg_count, K)  # slot K is out of range and dropped
        end = jnp.where(state.done, M, state.length)  # M is out of range and dropped
        position, length = state.position + 1, state.length + ~state.done
        usable = jax.lax.dynamic_update_slice(state.usable, jnp.ones((B, 1), bool),
                                              (0, state.column))
        hidden, cache = model.language.extend(
            model.language.embed(token)[:, None], position[:, None], usable[:, None, None],
            state.cache, state.column, apart=layers)
        return state.replace(
            column=(state.column + 1) % S, hidden=hidden[:, 0], position=position, cache=cache,
            usable=usable, done=state.done | (token == eos_id) | (length >= M),
            tokens=state.tokens.at[rows, end].set(token, mode="drop"), length=length,
            seg_states=state.seg_states.at[rows, slot].set(state.hidden, mode="drop"),
            seg_count=state.seg_count + is_seg)

    # No answer is longer than M tokens; that bound tells tools.aot_report how often it may turn.
    _, state = jax.lax.while_loop(
        lambda carry: (carry[0] < M) & (carry[1].done.sum() < wanted),
        lambda carry: (carry[0] + 1, step(carry[1])), (0, state))
    return state
