"""train/speed.py: what counts as time, and the rates made of it, on a clock of the test."""

import logging

import pytest
from etils import epath
from random_models import READING

from experiments import tiny
from legion_jax import chips
from legion_jax.config import tiny as tiny_model
from legion_jax.train import metrics_log, setup, speed
from legion_jax.train.knobs import RunSettings


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


def updates(clock, run, lengths):
    """Updates that take 2 s each, and 50 s more to compile, as `legion_jax.train.run` does them."""
    for length in lengths:
        if run.is_new(length):
            with run.apart(()):
                clock.now += 50
        clock.now += 2
        run.count(length)


def started(clock, lengths, peak=None):
    """The speed of a run after these updates."""
    run = speed.Speed(4, lambda length: 1000.0 * length, peak=peak)
    clock.now += 30  # the first batch is prepared
    updates(clock, run, lengths)
    return run


def test_compiling_counts_neither_as_time_nor_the_wait_for_the_first_batch(clock):
    run = started(clock, [8, 8, 16, 8, 16])
    assert run.look([10, 20, 30, 40, 50]) == {
        "updates_per_second": 0.5, "examples_per_second": 2.0, "tokens_per_second": 15.0}
    assert run.settled == 2
    updates(clock, run, [16])
    clock.now += 6  # waiting for data is part of how fast a run is
    assert run.look([80])["tokens_per_second"] == 10


def test_operations_follow_the_length_of_each_batch(clock):
    run = started(clock, [8, 16, 8, 16, 16], peak=1e5)
    assert run.look([1] * 5)["mfu"] == pytest.approx(1000 * (3 * 16 + 2 * 8) / 10 / 1e5)


def test_what_is_not_known_is_not_told(clock):
    assert started(clock, []).look([]) == {}
    assert started(clock, [8, 8]).look([0, 0]).keys() == {
        "updates_per_second", "examples_per_second"}
    with pytest.raises(ValueError, match="tokens of 1 updates, but there were 2"):
        started(clock, [8, 8]).look([1])


def test_what_happens_apart_is_left_out(clock):
    run = started(clock, [8, 8])
    with run.apart(()):
        clock.now += 1000
    assert run.look([1, 1])["updates_per_second"] == 0.5


def test_a_known_chip_gives_the_share_of_its_peak(clock, monkeypatch):
    settings = RunSettings.from_config(tiny.get_config(), without_data=True)
    model = tiny_model()
    spec = setup.example_spec(settings.data, model)
    assert "mfu" not in rates_of(settings, model, spec, clock)  # a CPU
    monkeypatch.setattr(chips, "find", lambda kind: chips.Chip(kind, 1e12))
    each = [speed.photo_flops(settings, model, spec, READING, text=n).model
            for n in (144, 90)]
    assert rates_of(settings, model, spec, clock)["mfu"] == pytest.approx(
        settings.batch_size * sum(each) / 4 / (8 * 1e12))  # eight devices
    assert each[0] > each[1]


def rates_of(settings, model, spec, clock) -> dict:
    run = speed.of_run(settings, model, spec, READING)
    updates(clock, run, (144, 90, 144, 90))
    return run.look([1] * 4)


@pytest.mark.parametrize("rates, shown", [
    ({}, "learning_rate 0.5"),
    ({"updates_per_second": 0.5, "examples_per_second": 8.04},
     "learning_rate 0.5  8.0 examples/s  4.0 s left"),
    ({"updates_per_second": 0.01, "examples_per_second": 8.04, "tokens_per_second": 12345.6,
      "mfu": 0.4126}, "8.0 examples/s  12,346 tokens/s  MFU 41.3 %  3 min 20 s left")])
def test_the_line_of_the_console(tmp_path, caplog, rates, shown):
    log = metrics_log.MetricsLog(epath.Path(tmp_path), start=0, total=4)
    names = ("loss", "ce", "bce", "dice", "verdict", "grad_norm", "learning_rate")
    with caplog.at_level(logging.INFO, "legion_jax"):
        log.write([(step, dict.fromkeys(names, 0.5)) for step in (0, 1)], rates)
    log.close()
    assert caplog.messages[-1].startswith("step 2/4  loss 0.5  ce 0.5")
    assert caplog.messages[-1].endswith(shown)
    assert "second" not in (tmp_path / "metrics.jsonl").read_text()
