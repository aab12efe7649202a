"""TPU chips as Google Cloud's documentation describes them, and topologies made of them."""

import dataclasses
import importlib.util
import re
from collections.abc import Sequence

import jax

from input_pipeline.errors import UserError
from legion_jax.chips import peak_flops


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak figures of one chip.

    Attributes:
        flops: bfloat16 operations per second.
        hbm: bytes of memory; hbm_rate: bytes per second to and from it.
        ici_rate: bytes per second between chips, over all links together.
    """

    name: str
    flops: float
    hbm: float
    hbm_rate: float
    ici_rate: float


def _tpu(version: str, hbm: float, hbm_rate: float, ici_rate: float) -> Chip:
    name = f"TPU {version}"
    return Chip(name, peak_flops(name), hbm, hbm_rate, ici_rate)


# https://cloud.google.com/tpu/docs/v5e, /v5p and /v6e, "System architecture"; the links are given
# there in Gbit/s per chip.
CHIPS = {
    "v5e": _tpu("v5e", 16e9, 819e9, 1600e9 / 8),
    "v5p": _tpu("v5p", 95e9, 2765e9, 4800e9 / 8),
    "v6e": _tpu("v6e", 32e9, 1640e9, 3584e9 / 8)}


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds a program needs at least on one chip, for each thing that could be the bottleneck."""

    compute: float
    hbm: float
    ici: float

    @property
    def step(self) -> float:
        """The slowest of the three, as if the others hid behind it."""
        return max(self.compute, self.hbm, self.ici)

    @property
    def bound(self) -> str:
        """Name of the slowest."""
        return max(dataclasses.asdict(self), key=lambda name: getattr(self, name))


def roofline(chip: Chip, *, flops: float, hbm: float, received: float) -> Times:
    """Times from a chip's operations and bytes, each at the peak figure (Williams et al., 2009)."""
    return Times(flops / chip.flops, hbm / chip.hbm_rate, received / chip.ici_rate)


def open_topology(name: str) -> tuple[Chip, Sequence[jax.Device]]:
    """A chip and the devices of a topology such as `v5e:4x4`, which need not exist anywhere.

    `2*v5e:4x4` is two such slices, joined by the network of the data centre. Raises UserError for
    an unknown name, or without libtpu.
    """
    parts = re.fullmatch(r"(?:([1-9]\d{0,3})\*)?(\w+):[\dx]+", name)
    chip = parts and CHIPS.get(parts[2])
    if chip is None:
        raise UserError(f"--topology: one of {', '.join(CHIPS)} and a shape, such as v5e:4x4, or "
                        f"2*v5e:4x4 for two slices, not {name!r}")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu, the compiler for TPUs, is not installed: pip install -e '.[aot]'")
    from jax.experimental import topologies
    try:
        return chip, topologies.get_topology_desc(
            platform="tpu", topology_name=name.split("*")[-1],
            num_slices=int(parts[1] or 1)).devices
    except (RuntimeError, ValueError) as error:  # JAX's own errors are RuntimeErrors
        raise UserError(f"--topology {name}: {str(error).splitlines()[0]}") from error
