"""Random values that parameters begin with: a distribution beside each, and one program for all."""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from legion_jax.sharding import constrain

BLOCK = 1024  # numbers of one key
# Parameters with more values are drawn where they lie: no device then holds all of one, and each
# costs a program of its own, whose compiling is little beside what such a model takes.
LARGE = 1 << 22
TRUNCATED_STD = 0.87962566103423978  # of a standard normal between -2 and 2


@dataclasses.dataclass(frozen=True)
class Initial:
    """A distribution with mean zero.

    Attributes:
        kind: "normal", "truncated" (a normal within two standard deviations) or "uniform".
        scale: standard deviation of the normal that is drawn; of "uniform" the largest magnitude.
    """

    kind: str
    scale: float

    def numbers(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Independent float32 values of the distribution with scale 1."""
        return {"normal": lambda: jax.random.normal(key, shape),
                "truncated": lambda: jax.random.truncated_normal(key, -2.0, 2.0, shape),
                "uniform": lambda: jax.random.uniform(key, shape, minval=-1.0)}[self.kind]()


def normal(scale: float) -> Initial:
    """A normal distribution."""
    return Initial("normal", scale)


def lecun(fan_in: int) -> Initial:
    """A truncated normal of variance 1 / fan in (LeCun et al., 1998)."""
    return Initial("truncated", fan_in ** -0.5 / TRUNCATED_STD)


def kaiming_uniform(fan_in: int) -> Initial:
    """PyTorch's own for weights: with a = sqrt(5) it is uniform within 1 / sqrt(fan in)."""
    return Initial("uniform", fan_in ** -0.5)


def parameter(shape: tuple[int, ...], initial: Initial) -> nnx.Param:
    """A parameter of zeros that knows what it begins with; `draw` makes that."""
    return nnx.Param(jnp.zeros(shape), initial=initial)


def draw(wanted: dict[str, tuple[tuple[int, ...], Initial]], key: jax.Array) -> dict:
    """{path: float32 values} of {path: (shape, distribution)}.

    What a parameter gets depends on the key, its path and its size alone, on no other parameter
    and no mesh. Small ones of one kind are drawn together, as XLA compiles a program for each draw.
    """
    drawn, together = {}, {}
    for path, (shape, initial) in wanted.items():
        if np.prod(shape) > LARGE:
            own = jax.random.fold_in(key, _number(path))
            drawn[path] = initial.scale * initial.numbers(own, shape)
        else:
            together.setdefault(initial.kind, {})[path] = shape, initial
    for kind in together.values():
        drawn |= _draw_together(kind, key)
    return drawn


def _number(path: str) -> int:
    return zlib.crc32(path.encode())


def _draw_together(wanted: dict, key: jax.Array) -> dict:
    """The same for distributions of one kind."""
    blocks = {path: -(-int(np.prod(shape)) // BLOCK) for path, (shape, _) in wanted.items()}
    paths = np.repeat(np.array([_number(path) for path in wanted], np.uint32), [*blocks.values()])
    places = np.concatenate([np.arange(n, dtype=np.uint32) for n in blocks.values()])
    initial = next(iter(wanted.values()))[1]

    def block(path, place):
        own = jax.random.fold_in(jax.random.fold_in(key, path), place)
        return initial.numbers(own, (BLOCK,))

    # Without the barrier XLA would draw everything anew in each slice. Every device draws all, and
    # keeps what is its own: told nothing, XLA would divide the rows and exchange them.
    rows = jax.lax.optimization_barrier(constrain(jax.vmap(block)(paths, places), None, None))
    rows = constrain(rows, None, None)
    drawn, start = {}, 0
    for path, (shape, distribution) in wanted.items():
        values = rows[start:start + blocks[path]].reshape(-1)[:int(np.prod(shape))]
        values = constrain(values.reshape(shape), *(None for _ in shape))
        drawn[path] = distribution.scale * values
        start += blocks[path]
    return drawn
