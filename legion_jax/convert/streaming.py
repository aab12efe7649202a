"""Moving many tensors through little memory: workers, progress, casts that lose no NaN."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import ml_dtypes
import numpy as np
from tqdm import tqdm

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
        payload = (bits & ((1 << have) - 1)) << max(room - have, 0) >> max(have - room, 0)
        payload |= (payload == 0).astype(np.uint64) << (room - 1)  # or it would be an infinity
        sign = bits >> (8 * array.itemsize - 1) << (8 * kind.itemsize - 1)
        ones = (1 << (8 * kind.itemsize - 1)) - (1 << room)
        out[nan] = (sign | ones | payload).astype(f"u{kind.itemsize}").view(kind)
    return out


