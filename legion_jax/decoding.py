"""Greedy decoding with a key/value cache in one compiled loop, keeping every [SEG] state.

The published code runs the whole model again for every token and gathers the [SEG] states from
the last run. The state that predicts [SEG] is in hand at the step that emits it, so one cached
pass gives the same answer (LISA, section 3.2, for the role of the state).

Rows of a batch may have prompts of different length: padding stands between the image and the
instruction. The image keeps its constant index, the last prompt token is last in every row, and
positions count real tokens only.
"""

import flax.struct
import jax
import jax.numpy as jnp

from legion_jax import masks
from legion_jax.models.legion import Legion, seg_slots, splice_flags
from legion_jax.models.llama import Cache
from legion_jax.sharding import BATCH, constrain

FRAME_PIXELS = 1024 * 1024


@flax.struct.dataclass
class DecodeState:
    """What one decoding step hands to the next.

    Attributes:
        step: int scalar, tokens emitted so far.
        hidden: [B, D], state that predicts the next token.
        position: int[B], rotary position of the last token fed.
        cache: keys and values of everything fed.
        done: bool[B], the row has emitted its end token.
        tokens: int[B, M], filled with the end token.
        length: int[B], tokens emitted, the end token included.
        seg_states: [B, K, D], states that predicted [SEG], in order.
        seg_count: int[B], [SEG]s seen; above K means that the last ones had no slot.
    """

    step: jax.Array
    hidden: jax.Array
    position: jax.Array
    cache: Cache
    done: jax.Array
    tokens: jax.Array
    length: jax.Array
    seg_states: jax.Array
    seg_count: jax.Array


@flax.struct.dataclass
class Decoded:
    """An answer: tokens int[B, M], length int[B], seg_states [B, K, D], seg_count int[B]."""

    tokens: jax.Array
    length: jax.Array
    seg_states: jax.Array
    seg_count: jax.Array


def prefill(model: Legion, ids, valid, seen, *, image_index, max_new, slots, eos_id, seg_id):
    """Run the prompt and return the state before the first step, and bool[B, S] of usable keys."""
    B = ids.shape[0]
    num_patches = model.config.clip.num_patches
    x = model.embed(ids, seen, image_index)
    valid = splice_flags(valid, image_index, num_patches, True)
    T, S = x.shape[1], x.shape[1] + max_new
    usable = jnp.pad(valid, ((0, 0), (0, max_new)), constant_values=True)
    positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
    causal = jnp.arange(S)[None, :] <= jnp.arange(T)[:, None]
    states, cache = model.language.extend(x, positions, (causal & usable[:, None])[:, None],
                                          model.language.init_cache(B, S), 0)
    # A [SEG] in the prompt asks for a mask too, as in the published evaluate().
    where, has_seg, seg_count = seg_slots(ids, seg_id, slots, num_patches)
    # Behind padding the position before a token is the last one that is not padding.
    last_real = jax.lax.cummax(jnp.where(valid, jnp.arange(T), 0), axis=1)
    where = jnp.take_along_axis(last_real, where, axis=1)
    seg_states = jnp.take_along_axis(states, where[..., None], axis=1)
    return DecodeState(
        step=jnp.zeros((), jnp.int32), hidden=states[:, -1], position=positions[:, -1],
        cache=cache, done=jnp.zeros(B, bool), tokens=jnp.full((B, max_new), eos_id, jnp.int32),
        length=jnp.zeros(B, jnp.int32), seg_count=seg_count.astype(jnp.int32),
        seg_states=constrain(jnp.where(has_seg[..., None], seg_states, 0), BATCH, None, None),
    ), usable


def greedy(model: Legion, ids: jax.Array, valid: jax.Array, seen: jax.Array, *, image_index: int,
           max_new: int, slots: int, eos_id: int, seg_id: int) -> Decoded:
    """Decode until every row has ended or `max_new` tokens are out.

    Args:
        ids: prompt int[B, T] with the image placeholder at `image_index`; padding, if any, stands
            right behind the placeholder. valid: bool[B, T], False at padding.
        seen: `Legion.see`'s states [B, 1 + P, C].
        max_new, slots: static sizes M and K of the answer.

    Returns:
        Decoded. Equal, up to rounding, to an uncached run of the whole sequence per token.
    """
    rows = jnp.arange(ids.shape[0])
    state, usable = prefill(model, ids, valid, seen, image_index=image_index, max_new=max_new,
                            slots=slots, eos_id=eos_id, seg_id=seg_id)
    prompt_length = usable.shape[1] - max_new
    keys = jnp.arange(usable.shape[1])

    def unfinished(state):
        return (state.step < max_new) & ~state.done.all()

    def step(state):
        token = model.language.logits(state.hidden).argmax(-1).astype(jnp.int32)
        token = jnp.where(state.done, eos_id, token)
        is_seg = (token == seg_id) & ~state.done
        slot = jnp.where(is_seg, state.seg_count, slots)  # slot K is out of range and dropped
        index, position = prompt_length + state.step, state.position + 1
        mask = (usable & (keys <= index))[:, None, None]  # [B, 1, 1, S]
        hidden, cache = model.language.extend(model.language.embed(token)[:, None],
                                              position[:, None], mask, state.cache, index)
        return DecodeState(
            step=state.step + 1, hidden=hidden[:, 0], position=position, cache=cache,
            done=state.done | (token == eos_id),
            tokens=state.tokens.at[:, state.step].set(token),
            length=state.length + ~state.done,
            seg_states=state.seg_states.at[rows, slot].set(state.hidden, mode="drop"),
            seg_count=state.seg_count + is_seg)

    state = jax.lax.while_loop(unfinished, step, state)
    return Decoded(state.tokens, state.length, state.seg_states, state.seg_count)


def draw_masks(model: Legion, seg_states: jax.Array, sam_image: jax.Array, resized: jax.Array,
               original: jax.Array, *, canvas: int) -> tuple[jax.Array, jax.Array]:
    """Masks of the [SEG] states in the frame of each photo.

    Args:
        seg_states: [B, K, D]; sam_image: uint8[B, C, C, 3]; resized, original: int[B, 2].
        canvas: static side of the output, a multiple of 8 and at least any photo's longest side.

    Returns:
        uint8[B, K, canvas, canvas / 8], one bit per pixel as `np.packbits` makes them, and
        float32[B, K] scores: the mean probability inside the mask (0 for an empty mask).
    """
    logits, _ = model.draw(model.ground(sam_image, resized), model.prompt(seg_states))

    def place(row):
        logits, resized, original = (x[None] for x in row)
        logits = masks.to_frame(logits, resized, original, canvas=canvas,
                                sam_size=model.config.sam.image_size)[0]
        positive = (logits > 0) & masks.inside(original, canvas)
        total = jnp.where(positive, jax.nn.sigmoid(logits), 0).sum((-2, -1))
        return jnp.packbits(positive, axis=-1), total / jnp.maximum(positive.sum((-2, -1)), 1)

    # Large frames are made a few photos at a time, which bounds memory.
    at_once = max(1, 8 * FRAME_PIXELS // (canvas * canvas))
    return jax.lax.map(place, (logits, resized, original), batch_size=at_once)
