"""Lines of a batch job as they come, in files that are complete or not there at all.

Object stores cannot append, so every part is a file of its own that gets its name when it is
complete. What is not in a part yet is lost when the process is killed, and done again.
"""

import dataclasses
import json
import threading
import time
import uuid

from etils import epath

from input_pipeline import files

PART_LINES, PART_BYTES = 1000, 8 << 20
MOST_BYTES = 64 << 20  # of lines that wait for a slow disk; then whoever adds more waits too
FOLDER, UNFINISHED = "parts", "unfinished"


@dataclasses.dataclass(frozen=True)
class Share:
    """The photos of one of `count` hosts: every count-th, from the index-th on."""

    index: int = 0
    count: int = 1

    def of(self, number: int) -> range:
        """Which of `number` photos are its."""
        return range(self.index, number, self.count)

    @property
    def suffix(self) -> str:
        """What tells its files from those of other shares."""
        return "" if self.count == 1 else f"-{self.index}-of-{self.count}"


class Parts:
    """Collects lines and writes a part every so often, in a thread of its own. Use as a context.

    Leaving the context writes what is left, also after an error.
    """

    def __init__(self, output: epath.Path, share: Share, *, flush_seconds: float):
        """Parts of `share` below output/parts, each at most about `flush_seconds` apart."""
        self.folder, self._seconds = output / FOLDER, flush_seconds
        self._prefix = f"{share.index}-of-{share.count}"
        self._run = uuid.uuid4().hex[:8]  # no two runs write the same part
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._bytes = self._written = 0
        self._closing, self._error = False, None
        self._thread = threading.Thread(target=self._work, daemon=True, name="parts")

    @property
    def temporary(self) -> epath.Path:
        """How the names of this run's unfinished files begin."""
        return self.folder / f"{UNFINISHED}-{self._prefix}-{self._run}"

    def __enter__(self) -> "Parts":
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in list(self.folder.iterdir()):
            if path.name.startswith(f"{UNFINISHED}-{self._prefix}-"):  # of a run that was killed
                path.unlink(missing_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._error:
            raise self._error

    def add(self, line: dict) -> None:
        """Take one line. Raises the error of a part that could not be written."""
        encoded = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        with self._changed:
            while self._bytes > MOST_BYTES and not self._error:
                self._changed.wait()
            if self._error:
                raise self._error
            self._lines.append(encoded)
            self._bytes += len(encoded)
            if self._full():
                self._changed.notify_all()

    def _full(self) -> bool:
        return len(self._lines) >= PART_LINES or self._bytes >= PART_BYTES

    def _work(self) -> None:
        due = time.monotonic() + self._seconds
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing or self._full(),
                                           timeout=max(0, due - time.monotonic()))
                    lines, self._lines, self._bytes = self._lines, [], 0
                    last = self._closing
                    self._changed.notify_all()
                if lines:
                    self._write(lines)
                if last:
                    return
                due = time.monotonic() + self._seconds
        except Exception as error:  # `add` and `__exit__` raise it where it is seen
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _write(self, lines: list[bytes]) -> None:
        self._written += 1
        name = f"part-{self._prefix}-{self._run}-{self._written:06d}.jsonl"
        temporary = self.temporary
        files.write_bytes(self.folder / name, b"".join(lines),
                          temporary=temporary.parent / f"{temporary.name}-part")
