"""Decoding with a key/value cache in one compiled loop, keeping the states of watched tokens.

The published code runs the whole model again for every token and gathers the [SEG] states from
the last run. The state that predicts a token is in hand at the step that emits it, so one cached
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

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from legion_jax.config import SEG_TOKEN
from legion_jax.models.legion import Legion, Seen, last_token, splice_flags, token_slots
from legion_jax.models.llama import Cache
from legion_jax.predict.sampling import GREEDY, Sampling, choose
from legion_jax.sharding import BATCH, HEADS, constrain

NO_TOKEN = -1  # an id that is never emitted


@dataclasses.dataclass(frozen=True)
class Watched:
    """A token whose predicting states an answer keeps.

    Attributes:
        name: of `LegionConfig.watched`; id: in the vocabulary.
        slots: states that are kept, the first ones in reading order.
        keep_last: of more than `slots` tokens the last slot holds the last one's.
    """

    name: str
    id: int
    slots: int
    keep_last: bool = False


@dataclasses.dataclass(frozen=True)
class Rules:
    """What all answers of a batch have in common while they are written.

    Attributes:
        max_new: tokens of an answer, at most; eos_id: of the token that ends it.
        watched: tokens whose states are kept.
        close_id: of `</p>`.
        verdict_ids: of the tokens that begin " real" and " fake", where the words are the verdict.
    """

    max_new: int
    eos_id: int
    watched: tuple[Watched, ...] = ()
    close_id: int = NO_TOKEN
    verdict_ids: tuple[int, int] | None = None
    sampling: Sampling = GREEDY

    @property
    def seg_id(self) -> int:
        """Of [SEG]; NO_TOKEN where it is not watched."""
        return next((each.id for each in self.watched if each.name == SEG_TOKEN), NO_TOKEN)


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
        states: {watched token: [B, K, D], states that predicted it, in order}.
        counts: {watched token: int[B], how many were seen}; above K some had no slot.
        said: float32[B, 2], log-probabilities of `Rules.verdict_ids` where the answer first says
            one of the two, at its beginning while it has not; [B, 0] without such ids.
        has_said: bool[B], whether it has.
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
    states: dict[str, jax.Array]
    counts: dict[str, jax.Array]
    said: jax.Array
    has_said: jax.Array
    number: jax.Array


def read_prefix(model: Legion, ids: jax.Array) -> Cache:
    """Keys and values [L, 1, I, N, H] of the text before the image, int[1, I], for `prefill`."""
    length = ids.shape[1]
    steps = jnp.arange(length)
    causal = (steps <= steps[:, None])[None, None]
    return model.language.extend(model.language.embed(ids), steps[None], causal,
                                 model.language.init_cache(1, length), 0, causal=True)[1]


def prefill(model: Legion, ids: jax.Array, valid: jax.Array, seen: Seen, rules: Rules, *,
            image_index: int, columns: int, number: jax.Array,
            prefix: Cache | None = None) -> DecodeState:
    """Read prompts; the state before the first step.

    Args:
        ids: prompt int[B, T] with the image placeholder at `image_index`; padding, if any, stands
            right behind the placeholder. valid: bool[B, T], False at padding.
        seen: `Legion.see`'s output.
        columns: S of the cache, at least as many as the prompt needs.
        number: uint32[B], see `DecodeState`.
        prefix: of `read_prefix`, where all rows begin with the same text and it was read before.
    """
    B, num_patches = ids.shape[0], model.config.vision.num_patches
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
    # Behind padding the position before a token is the last one that is not padding.
    last_real = jax.lax.cummax(jnp.where(valid, jnp.arange(T), 0), axis=1)
    kept, counts = {}, {}
    for watched in rules.watched:
        places, there, counts[watched.name] = _prompt_slots(ids, watched, num_patches)
        places = jnp.maximum(jnp.take_along_axis(last_real, places, axis=1) - start, 0)
        states_of = jnp.take_along_axis(states, places[..., None], axis=1)
        kept[watched.name] = constrain(jnp.where(there[..., None], states_of, 0),
                                       BATCH, None, None)
    said = _log_probabilities(model.language.logits(states[:, -1]), rules.verdict_ids)
    return DecodeState(
        column=jnp.asarray(T % S, jnp.int32), hidden=states[:, -1], position=positions[:, -1],
        cache=cache, usable=usable, done=jnp.zeros(B, bool),
        tokens=jnp.full((B, rules.max_new), rules.eos_id, jnp.int32),
        length=jnp.zeros(B, jnp.int32), states=kept, counts=counts, said=said,
        has_said=jnp.zeros(B, bool), number=number)


def _prompt_slots(ids: jax.Array, watched: Watched, num_patches: int):
    """As of `token_slots`: a watched token in the prompt counts too, as in the published code."""
    places, there, count = token_slots(ids, watched.id, watched.slots, num_patches)
    if watched.keep_last:
        last, _ = last_token(ids, watched.id, num_patches)
        places = places.at[:, -1].set(jnp.where(there[:, -1], last, places[:, -1]))
    return places, there, count.astype(jnp.int32)


def _log_probabilities(logits: jax.Array, ids: tuple[int, int] | None) -> jax.Array:
    """float32[B, V] -> those of the tokens `ids`, float32[B, 2]; [B, 0] without ids."""
    if ids is None:
        return jnp.zeros((len(logits), 0))
    return jax.nn.log_softmax(logits, axis=-1)[:, jnp.array(ids)]


def empty(model: Legion, batch: int, rules: Rules, *, columns: int) -> DecodeState:
    """A state whose `batch` places are all free."""
    D, dtype = model.config.language.width, model.language.dtype
    return DecodeState(
        column=jnp.zeros((), jnp.int32), hidden=jnp.zeros((batch, D), dtype),
        position=jnp.zeros(batch, jnp.int32), cache=model.language.init_cache(batch, columns),
        usable=jnp.zeros((batch, columns), bool), done=jnp.ones(batch, bool),
        tokens=jnp.full((batch, rules.max_new), rules.eos_id, jnp.int32),
        length=jnp.zeros(batch, jnp.int32),
        states={each.name: constrain(jnp.zeros((batch, each.slots, D), dtype), BATCH, None, None)
                for each in rules.watched},
        counts={each.name: jnp.zeros(batch, jnp.int32) for each in rules.watched},
        said=jnp.zeros((batch, 2 if rules.verdict_ids else 0)), has_said=jnp.zeros(batch, bool),
        number=jnp.zeros(batch, jnp.uint32))


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
        name: jax.tree.map(put, getattr(state, name), getattr(new, name)) for name in (
            "hidden", "position", "done", "tokens", "length", "states", "counts", "said",
            "has_said", "number")})


def decode(model: Legion, state: DecodeState, wanted: jax.Array, rules: Rules, *,
           apart: bool = False) -> DecodeState:
    """Step until `wanted` (int scalar) places are done.

    With `apart` the steps read a copy of the layers' weights that is made at the beginning.
    """
    B, M = state.tokens.shape
    layers = model.language.taken_apart() if apart else None
    rows, S = jnp.arange(B), state.usable.shape[1]

    def step(state):
        logits = model.language.logits(state.hidden)
        token = choose(logits, state.tokens, state.length, state.number,
                       sampling=rules.sampling, seg_id=rules.seg_id, close_id=rules.close_id)
        token = jnp.where(state.done, rules.eos_id, token)
        end = jnp.where(state.done, M, state.length)  # M is out of range and dropped
        position, length = state.position + 1, state.length + ~state.done
        usable = jax.lax.dynamic_update_slice(state.usable, jnp.ones((B, 1), bool),
                                              (0, state.column))
        hidden, cache = model.language.extend(
            model.language.embed(token)[:, None], position[:, None], usable[:, None, None],
            state.cache, state.column, apart=layers)
        return _watch(state, token, logits, rules).replace(
            column=(state.column + 1) % S, hidden=hidden[:, 0], position=position, cache=cache,
            usable=usable, done=state.done | (token == rules.eos_id) | (length >= M),
            tokens=state.tokens.at[rows, end].set(token, mode="drop"), length=length)

    # No answer is longer than M tokens; that bound tells tools.aot_report how often it may turn.
    _, state = jax.lax.while_loop(
        lambda carry: (carry[0] < M) & (carry[1].done.sum() < wanted),
        lambda carry: (carry[0] + 1, step(carry[1])), (0, state))
    return state


def _watch(state: DecodeState, token: jax.Array, logits: jax.Array, rules: Rules) -> DecodeState:
    """Keep what a step's tokens int[B] are watched for; `logits` float32[B, V] chose them."""
    rows, states, counts = jnp.arange(len(token)), dict(state.states), dict(state.counts)
    for watched in rules.watched:
        name, K = watched.name, watched.slots
        there = (token == watched.id) & ~state.done
        slot = jnp.minimum(counts[name], K - 1) if watched.keep_last else counts[name]
        slot = jnp.where(there, slot, K)  # slot K is out of range and dropped
        states[name] = states[name].at[rows, slot].set(state.hidden, mode="drop")
        counts[name] += there
    state = state.replace(states=states, counts=counts)
    if rules.verdict_ids is None:
        return state
    says = (token[:, None] == jnp.array(rules.verdict_ids)).any(axis=1) & ~state.done
    first = says & ~state.has_said
    said = jnp.where(first[:, None], _log_probabilities(logits, rules.verdict_ids), state.said)
    return state.replace(said=said, has_said=state.has_said | says)
