"""Work that threads do behind whoever hands it over, within a number of bytes."""

import concurrent.futures
import threading
from collections.abc import Callable


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
