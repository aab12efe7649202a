"""How far a batch job is: a bar on a terminal, a line a minute elsewhere."""

import collections
import sys
import threading
import time

from tqdm import tqdm

from legion_jax.display import numbers

WINDOW_SECONDS = 120  # over which the speed is taken
LINE_SECONDS = 60
SHOWN_FAILURES = 20  # sentences; more of them would bury everything else


class Progress:
    """Counts photos that are done or left out, from any thread. Use as a context."""

    def __init__(self, total: int, *, done: int, failed: int):
        """`total` photos, of which earlier runs did `done`, `failed` of these without a result."""
        self.total, self.done, self.failed = total, done, failed
        self.new_failures, self._begin = 0, done
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._started = time.monotonic()
        self._seen = collections.deque([(self._started, done)])
        self._bar = tqdm(total=total, initial=done, desc="predicting", unit="photo",
                         disable=not sys.stderr.isatty())
        self._thread = threading.Thread(target=self._work, daemon=True, name="progress")

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._closing.set()
        self._thread.join()
        self._bar.close()

    def add(self, failure: str | None = None) -> None:
        """One photo more; `failure` is why it is left out."""
        with self._lock:
            self.done += 1
            if failure is not None:
                self.failed += 1
                self.new_failures += 1
                if self.new_failures <= SHOWN_FAILURES:
                    self._bar.write(f"skipped: {failure}", file=sys.stderr)
                if self.new_failures == SHOWN_FAILURES:
                    self._bar.write("further failures are only counted here; failures.jsonl will "
                                    "have them all", file=sys.stderr)
            self._bar.set_postfix(failed=self.failed, refresh=False)
            self._bar.update()

    def speed(self) -> float:
        """Photos per second over the last WINDOW_SECONDS."""
        with self._lock:
            now, done = time.monotonic(), self.done
            self._seen.append((now, done))
            while len(self._seen) > 2 and self._seen[1][0] < now - WINDOW_SECONDS:
                self._seen.popleft()
            began, before = self._seen[0]
        return (done - before) / max(now - began, 1e-9)

    def line(self) -> str:
        """12,345 of 1,000,000 photos, 3 left out, 10.2 photos/s, 26 h 54 min left."""
        speed = self.speed()
        left = (f", {numbers.duration((self.total - self.done) / speed)} left" if speed else "")
        return (f"{self.done:,} of {self.total:,} photos, {self.failed:,} left out, "
                f"{speed:.1f} photos/s{left}")

    def summary(self) -> str:
        """What this run did: 1,234 photos in 2 min 3 s, 10.0 photos/s."""
        seconds, new = time.monotonic() - self._started, self.done - self._begin
        return f"{new:,} photos in {numbers.duration(seconds)}, {new / seconds:.1f} photos/s"

    def _work(self) -> None:
        while not self._closing.wait(LINE_SECONDS):
            if self._bar.disable:
                print(self.line(), file=sys.stderr, flush=True)
