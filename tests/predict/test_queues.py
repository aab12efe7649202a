"""legion_jax/predict/queues.py: photos read ahead and work done behind, within bytes."""

import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from input_pipeline.photos.images import FORMATS, OTHER_DECODING_BYTES
from legion_jax.predict.queues import Limits, ReadAhead, WriteBehind


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


class Photos:
    """Encoded photos in memory; counts what is read at once."""

    def __init__(self, sizes, *, pause=0.0):
        self.contents = [png(*size) if isinstance(size, tuple) else size for size in sizes]
        self.read_so_far, self._pause = 0, pause

    def image(self, index):
        return f"photo {index}"

    def size(self, index):
        return len(self.contents[index])

    def read(self, index, limit):
        self.read_so_far += 1
        time.sleep(self._pause)
        if isinstance(self.contents[index], Exception):
            raise self.contents[index]
        return f"photo {index}", self.contents[index]


class BucketError(Exception):
    """Its length is asked for before it is raised."""

    def __len__(self):
        return 0


def png(height, width):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (9, 8, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def ahead(source, failed=None, **limits):
    failures = [] if failed is None else failed
    return ReadAhead(source, range(len(source.contents)), limits=Limits(**limits),
                     on_failure=lambda *what: failures.append(what))


@pytest.mark.parametrize("threads", [1, 3])
def test_every_photo_comes_once_or_fails_once(threads):
    source = Photos([(8, 9), b"text", (10, 7), BucketError("no  such\nbucket"), (3, 3), (1, 199),
                     b""])
    failed, seen = [], {}
    with ahead(source, failed, threads=threads, sam_longest=64) as reading:
        for photo in reading:
            seen[photo.index] = photo.pixels.shape
            reading.release(photo.index)
        assert reading._total == 0
    assert seen == {0: (8, 9, 3), 2: (10, 7, 3), 4: (3, 3, 3)}
    formats = ", ".join(sorted(FORMATS))
    assert {index: why for index, _, why in failed} == {
        1: "photo 1: not an image that PIL can read as " + formats, 3: "no such bucket",
        5: "photo 5: 199 x 1 pixels vanish when the longer side is 64",
        6: "photo 6: not an image that PIL can read as " + formats}


def settled(source):
    """How many photos are read when the readers have come to rest."""
    before = -1
    while source.read_so_far != before:
        before = source.read_so_far
        time.sleep(0.15)
    return before


def test_reading_stops_at_the_bytes_of_the_queue():
    limit = (5 * 3 + OTHER_DECODING_BYTES) * 100 * 100 + 2000  # five decoded and one in work
    source = Photos([(100, 100)] * 30)
    with ahead(source, queue_bytes=limit, threads=2) as reading:
        photos = iter(reading)
        held = [next(photos)]
        at_rest = settled(source)
        assert 6 <= at_rest <= 8  # two wait for room to be decoded
        assert reading._total <= limit
        reading.release(held[0].index)
        next(photos)
        assert settled(source) > at_rest


def test_reading_stops_at_the_number_of_photos():
    source = Photos([(8, 8)] * 50)
    with ahead(source, photos=5, threads=2) as reading:
        next(iter(reading))
        assert settled(source) <= 1 + 5 + 2


def test_a_consumer_that_holds_everything_is_never_left_waiting():
    """As a predictor does that wants a whole batch of photos, each larger than the queue."""
    source = Photos([(200, 200)] * 12)
    with ahead(source, queue_bytes=1000, threads=3) as reading:
        photos = iter(reading)
        for _ in range(3):
            batch = [next(photos) for _ in range(4)]
            for photo in batch:
                reading.release(photo.index)
        assert next(photos, None) is None


def test_photos_above_the_limits_are_refused_before_they_are_read():
    source, failed = Photos([(50, 50), b"x" * 2001]), []
    with ahead(source, failed, file_bytes=2000) as reading:
        assert [photo.index for photo in reading] == [0]
    assert failed == [(1, "photo 1", "photo 1: 2001 bytes, limit 2000")]
    assert source.read_so_far == 1


def test_a_stopped_reader_yields_nothing_more_and_ends():
    source = Photos([(8, 8)] * 500, pause=0.01)
    with ahead(source, photos=4, threads=2) as reading:
        photos = iter(reading)
        next(photos)
        reading.stop()
        assert next(photos, None) is None
    assert source.read_so_far < 20
    assert not [t for t in threading.enumerate() if t.name.startswith("reader")]


def test_an_error_of_whoever_notes_failures_reaches_the_consumer():
    def full(*_):
        raise OSError(28, "No space left on device")

    reading = ReadAhead(Photos([b"", (8, 8)]), range(2), limits=Limits(threads=1), on_failure=full)
    with reading, pytest.raises(OSError, match="No space left"):
        list(reading)


def test_pixels_are_those_of_the_photo():
    with ahead(Photos([(4, 6)])) as reading:
        photo, = reading
    np.testing.assert_array_equal(photo.pixels, np.full((4, 6, 3), (9, 8, 7)))
    assert photo.pixels.dtype == np.uint8 and photo.image == "photo 0"
