"""legion_jax/predict/queues.py: work in threads within a number of bytes, and its errors."""

import threading
import time

import pytest

from legion_jax.predict.queues import WriteBehind


def test_all_that_was_submitted_is_done_at_the_end():
    done = []
    with WriteBehind(threads=3, limit=10) as behind:
        for number in range(50):
            behind.submit(done.append, number, nbytes=3)
    assert sorted(done) == list(range(50))


def test_no_more_is_held_than_the_limit_and_what_is_larger_goes_alone():
    running, most, lock = [], [], threading.Lock()

    def work(size):
        with lock:
            running.append(size)
            most.append(list(running))
        time.sleep(0.01)
        with lock:
            running.remove(size)

    with WriteBehind(threads=8, limit=10) as behind:
        for size in (4, 5, 6, 99, 3, 3, 3, 3):
            behind.submit(work, size, nbytes=size)
    assert max(sum(group) for group in most if 99 not in group) <= 10
    assert [group for group in most if 99 in group] == [[99]]
    assert max(map(len, most)) > 1


def test_an_error_comes_up_and_ends_the_work():
    done = []

    def fail():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"), WriteBehind(threads=1, limit=1) as behind:
        behind.submit(fail, nbytes=1)
        for number in range(9):
            behind.submit(done.append, number, nbytes=1)
    assert not done
