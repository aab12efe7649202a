"""Moving many tensors through little memory: workers, progress, and folders that appear whole."""

import contextlib
import fcntl
import glob
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import ml_dtypes
import numpy as np
from tqdm import tqdm

from legion_jax.convert.tensor_folder import SourceError
from legion_jax.weights import tensor_file

WORKERS = 2  # each holds one tensor and its copy in the other layout


def run(work: Callable[[Any], None], items: Sequence[Any], *, sizes: Sequence[int],
        beside: dict[str, Callable], description: str, progress: bool) -> dict:
    """Call `work(item)` for every item, a few at a time and about in order.

    Args:
        sizes: bytes of each, for the progress bar.
        beside: functions without arguments that run at the same time; {name: result} is returned.

    The first error stops everything and is raised.
    """
    with (ThreadPoolExecutor(WORKERS) as pool, ThreadPoolExecutor(1) as other,
          tqdm(total=sum(sizes), desc=description, unit="B", unit_scale=True,
               disable=not progress) as bar):
        results = {name: other.submit(function) for name, function in beside.items()}
        running = {}
        try:
            for item, nbytes in zip(items, sizes, strict=True):
                if len(running) > WORKERS:
                    _finish(running, bar)
                running[pool.submit(work, item)] = nbytes
            while running:
                _finish(running, bar)
            return {name: future.result() for name, future in results.items()}
        except BaseException:
            pool.shutdown(cancel_futures=True)
            other.shutdown(cancel_futures=True)
            raise


def _finish(running: dict, bar) -> None:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        bar.update(running.pop(future))
        future.result()


def is_finite(array: np.ndarray) -> bool:
    """Whether there is no NaN and no infinity, at the speed of memory for every float type."""
    if array.dtype == ml_dtypes.bfloat16:
        # Its own isfinite works value by value; all ones in the exponent are the same in bits.
        bits = array.reshape(-1).view(np.uint16)
        strips = (bits[i:i + (1 << 17)] for i in range(0, bits.size, 1 << 17))
        return all(int((strip & 0x7FFF).max()) < 0x7F80 for strip in strips)
    flat = array.reshape(-1)
    return all(np.isfinite(flat[i:i + (1 << 16)]).all() for i in range(0, flat.size, 1 << 16))


def cast(array: np.ndarray, dtype: str) -> np.ndarray:
    """`array.astype(dtype)` in which a NaN keeps its sign and those bits there is room for."""
    kind = tensor_file.numpy_dtype(dtype)
    if kind == array.dtype:
        return array
    with np.errstate(invalid="ignore"):
        out = array.astype(kind)
        nan = None if is_finite(array) else np.isnan(array)
    if nan is not None:
        bits = array[nan].view(f"u{array.itemsize}").astype(np.uint64)
        have, room = (ml_dtypes.finfo(x.dtype).nmant for x in (array, out))
        kept = (bits & ((1 << have) - 1)) << max(room - have, 0) >> max(have - room, 0)
        kept |= (kept == 0).astype(np.uint64) << (room - 1)  # or it would be an infinity
        sign = bits >> (8 * array.itemsize - 1) << (8 * kind.itemsize - 1)
        ones = (1 << (8 * kind.itemsize - 1)) - (1 << room)
        out[nan] = (sign | ones | kept).astype(f"u{kind.itemsize}").view(kind)
    return out


@contextlib.contextmanager
def new_folder(output: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to fill, which takes its name when the block ends well and is removed otherwise.

    What killed processes left behind is removed; of two processes that write the same output at
    once, the first to finish wins and the other fails.
    """
    target = pathlib.Path(output)
    if "://" in str(output):
        raise SourceError(f"{output}: values are written at offsets, which needs a local folder; "
                          f"copy it there afterwards")
    if not str(output):
        raise SourceError("the name of the output folder is empty")
    if target.exists() or target.is_symlink():
        raise _exists(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.writing-"
    for left in target.parent.glob(glob.escape(prefix) + "*"):
        _remove_if_left(left)
    building, lock = _locked_folder(prefix, target.parent)
    try:
        building.chmod(0o777 & ~_umask())
        yield building
        try:
            building.rename(target)
        except OSError as error:
            raise (_exists(output) if target.exists() else error) from error
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _locked_folder(prefix: str, parent: pathlib.Path) -> tuple[pathlib.Path, int]:
    """A new folder and the lock that tells others it is in use, as long as the process lives."""
    while True:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process took it for one that was left
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)


def _exists(output: str | pathlib.Path) -> SourceError:
    return SourceError(f"{output}: already exists; choose another output folder")


def _remove_if_left(folder: pathlib.Path) -> None:
    """Remove an unfinished folder unless the process that fills it is alive."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return
    finally:
        os.close(lock)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
