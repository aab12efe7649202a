"""Flags of XLA that let it compile quickly for CPUs, for tests that do not look at speed.

Compiling is most of the time of the tests. The older emitters of loops, and one module of LLVM per
program, take 0.57 of the core seconds for an update of a small model on a mesh (69 s to 39 s).
"""

QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def flags(devices: int) -> str:
    """The value of XLA_FLAGS for a process with so many devices."""
    return f"--xla_force_host_platform_device_count={devices} {QUICK}"
