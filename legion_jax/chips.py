"""Peak speed of the chips a run may find itself on, as their makers state it."""

import re

# Dense bfloat16 operations per second of one JAX device, by its `device_kind`; the first pattern
# found in it counts. What is not here is not guessed at: no MFU is then shown.
PEAKS: tuple[tuple[str, float], ...] = (
    # https://cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e, "System architecture".
    (r"^TPU v4$", 275e12),
    (r"^TPU v5( lite|e)$", 197e12),
    (r"^TPU v5p?$", 459e12),
    (r"^TPU v6( lite|e)$", 918e12),
    # NVIDIA's data sheets; where those give figures "with sparsity", half of them.
    (r"\bB200\b", 2250e12),  # HGX B200: 36 PFLOP/s for eight
    (r"\bH[12]00 NVL\b", 835.5e12),
    (r"\bH100 PCIe\b", 756.5e12),
    (r"\b(H100|H200|GH200)\b", 989.5e12),
    (r"\bA100\b", 312e12),
    (r"\bL40S\b", 362e12),
    (r"\bL4\b", 121e12),
    (r"\bA40\b", 149.7e12),
    (r"\bRTX A6000\b", 154.8e12),
    (r"\bA10$", 125e12),
    # White papers of the Ada and GA102 architectures: with float32 accumulation.
    (r"\bRTX 4090$", 165.2e12),
    (r"\bRTX 3090$", 71e12))


def peak_flops(kind: str) -> float | None:
    """Dense bfloat16 operations per second of a device of this kind; None where unknown.

    A slice of a GPU (MIG) is unknown: its name does not say which share of the chip it has.
    """
    if "MIG" in kind:
        return None
    return next((peak for pattern, peak in PEAKS if re.search(pattern, kind)), None)
