"""predict/sampling.py against transformers' logits processors, and what draws depend on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.generation import NoRepeatNGramLogitsProcessor, TopPLogitsWarper

from input_pipeline.errors import UserError
from legion_jax.predict.sampling import Sampling, ban_repeats, choose, keep_top_p

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(5, 40)).astype(np.float32) * 2
SEG, CLOSE = 7, 9
pick = functools.partial(choose, seg_id=SEG, close_id=CLOSE)
TOKENS = np.zeros((5, 6), np.int32)
LENGTH, NUMBERS = np.zeros(5, np.int32), np.arange(5, dtype=np.uint32)


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
def test_top_p_keeps_what_transformers_keeps(top_p):
    wanted = TopPLogitsWarper(top_p)(None, torch.from_numpy(LOGITS)).numpy()
    ours = np.asarray(keep_top_p(LOGITS, top_p))
    np.testing.assert_array_equal(ours > np.finfo(np.float32).min, np.isfinite(wanted))
    assert ((ours > np.finfo(np.float32).min).sum(1) >= 1).all()


@pytest.mark.parametrize("run", [1, 2, 3, 8])
def test_banned_are_those_that_transformers_bans(run):
    """Few different tokens, so that runs repeat; and answers shorter than a run."""
    for length in (0, 1, 2, 7, 12):
        tokens = RNG.integers(0, 3, (5, 12)).astype(np.int32)
        ours = np.asarray(ban_repeats(jnp.asarray(LOGITS), tokens, np.full(5, length), run))
        banned = ours == np.finfo(np.float32).min
        if not length:  # transformers has always a prompt
            assert not banned.any()
            continue
        wanted = NoRepeatNGramLogitsProcessor(run)(
            torch.from_numpy(tokens[:, :length]).long(), torch.from_numpy(LOGITS)).numpy()
        np.testing.assert_array_equal(banned, np.isinf(wanted))


def test_greedy_takes_the_most_probable():
    token = pick(LOGITS, TOKENS, LENGTH, NUMBERS, sampling=Sampling())
    np.testing.assert_array_equal(token, LOGITS.argmax(1))


def test_draws_follow_the_softmax_and_the_number_alone():
    sampling = Sampling(temperature=0.7, seed=3)
    many = 4000
    numbers = np.arange(many, dtype=np.uint32)
    row = np.broadcast_to(LOGITS[:1], (many, 40))
    draw = jax.jit(functools.partial(pick, sampling=sampling))
    drawn = np.asarray(draw(row, np.zeros((many, 6), np.int32), np.zeros(many, int), numbers))
    wanted = np.exp(LOGITS[0] / 0.7) / np.exp(LOGITS[0] / 0.7).sum()
    assert np.abs(np.bincount(drawn, minlength=40) / many - wanted).max() < 0.03
    # Neither the place in the batch nor what the others are matters; the step and the seed do.
    turned = np.asarray(draw(row, np.zeros((many, 6), np.int32), np.zeros(many, int),
                             numbers[::-1]))
    np.testing.assert_array_equal(turned[::-1], drawn)
    later = draw(row, np.zeros((many, 6), np.int32), np.ones(many, int), numbers)
    other = pick(row, np.zeros((many, 6), np.int32), np.zeros(many, int), numbers,
                 sampling=Sampling(temperature=0.7, seed=4))
    assert (later != drawn).mean() > 0.3 and (other != drawn).mean() > 0.3


def test_a_cold_draw_is_greedy():
    token = pick(LOGITS, TOKENS, LENGTH, NUMBERS, sampling=Sampling(temperature=1e-3))
    np.testing.assert_array_equal(token, LOGITS.argmax(1))
    token = pick(LOGITS, TOKENS, LENGTH, NUMBERS, sampling=Sampling(temperature=5, top_p=1e-6))
    np.testing.assert_array_equal(token, LOGITS.argmax(1))


def test_seg_is_forced_behind_the_end_of_a_phrase_only():
    tokens, length = np.full((5, 6), CLOSE, np.int32), np.array([0, 1, 2, 3, 6])
    tokens[2, 1] = 4
    token = pick(LOGITS, tokens, length, NUMBERS, sampling=Sampling(force_seg=True))
    forced = [False, True, False, True, True]  # nothing said yet; </p>; another word; </p>; </p>
    np.testing.assert_array_equal(token, np.where(forced, SEG, LOGITS.argmax(1)))
    free = pick(LOGITS, tokens, length, NUMBERS, sampling=Sampling())
    np.testing.assert_array_equal(free, LOGITS.argmax(1))


@pytest.mark.parametrize("bad", [dict(temperature=-1), dict(temperature=float("nan")),
                                 dict(top_p=0), dict(top_p=1.1), dict(no_repeat=-1),
                                 dict(seed=-1), dict(seed=2 ** 32)])
def test_impossible_settings_are_refused_by_name(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        Sampling(**bad)
