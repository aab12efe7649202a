"""predict/decoding.py against a run of the whole sequence, without a cache, for every token."""

import collections
import functools

import jax
import numpy as np
import pytest
from flax import nnx
from random_models import IMAGE_ID, IMAGE_INDEX
from torch_side import assert_close

from legion_jax import sharding
from legion_jax.models import param_tree
from legion_jax.models.legion import Seen
from legion_jax.predict import decoding
from legion_jax.predict.decoding import Rules, Watched

# Prompts after which the random model says [SEG] in interesting places; 0 is padding.
SEG, EOS, MAX_NEW, SLOTS = 41, 96, 12, 3
PROMPTS = np.array([
    [14, 61, 39, IMAGE_ID, 75, 55, 55, 58, 62, 20, 78, 74],
    [79, 48, 29, IMAGE_ID, 0, 0, 74, 11, 48, 39, 49, 28],
    [69, 24, 71, IMAGE_ID, 0, 0, 0, 0, 35, SEG, 54, SEG],
])
VALID = PROMPTS != 0
NEVER = -1  # an id that is never emitted
ZEROS = np.zeros(4, np.uint32)


def rules_of(*, max_new=MAX_NEW, slots=SLOTS, eos_id=EOS, seg_id=SEG) -> Rules:
    return Rules(max_new, eos_id, (Watched("[SEG]", seg_id, slots),))


@functools.partial(jax.jit, static_argnames="rules")
def greedy(model, ids, valid, seen, rules):
    """Answers to a batch of prompts that are read together and run until all have ended."""
    columns = ids.shape[1] - 1 + model.config.vision.num_patches + rules.max_new
    state = decoding.prefill(model, ids, valid, Seen.from_rows(seen), rules,
                             image_index=IMAGE_INDEX, columns=columns, number=ZEROS[:len(ids)])
    return decoding.decode(model, state, len(ids), rules)


Decoded = collections.namedtuple("Decoded", "tokens length seg_states seg_count")


def decoded(state) -> Decoded:
    return Decoded(state.tokens, state.length, state.states["[SEG]"], state.counts["[SEG]"])


def decode(model, ids, valid, seen, **changes) -> Decoded:
    return decoded(greedy(model, ids, valid, seen, rules_of(**changes)))


@pytest.fixture(scope="module")
def seen(config, model):
    side = config.vision.image_size
    image = np.random.default_rng(0).integers(0, 256, (len(PROMPTS), side, side, 3), np.uint8)
    return model.see(image).rows


@pytest.fixture(scope="module")
def uncached(model, seen):
    """Per row, without any end token: (tokens, the state before each of them) and prompt first.

    Every token takes a run of the whole sequence from which padding is left out; behind the
    sequence stands what nothing before it can see.
    """
    shape = (1, PROMPTS.shape[1] + MAX_NEW)

    @jax.jit
    def run(ids, seen):
        x = model.embed(ids, Seen.from_rows(seen), IMAGE_INDEX)
        states = model.read(x, np.ones(x.shape[:2], bool))
        return states[0], model.language.logits(states[0])

    patches, rows = model.config.vision.num_patches, []
    for row, prompt in enumerate(PROMPTS):
        sequence = prompt[VALID[row]].tolist()
        for _ in range(MAX_NEW):
            padded = np.zeros(shape, int)
            padded[0, :len(sequence)] = sequence
            states, logits = run(padded, seen[row:row + 1])
            sequence.append(int(logits[len(sequence) - 1 + patches - 1].argmax()))
        before = np.asarray(states)[np.arange(len(sequence)) - 1 + patches - 1]
        rows.append((sequence, before, int(VALID[row].sum())))
    return rows


def expected(uncached, *, max_new=MAX_NEW, slots=SLOTS, eos_id=EOS, seg_id=SEG) -> Decoded:
    """What `greedy` must return, cut out of the uncached runs."""
    out = []
    for sequence, before, start in uncached:
        length = max_new
        if eos_id in sequence[start:start + max_new]:
            length = sequence.index(eos_id, start) + 1 - start
        places = [k for k in range(start + length) if sequence[k] == seg_id]
        states = np.zeros((slots, before.shape[1]), np.float32)
        states[:len(places[:slots])] = before[places[:slots]]
        tokens = sequence[start:start + length] + [eos_id] * (max_new - length)
        out.append((tokens, length, states, len(places)))
    return Decoded(*map(np.array, zip(*out, strict=True)))


def assert_same(ours, wanted):
    np.testing.assert_array_equal(ours.tokens, wanted.tokens)
    np.testing.assert_array_equal(ours.length, wanted.length)
    np.testing.assert_array_equal(ours.seg_count, wanted.seg_count)
    assert_close(ours.seg_states, wanted.seg_states)


def test_answers_are_those_of_uncached_runs(model, seen, uncached):
    wanted = expected(uncached)
    assert_same(decode(model, PROMPTS, VALID, seen), wanted)
    # The cases that make this test worth its name:
    last_token, ended, overflowing = wanted.tokens
    assert last_token[-1] == SEG and wanted.seg_count[0] == SLOTS  # [SEG] at the length limit
    assert wanted.length[1] < MAX_NEW and SEG in ended  # [SEG], then an early end,
    sequence, _, start = uncached[1]
    assert SEG in sequence[start + wanted.length[1]:]  # behind which more would have come
    assert wanted.seg_count[2] > SLOTS and (overflowing == SEG).any()  # two in the prompt


@pytest.mark.parametrize("max_new, slots", [(5, 1), (10, 8)])
def test_other_limits(model, seen, uncached, max_new, slots):
    ours = decode(model, PROMPTS, VALID, seen, max_new=max_new, slots=slots)
    assert_same(ours, expected(uncached, max_new=max_new, slots=slots))


@pytest.mark.parametrize("ids", [dict(seg_id=NEVER), dict(eos_id=NEVER), dict(eos_id=SEG)])
def test_other_special_tokens(model, seen, uncached, ids):
    """No [SEG] at all, no end at all, and an end token that counts as [SEG] as well."""
    assert_same(decode(model, PROMPTS, VALID, seen, **ids), expected(uncached, **ids))


def picked(decoded, rows) -> Decoded:
    return Decoded(*(getattr(decoded, name)[rows] for name in Decoded._fields))


def test_a_row_alone_gives_the_answer_it_gives_in_a_batch(model, seen):
    together = decode(model, PROMPTS, VALID, seen)
    for row in range(len(PROMPTS)):
        alone = decode(model, *(x[row:row + 1] for x in (PROMPTS, VALID, seen)))
        assert_same(alone, picked(together, slice(row, row + 1)))


def test_what_stands_in_the_padding_does_not_matter(model, seen):
    other = np.where(VALID, PROMPTS, 50)
    assert_same(decode(model, other, VALID, seen), decode(model, PROMPTS, VALID, seen))


def test_one_executable_serves_every_prompt(model, seen):
    greedy.clear_cache()
    for shift in range(3):
        decode(model, np.roll(PROMPTS, shift, axis=0), np.roll(VALID, shift, axis=0), seen)
    assert greedy._cache_size() == 1


def test_answers_on_a_mesh(model, seen, uncached):
    rows = np.array([0, 1, 2, 0])
    mesh = sharding.make_mesh((2, 2, 2))
    graph, params = nnx.split(model)
    params = nnx.to_pure_dict(params)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, sharding.tree_shardings(params, mesh))
        batch = jax.device_put((PROMPTS[rows], VALID[rows], np.asarray(seen)[rows]),
                               sharding.batch_sharding(mesh))
        ours = decode(param_tree.merge(graph, placed), *batch)
    assert_same(ours, picked(expected(uncached), rows))


def refilled(model, seen, order, *, places, max_new=MAX_NEW, prefix=False, apart=False):
    """Answers to prompts `order`, as many at a time as there are places; one comes in per end."""
    columns = PROMPTS.shape[1] - 1 + model.config.vision.num_patches + max_new
    rules = rules_of(max_new=max_new)
    state = decoding.empty(model, places, rules, columns=columns)
    read = decoding.read_prefix(model, PROMPTS[:1, :IMAGE_INDEX]) if prefix else None

    @jax.jit
    def admit(state, ids, valid, seen, rows):
        new = decoding.prefill(model, ids, valid, Seen.from_rows(seen), rules,
                               image_index=IMAGE_INDEX, columns=columns - max_new, prefix=read,
                               number=ZEROS[:2])
        return decoding.admit(state, new, rows)

    step = jax.jit(lambda state, wanted: decoding.decode(model, state, wanted, rules,
                                                         apart=apart))
    waiting, holds, answers, columns_seen = list(enumerate(order)), {}, {}, set()
    while waiting or holds:
        for place in range(places):
            if place not in holds and waiting:
                number, row = waiting.pop(0)
                # The second row of the pair goes nowhere.
                pair = np.array([row, order[0]])
                state = admit(state, PROMPTS[pair], VALID[pair], seen[pair],
                              np.array([place, places]))
                holds[place] = number
        state = step(state, places - len(holds) + 1)
        columns_seen.add(int(state.column))
        for place in [p for p in holds if state.done[p]]:
            answers[holds.pop(place)] = picked(decoded(state), place)
    return [answers[number] for number in range(len(order))], columns_seen


def test_answers_in_places_that_others_left(model, seen, uncached):
    """Eight photos through two places: nobody notices who was there before or is beside."""
    wanted, order = expected(uncached), [0, 1, 2, 1, 0, 2, 2, 1]
    answers, columns = refilled(model, seen, order, places=2)
    for answer, row in zip(answers, order, strict=True):
        assert_same(answer, picked(wanted, row))
    assert min(columns) < PROMPTS.shape[1], "the ring of columns went round"


def test_layers_taken_apart_answer_alike(model, seen, uncached):
    wanted, order = expected(uncached), [2, 0, 1]
    answers, _ = refilled(model, seen, order, places=2, apart=True)
    for answer, row in zip(answers, order, strict=True):
        assert_same(answer, picked(wanted, row))


def test_a_prefix_read_once_changes_nothing(model, seen):
    same = np.array([0, 0, 0])  # prompts that begin alike
    ids = PROMPTS[same].copy()
    ids[1, -1], ids[2, -2] = 20, 33
    read = decoding.read_prefix(model, ids[:1, :IMAGE_INDEX])
    run = functools.partial(jax.jit(decoding.prefill, static_argnames=(
        "image_index", "rules", "columns")), model, ids, VALID[same], Seen.from_rows(seen),
        rules_of(), image_index=IMAGE_INDEX,
        columns=ids.shape[1] - 1 + model.config.vision.num_patches, number=ZEROS)
    ours, wanted = run(prefix=read), run()
    assert_close(ours.hidden, wanted.hidden)
    assert_close(ours.cache.key, wanted.cache.key)
