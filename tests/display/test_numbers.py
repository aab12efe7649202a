"""Numbers as people read them."""

import pytest

from legion_jax.display import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 %"), (0.004, "< 1 %"), (0.5, "50 %"), (0.973, "97 %"), (0.999, "> 99 %"), (1, "100 %")],
)
def test_shares(value, text):
    assert numbers.share(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 %"), (1e-5, "< 0.01 %"), (2e-4, "0.02 %"), (0.0149, "1.5 %"),
                        (0.37, "37 %"), (0.996, "100 %"), (1, "100 %")])
def test_percent(value, text):
    assert numbers.percent(value) == text


def test_scores():
    assert [numbers.score(value) for value in (None, 0, 0.8126)] == ["–", "0.000", "0.813"]
    assert [numbers.signed(value) for value in (0.0124, -0.5)] == ["+0.012", "−0.500"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.35, "0.35"), (12, "12"), (1500, "1.5k"), (2e5, "200k"), (2e-5, "2e-5"),
     (1.25e-4, "1.25e-4"), (3e6, "3e6")],
)
def test_compact_numbers(value, text):
    assert numbers.compact(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(12.34, "12.3 s"), (245.9, "4 min 5 s"),
                                               (7380, "2 h 3 min")])
def test_durations(seconds, text):
    assert numbers.duration(seconds) == text
