"""legion_jax/train/run.py: how far the host may be ahead of its devices."""

import types

import jax

from legion_jax.train import run

SETTINGS = types.SimpleNamespace(log_every=100, data=types.SimpleNamespace(max_bad=1.0))


def test_all_but_the_last_updates_are_done(monkeypatch):
    waited = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    monkeypatch.setattr(jax, "process_index", lambda: 1)  # which writes no log
    metrics = run._Metrics(SETTINGS, None, None, None, None, start=0)
    for number in range(run.AHEAD + 3):
        metrics.add(number, {"loss": number})
    assert waited == [{"loss": number} for number in range(3)]
