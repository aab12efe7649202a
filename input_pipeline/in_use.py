"""One process at a time in a folder: who is there, and whether it still is.

On a disk the process holds a lock on `in_use.json`, which the system takes away when the process
ends, however it ends; so the next one is let in at once.

A bucket has no locks. There, and on a disk without them, whoever is in the folder writes
`in_use.json` anew every BEAT_SECONDS. Another process that wants the folder goes by these rules:

* The file names a process of this very machine that is not there any more: let in at once.
* The file was written STALE_SECONDS ago or earlier: let in at once. Its age is told by the bucket,
  which stamps this file and one that the asking process writes; no clocks of two machines are
  compared.
* Else the file is watched until it has that age. If it changes meanwhile, somebody is there, and
  the asking process is refused; if it does not, it is let in.

A process that was let in too early, because the other one had been stopped or cut off for so long,
is noticed by the other one at its next beat, which then ends: it would write the same files.
"""

import contextlib
import dataclasses
import datetime
import errno
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator

from etils import epath

from input_pipeline import buckets, files
from input_pipeline.errors import OneLineError, first_line
from input_pipeline.paths import is_uri, parse

LOG = logging.getLogger("input_pipeline")
FILE = "in_use.json"
BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0  # a dozen beats: an outage of the network may last as long
LOOK_SECONDS = 0.5  # between two looks at a file that is watched
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


class InUseError(OneLineError):
    """A folder that another process works in; the message names both."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """A process that works in a folder.

    Attributes:
        since: when it came, by its machine's clock, for people to read.
        token: that no other has.
        machine: which start of which machine, and which of its sets of process numbers; "" where
            that cannot be told.
        started: when the process was started, in ticks of its machine; tells it from a later one
            with its number.
    """

    host: str
    pid: int
    since: str
    token: str
    machine: str
    started: int

    @classmethod
    def this(cls) -> "Holder":
        """The process that asks."""
        now = datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds")
        return cls(socket.gethostname(), os.getpid(), now, secrets.token_hex(8), _machine(),
                   _started(os.getpid()) or 0)

    @classmethod
    def parse(cls, content: bytes) -> "Holder | None":
        """Of a file's content; None where it says nothing of the kind."""
        try:
            values = json.loads(content)
            values.pop("beat", None)
            holder = cls(**values)
        except (ValueError, TypeError, AttributeError, RecursionError):
            return None
        types = [type(value) for value in dataclasses.astuple(holder)]
        return holder if types == [str, int, str, str, str, int] else None

    def content(self, beat: int = 0) -> bytes:
        """What the file holds; each beat has another content."""
        return json.dumps(dataclasses.asdict(self) | {"beat": beat}).encode() + b"\n"

    def is_gone(self) -> bool:
        """Whether this machine knows that the process has ended; False where it cannot tell."""
        return bool(self.machine) and self.machine == _machine() and (
            _started(self.pid) != self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextlib.contextmanager
def alone(folder: epath.PathLike, work: str) -> Iterator[None]:
    """Keeps other processes that ask for the same out of a folder as long as the block lasts.

    The folder is made if it is not there. Of several processes that work together one has to ask.

    Args:
        work: what is done there, e.g. "training", for the message to others.

    Raises InUseError naming the other process; in a bucket after BEAT_SECONDS or so.
    """
    folder = parse(folder)
    if is_uri(folder):
        with _beating(folder, work):
            yield
        return
    new = not folder.exists()
    try:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(_locked(folder, work))
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                LOG.warning("%s: no locks there (%s); %s is written every %g s instead", folder,
                            error.strerror, FILE, BEAT_SECONDS)
                held.enter_context(_beating(folder, work))
            yield
    finally:
        if new:  # perhaps nothing was made of it
            files.remove_if_empty(folder)


@contextlib.contextmanager
def _locked(folder: epath.Path, work: str) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        try:
            file = held.enter_context(files.locked_file(folder / FILE, _TakenError()))
        except _TakenError as taken:
            raise _refusal(folder, work, _just_written(folder / FILE)) from taken
        file.write(Holder.this().content())
        file.flush()
        yield


class _TakenError(Exception):
    """Others hold the lock."""


@contextlib.contextmanager
def _beating(folder: epath.Path, work: str) -> Iterator[None]:
    heart = _Heart(folder, work)
    heart.claim()
    thread = threading.Thread(target=heart.beat, name="in use", daemon=True)
    thread.start()
    try:
        yield
    finally:
        heart.ended.set()
        thread.join(STALE_SECONDS)
        heart.leave()


class _Heart:
    """The file that says by its changes that a process is still there."""

    def __init__(self, folder: epath.Path, work: str):
        self._folder, self._work, self._path = folder, work, folder / FILE
        self._me, self.ended = Holder.this(), threading.Event()

    def claim(self) -> None:
        """Write the file, once nobody else does. Raises InUseError."""
        while not buckets.create(self._path, self._me.content()):
            content = _read(self._path)
            holder = content and Holder.parse(content)
            if content is None:
                continue
            if holder and holder.is_gone():
                LOG.info("%s: %s is not there any more", self._folder, holder)
            else:
                self._watch(content)
            if _read(self._path) == content:
                self._path.unlink(missing_ok=True)

    def beat(self) -> None:
        """Write the file again and again until `ended`; ends the process if others have taken it.
        """
        number, failing = 0, False
        while not self.ended.wait(BEAT_SECONDS):
            number += 1
            try:
                content = _read(self._path)
                if content is not None and not self._is_mine(content):
                    return self._end(content)
                if content is not None:
                    files.write_bytes(self._path, self._me.content(number))
                elif not self.ended.is_set():  # somebody has removed it
                    buckets.create(self._path, self._me.content(number))
                failing = False
            except Exception as error:
                if not failing:
                    LOG.warning("%s: cannot be written (%s); tried again every %g s", self._path,
                                first_line(error), BEAT_SECONDS)
                failing = True

    def leave(self) -> None:
        """Remove the file; what cannot be removed counts for nothing after STALE_SECONDS."""
        try:
            content = _read(self._path)
            if content is not None and self._is_mine(content):
                self._path.unlink(missing_ok=True)
        except Exception as error:
            LOG.warning("%s: cannot be removed: %s", self._path, first_line(error))

    def _is_mine(self, content: bytes) -> bool:
        holder = Holder.parse(content)
        return holder is not None and holder.token == self._me.token

    def _watch(self, content: bytes) -> None:
        """Return when the file has not changed for long; raise InUseError when it changes."""
        left = STALE_SECONDS - buckets.age(self._path)
        subject = f"{self._folder}: {_described(content)}"
        if left > 0:
            LOG.info("%s: looking for up to %.0f s whether it is still there", subject, left)
        end = time.monotonic() + left
        while time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
            if (now := _read(self._path)) is None:
                return
            if now != content:
                raise _refusal(self._folder, self._work, now)
        LOG.warning("%s: has not been heard of for %.0f s, so it counts as ended", subject,
                    STALE_SECONDS)

    def _end(self, content: bytes) -> None:
        print(f"error: {self._folder}: taken over by {_described(content)}, because this process "
              f"had not been heard of for {STALE_SECONDS:.0f} s", file=sys.stderr, flush=True)
        os._exit(1)  # what the main thread writes meanwhile would spoil the other's


def _refusal(folder: epath.Path, work: str, content: bytes | None) -> InUseError:
    return InUseError(f"{folder}: another {work} is at it: {_described(content or b'')}; wait for "
                      f"it or end it, or choose another folder")


def _described(content: bytes) -> str:
    return str(Holder.parse(content) or f"a process that {FILE} does not name")


def _read(path: epath.Path) -> bytes | None:
    try:
        return path.read_bytes()[:10_000]
    except FileNotFoundError:
        return None


def _just_written(path: epath.Path) -> bytes | None:
    """As `_read`, of a file that is locked a moment before it is written."""
    for _ in range(20):
        if content := _read(path):
            return content
        time.sleep(0.05)
    return None


def _machine() -> str:
    try:
        boot = parse("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Ticks from the machine's start to the process's; None where no such process runs."""
    try:
        state, *fields = parse(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    except (OSError, ValueError, IndexError):
        return None
