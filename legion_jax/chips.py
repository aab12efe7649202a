"""What the chips can do that a run may find itself on, as their makers state it: one table."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak figures of one JAX device; None where its maker states none, or none is needed.

    Attributes:
        flops: dense bfloat16 operations per second.
        hbm: bytes of memory; hbm_rate: bytes per second to and from it.
        ici_rate: bytes per second between TPU chips, over all links together.
    """

    name: str
    flops: float
    hbm: float | None = None
    hbm_rate: float | None = None
    ici_rate: float | None = None


# A pattern for the device's kind, as JAX names it, and the chip; the first one found counts. What
# is not here is not guessed at: no MFU is then shown.
CHIPS: tuple[tuple[str, Chip], ...] = (
    # https://cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e, "System architecture"; the links
    # are given there in Gbit/s per chip, of v4 not at all.
    (r"^TPU v4$", Chip("TPU v4", 275e12, 32 * 2 ** 30, 1200e9)),
    (r"^TPU v5( lite|e)$", Chip("TPU v5e", 197e12, 16e9, 819e9, 1600e9 / 8)),
    (r"^TPU v5p?$", Chip("TPU v5p", 459e12, 95e9, 2765e9, 4800e9 / 8)),
    (r"^TPU v6( lite|e)$", Chip("TPU v6e", 918e12, 32e9, 1640e9, 3584e9 / 8)),
    # NVIDIA's data sheets; where those give operations "with sparsity", half of them.
    (r"\bB200\b", Chip("B200", 2250e12, hbm_rate=8.0e12)),  # HGX B200: 36 PFLOP/s for eight
    (r"\bH100 NVL\b", Chip("H100 NVL", 835.5e12, hbm_rate=3.9e12)),
    (r"\bH200 NVL\b", Chip("H200 NVL", 835.5e12, hbm_rate=4.8e12)),
    (r"\bH100 PCIe\b", Chip("H100 PCIe", 756.5e12, hbm_rate=2.0e12)),
    (r"\bH100\b", Chip("H100 SXM", 989.5e12, hbm_rate=3.35e12)),
    (r"\bH200\b", Chip("H200 SXM", 989.5e12, hbm_rate=4.8e12)),
    (r"\bGH200\b", Chip("GH200", 989.5e12)),  # sold with two kinds of memory
    (r"\bA100.*40GB\b", Chip("A100 40GB", 312e12, hbm_rate=1.555e12)),
    (r"\bA100 80GB PCIe\b", Chip("A100 80GB PCIe", 312e12, hbm_rate=1.935e12)),
    (r"\bA100\b", Chip("A100 80GB SXM", 312e12, hbm_rate=2.039e12)),
    (r"\bL40S\b", Chip("L40S", 362e12, hbm_rate=0.864e12)),
    (r"\bL4\b", Chip("L4", 121e12, hbm_rate=0.3e12)),
    (r"\bA40\b", Chip("A40", 149.7e12, hbm_rate=0.696e12)),
    (r"\bRTX A6000\b", Chip("RTX A6000", 154.8e12)),
    (r"\bA10$", Chip("A10", 125e12, hbm_rate=0.6e12)),
    # White papers of the Ada and GA102 architectures: with float32 accumulation.
    (r"\bRTX 4090$", Chip("RTX 4090", 165.2e12)),
    (r"\bRTX 3090$", Chip("RTX 3090", 71e12)))


def find(kind: str) -> Chip | None:
    """The chip that JAX calls `kind`, its `device_kind`; None where it is not in the table.

    A slice of a GPU (MIG) is none of them: its name does not say which share of the chip it has.
    """
    if "MIG" in kind:
        return None
    return next((chip for pattern, chip in CHIPS if re.search(pattern, kind)), None)
