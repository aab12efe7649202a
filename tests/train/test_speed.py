"""train/speed.py: what counts as time, and the rates made of it, on a clock of the test."""

import logging

import numpy as np
import pytest

from experiments import tiny
from legion_jax import chips
from legion_jax.config import tiny as tiny_model
from legion_jax.train import metrics_log, setup, speed


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    return clock


def batch(length):
    return {"ids": np.zeros((4, length), np.int32)}


def updates(clock, *, lengths, peak=None):
    """(Speed, step) after updates that take 2 s each, and 50 s more when they compile."""
    seen, found = set(), speed.Speed(4, lambda length: 1000.0 * length, peak=peak)

    def step(state, frozen, batch):
        length = batch["ids"].shape[1]
        clock.now += 2 if length in seen else 52
        seen.add(length)
        return state, {}

    watched = found.watch(step)
    clock.now += 30  # the first batch is prepared
    for length in lengths:
        watched(0, None, batch(length))
    return found, watched


def test_first_calls_of_a_length_count_neither_as_time_nor_as_updates(clock):
    found, step = updates(clock, lengths=[8, 8, 16, 8, 16])
    rates = found.look([10, 20, 30, 40, 50])
    assert rates == {"updates_per_second": 0.5, "examples_per_second": 2.0,
                     "tokens_per_second": pytest.approx((20 + 40 + 50) / 6)}
    assert found.settled == 2
    step(0, None, batch(16))
    clock.now += 6  # waiting for data is part of how fast a run is
    assert found.look([80])["tokens_per_second"] == 10


def test_operations_follow_the_length_of_each_batch(clock):
    found, step = updates(clock, lengths=[8, 16, 8, 16, 16], peak=1e5)
    rates = found.look([1] * 5)
    assert rates["mfu"] == pytest.approx(1000 * (8 + 16 + 16) / 6 / 1e5)


def test_what_is_not_known_is_not_told(clock):
    found, _ = updates(clock, lengths=[8])
    assert found.look([10]) == {}
    found, _ = updates(clock, lengths=[8, 8])
    assert found.look([0, 0]).keys() == {"updates_per_second", "examples_per_second"}


def test_what_happens_apart_is_left_out(clock):
    found, step = updates(clock, lengths=[8, 8])
    with found.apart(()):
        clock.now += 1000
    assert found.look([1, 1])["updates_per_second"] == 0.5


def test_a_known_chip_gives_the_share_of_its_peak(clock, monkeypatch):
    config, model = tiny.get_config(), tiny_model()
    spec = setup.example_spec(config, model)
    assert "mfu" not in rates_of(config, model, spec, clock)  # a CPU
    monkeypatch.setattr(chips, "peak_flops", lambda kind: 1e12)
    each = [speed.photo_flops(config, model, spec, image_index=5, first_target=9, text=n).model
            for n in (144, 90)]
    assert rates_of(config, model, spec, clock)["mfu"] == pytest.approx(
        config.batch_size * sum(each) / 4 / (8 * 1e12))  # eight devices
    assert each[0] > each[1]


def rates_of(config, model, spec, clock) -> dict:
    found = speed.of_run(config, model, spec, image_index=5, first_target=9)

    def step(state, frozen, batch):
        clock.now += 2
        return state, {}

    watched = found.watch(step)
    for length in (144, 90, 144, 90):
        watched(0, None, batch(length))
    return found.look([1] * 4)


@pytest.mark.parametrize("rates, shown", [
    ({}, "learning_rate 0.5"),
    ({"updates_per_second": 0.5, "examples_per_second": 8.04},
     "learning_rate 0.5  8.0 examples/s  4.0 s left"),
    ({"updates_per_second": 0.01, "examples_per_second": 8.04, "tokens_per_second": 12345.6,
      "mfu": 0.4126}, "8.0 examples/s  12,346 tokens/s  MFU 41.3 %  3 min 20 s left")])
def test_the_line_of_the_console(tmp_path, caplog, rates, shown):
    log = metrics_log.MetricsLog(metrics_log.epath.Path(tmp_path), start=0, total=4)
    names = ("loss", "ce", "bce", "dice", "verdict", "grad_norm", "learning_rate")
    with caplog.at_level(logging.INFO, "legion_jax"):
        log.write([(step, dict.fromkeys(names, 0.5)) for step in (0, 1)], rates)
    log.close()
    assert caplog.messages[-1].startswith("step 2/4  loss 0.5  ce 0.5")
    assert caplog.messages[-1].endswith(shown)
    assert "second" not in (tmp_path / "metrics.jsonl").read_text()
