"""Topologies of TPUs that need not exist anywhere, and what a chip of them needs at least."""

import dataclasses
import importlib.util
import re
from collections.abc import Sequence

import jax

from input_pipeline.errors import UserError, first_line
from legion_jax.chips import CHIPS, Chip

# TPUs by the name their topologies begin with; without figures of the links no time can be told.
TPUS = {chip.name.removeprefix("TPU "): chip for _, chip in CHIPS if chip.ici_rate}


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
    chip = parts and TPUS.get(parts[2])
    if chip is None:
        raise UserError(f"--topology: one of {', '.join(TPUS)} and a shape, such as v5e:4x4, or "
                        f"2*v5e:4x4 for two slices, not {name!r}")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu, the compiler for TPUs, is not installed: pip install -e '.[aot]'")
    from jax.experimental import topologies
    try:
        return chip, topologies.get_topology_desc(
            platform="tpu", topology_name=name.split("*")[-1],
            num_slices=int(parts[1] or 1)).devices
    except (RuntimeError, ValueError) as error:  # JAX's own errors are RuntimeErrors
        raise UserError(f"--topology {name}: {first_line(error)}") from error
