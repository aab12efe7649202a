"""Threads before and behind the predictor, each side within a number of bytes.

`ReadAhead` reads and decodes photos before they are asked for; `WriteBehind` does what is handed
over while its owner goes on.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np

from input_pipeline.photos import images
from input_pipeline.photos.images import ImageError

POLL_SECONDS = 0.1  # how often a waiting consumer looks whether it was stopped by a signal


class WriteBehind:
    """Runs functions in threads; whoever submits waits while they hold too much. Use as a context.

    The first error of any of them is raised by the next `submit` or at the end of the context, and
    what was submitted after it is not begun.
    """

    def __init__(self, *, threads: int, limit: int):
        """`limit`: bytes of all that is submitted and not finished; one that is larger goes alone.
        """
        self._limit, self._held, self._error = limit, 0, None
        self._changed = threading.Condition()
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="writer")

    def __enter__(self) -> "WriteBehind":
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown()
        if self._error:
            raise self._error

    def submit(self, function: Callable[..., None], *args, nbytes: int) -> None:
        """Run `function(*args)`, which holds `nbytes` meanwhile, as soon as there is room."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or not self._held or self._held + nbytes <= self._limit)
            if self._error:
                raise self._error
            self._held += nbytes
        self._pool.submit(self._run, function, args, nbytes)

    def _run(self, function: Callable[..., None], args: tuple, nbytes: int) -> None:
        try:
            if not self._error:
                function(*args)
        except BaseException as error:
            self._error = self._error or error
        finally:
            with self._changed:
                self._held -= nbytes
                self._changed.notify_all()


class Source(Protocol):
    """What a source of photos gives, by the number of a photo; see `photo_sources`."""

    def image(self, index: int) -> str: ...
    def size(self, index: int) -> int: ...
    def read(self, index: int, limit: int) -> tuple[str, bytes]: ...


@dataclasses.dataclass(frozen=True)
class Limits:
    """What reading ahead may take.

    Attributes:
        file_bytes: of one encoded file; above it the photo is refused.
        queue_bytes: of all photos that are read, decoded or waited for, up to `release`. One photo
            more is let in whenever the consumer would wait for ever otherwise.
        photos: decoded ones that wait; threads: that read and decode.
        sam_longest: pixels of the longer side in SAM's view; photos that vanish in it are refused.
            0: there is no such view.
    """

    file_bytes: int = images.MAX_BYTES
    queue_bytes: int = 1 << 30
    photos: int = 64
    threads: int = 4
    sam_longest: int = 1024


@dataclasses.dataclass(frozen=True)
class Photo:
    """A decoded photo: its number in the source, what people call it, and uint8[H, W, 3]."""

    index: int
    image: str
    pixels: np.ndarray


class ReadAhead:
    """Iterates over photos, in the order in which they become ready. Use as a context.

    Every photo is either yielded or given to `on_failure`, once, unless `stop` was called. Call
    `release` for each that was yielded when its pixels are no longer held.
    """

    def __init__(self, source: Source, indices: Iterable[int], *, limits: Limits,
                 on_failure: Callable[[int, str, str], None]):
        """`on_failure(index, image, sentence)` is called by the reading threads."""
        self._source, self._limits, self._on_failure = source, limits, on_failure
        self._indices = iter(indices)
        self._changed = threading.Condition()
        self._ready: collections.deque[Photo] = collections.deque()
        self._held: dict[int, int] = {}  # bytes of every photo from its reading to its release
        self._total = self._reading = 0
        self._hungry = self._stopped = False
        self._error: BaseException | None = None
        self._threads = [threading.Thread(target=self._run, daemon=True, name=f"reader {k}")
                         for k in range(limits.threads)]
        self._running = len(self._threads)

    def __enter__(self) -> "ReadAhead":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()
        for thread in self._threads:
            thread.join()

    def __iter__(self) -> Iterator[Photo]:
        while (photo := self._next()) is not None:
            yield photo

    def stop(self) -> None:
        """Yield nothing more. May be called by a signal's handler: takes no lock."""
        self._stopped = True

    def release(self, index: int) -> None:
        """The pixels of a photo that was yielded are gone."""
        with self._changed:
            self._total -= self._held.pop(index)
            self._changed.notify_all()

    def _next(self) -> Photo | None:
        with self._changed:
            self._hungry = True
            self._changed.notify_all()
            while not (self._ready or self._stopped or self._error or not self._running):
                self._changed.wait(POLL_SECONDS)
            self._hungry = False
            if self._error:
                raise self._error
            if self._stopped or not self._ready:
                return None
            self._changed.notify_all()
            return self._ready.popleft()

    def _run(self) -> None:
        try:
            while (index := self._take_number()) is not None:
                self._one(index)
        except BaseException as error:  # of on_failure, or a mistake here: the consumer's to raise
            self._error = error
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _take_number(self) -> int | None:
        with self._changed:
            if self._stopped or self._error:
                return None
            index = next(self._indices, None)
            self._reading += index is not None
            return index

    def _one(self, index: int) -> None:
        """Read and decode a photo; it is ready, or failed, or the job was stopped."""
        image = self._source.image(index)
        photo = None
        with contextlib.suppress(_Stopped):
            try:
                size = self._source.size(index)
                images.check_bytes(size, self._limits.file_bytes, name=image)
                self._grow(index, size)
                image, content = self._source.read(index, self._limits.file_bytes)
                photo = self._decode(index, image, content)
            except Exception as error:  # clients of clouds and damaged files raise nearly anything
                self._on_failure(index, image, " ".join(str(error).split()) or type(error).__name__)
        with self._changed:
            self._reading -= 1
            self._total += (photo.pixels.nbytes if photo else 0) - self._held.pop(index, 0)
            if photo:
                self._held[index] = photo.pixels.nbytes
                self._ready.append(photo)
            self._changed.notify_all()

    def _decode(self, index: int, image: str, content: bytes) -> Photo:
        with images.opened(content, image) as header:  # whose pixels are not decoded yet
            needed = images.decoding_bytes(header)
        try:
            if self._limits.sam_longest:
                images.check_sam_size(header.height, header.width, self._limits.sam_longest)
        except ImageError as error:
            raise ImageError(f"{image}: {error}") from error
        self._grow(index, len(content) + needed)
        return Photo(index, image, images.read_image(content, name=image))

    def _grow(self, index: int, needed: int) -> None:
        """Wait until a photo may take `needed` bytes in all."""
        with self._changed:
            more = max(0, needed - self._held.get(index, 0))
            self._reading -= 1  # it waits
            while not (self._stopped or self._error or self._fits(more)):
                self._changed.wait(POLL_SECONDS)
            self._reading += 1
            if self._stopped or self._error:
                raise _Stopped
            self._held[index] = self._held.get(index, 0) + more
            self._total += more

    def _fits(self, more: int) -> bool:
        if self._hungry and not self._ready and not self._reading:
            return True  # nobody else would ever make room
        return (len(self._ready) < self._limits.photos
                and self._total + more <= self._limits.queue_bytes)


class _Stopped(BaseException):
    """Unwinds a reading thread."""
