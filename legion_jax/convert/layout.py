"""How one array is laid out in PyTorch and here: pairs of functions that undo each other."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """Two-way change of layout of one (unstacked) array.

    Attributes:
        to_jax: PyTorch array -> our array.
        to_torch: our array -> PyTorch array.
        torch_shape: shape of our array -> shape of the PyTorch array.
    """

    to_jax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]
    torch_shape: Callable[[tuple[int, ...]], tuple[int, ...]]


def same() -> Layout:
    return Layout(lambda w: w, lambda w: w, lambda s: s)


def linear() -> Layout:
    """Linear weight [out, in] <-> kernel [in, out]."""
    return Layout(transposed, transposed, lambda s: s[::-1])


def unsqueezed() -> Layout:
    """[1, ...] <-> [...]."""
    return Layout(lambda w: w[0], lambda w: w[None], lambda s: (1, *s))


def convolution(side: int) -> Layout:
    """Convolution weight [out, in, k, k] <-> kernel [k * k * in, out], taps row by row."""
    def to_jax(w):
        return w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0])

    def to_torch(w):
        return w.reshape(side, side, -1, w.shape[1]).transpose(3, 2, 0, 1)

    return Layout(to_jax, to_torch, lambda s: (s[1], s[0] // side ** 2, side, side))


def upscaling() -> Layout:
    """Transposed 2 x 2 convolution [in, out, 2, 2] <-> kernel [in, 2 * 2 * out]."""
    def to_jax(w):
        return w.transpose(0, 2, 3, 1).reshape(w.shape[0], -1)

    def to_torch(w):
        return w.reshape(w.shape[0], 2, 2, -1).transpose(0, 3, 1, 2)

    return Layout(to_jax, to_torch, lambda s: (s[0], s[1] // 4, 2, 2))


def vocabulary(rows: int, padded: int, *, transpose: bool) -> Layout:
    """[V, D] <-> [V padded, D], or its transpose; padding rows are zero and cut on the way out.

    `rows` may count rows that belong to no token: they travel in the padding.
    """
    def to_jax(w):
        w = np.concatenate([w, np.zeros((padded - rows, *w.shape[1:]), w.dtype)])
        return transposed(w) if transpose else w

    def to_torch(w):
        return transposed(w[:, :rows]) if transpose else w[:rows]

    return Layout(to_jax, to_torch, lambda s: (rows, s[0] if transpose else s[1]))


def transposed(w: np.ndarray) -> np.ndarray:
    """w.T in memory order, in strips that fit a processor's cache: numpy takes 4 times as long."""
    out = np.empty(w.shape[::-1], w.dtype)
    for start in range(0, len(w), 16):
        out[:, start:start + 16] = w[start:start + 16].T
    return out


def size(shape: tuple[int, ...]) -> int:
    """Number of values."""
    return math.prod(shape)
