"""Memory that ran out, said in one sentence: what was asked for, what there is, what to change.

A process that the system kills for want of memory cannot say anything; nor does this.
"""

import contextlib
import errno
import os
import re
import resource
import sys
from collections.abc import Iterator

from etils import epath

from input_pipeline.errors import OneLineError, UserError, first_line

# How XLA, its allocators and numpy say what they wanted.
ASKED = re.compile(r"(?:allocat\w*|Used)\D{0,40}?(\d[\d.]*) ?(bytes|[KMGTP]i?B?\b)", re.IGNORECASE)
UNITS = {letter: 1024 ** power for power, letter in enumerate("BKMGTP")}
WANT = re.compile(r"out of memory|allocat|\bhbm\b", re.IGNORECASE)
# Small memories inside a chip, which a kernel's own shape exceeds: nothing below helps there.
INSIDE = re.compile(r"\b[vs]mem\b|shared memory", re.IGNORECASE)


class OutOfMemoryError(OneLineError):
    """What was done does not fit the memory of this host or of its devices."""


@contextlib.contextmanager
def told(doing: str, change: str) -> Iterator[None]:
    """Raise OutOfMemoryError for what runs out of memory inside; all else passes.

    Args:
        doing: "loading weights"; the sentence says what was going on.
        change: what takes less memory there.
    """
    try:
        yield
    except Exception as error:
        if full := explained(error, doing, change):
            raise full from error
        raise


def explained(error: BaseException, doing: str, change: str) -> OutOfMemoryError | None:
    """The sentence for an error that is, or was raised because of, a lack of memory, else None.

    A UserError has its sentence already. The arguments are of `told`.
    """
    if (cause := _cause(error)) is None:
        return None
    asked = ASKED.search(str(cause))
    wanted = (f"{_size(_bytes(*asked.groups()))} were asked for" if asked else
              first_line(cause)[:200])
    on_device = _device() if _is_of_jax(cause) else None
    return OutOfMemoryError(
        f"out of memory while {doing}: {wanted}; {on_device or _host()}. Less is taken by {change}")


def _cause(error: BaseException | None) -> BaseException | None:
    """The lack of memory at the root of an error."""
    while error is not None and not isinstance(error, UserError):
        if _is_lack(error):
            return error
        error = error.__cause__ or error.__context__
    return None


def _is_lack(error: BaseException) -> bool:
    text = str(error)
    if _is_of_jax(error):
        return "RESOURCE_EXHAUSTED" in text and bool(
            WANT.search(text) and not INSIDE.search(text))
    return isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM or (
        isinstance(error, RuntimeError) and os.strerror(errno.ENOMEM) in text)  # as of PyTorch


def _is_of_jax(error: BaseException) -> bool:
    # One class by its names in several releases of JAX, which many commands do without.
    return type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")


def _bytes(number: str, unit: str) -> float:
    return float(number.rstrip(".")) * UNITS[unit[0].upper()]


def _size(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:,.{0 if unit == 'bytes' else 1}f} {unit}"
        number /= 1024
    return f"{number:,.1f} GiB"


def _device() -> str | None:
    """What this host's fullest device has; None where no device counts its memory."""
    jax = sys.modules["jax"]  # an error of its own is at hand
    counted = [(device, stats) for device in jax.local_devices()
               if "bytes_limit" in (stats := device.memory_stats() or {})]
    if not counted:
        return None
    device, stats = min(counted, key=lambda each: (
        each[1]["bytes_limit"] - each[1].get("bytes_in_use", 0)))
    return (f"each device has {_size(stats['bytes_limit'])}, and {device} holds "
            f"{_size(stats.get('bytes_in_use', 0))} of them now")


def _host() -> str:
    """What this machine has, and the limits of this process where they are lower."""
    memory = dict(re.findall(r"^(\w+): +(\d+) kB", _text("/proc/meminfo"), re.MULTILINE))
    if not memory:
        return "how much this machine has is not known"
    total, free = (1024 * int(memory[name]) for name in ("MemTotal", "MemAvailable"))
    limits = [int(limit) for limit in [_text("/sys/fs/cgroup/memory.max").strip()]
              if limit.isdigit()]
    own = resource.getrlimit(resource.RLIMIT_AS)[0]
    limits += [own] * (own != resource.RLIM_INFINITY)
    allowed = [limit for limit in limits if limit < total]
    limited = f", and this process may take {_size(min(allowed))}" if allowed else ""
    return f"this machine has {_size(total)}, of which {_size(free)} are free{limited}"


def _text(path: str) -> str:
    try:
        return epath.Path(path).read_text()
    except OSError:
        return ""
