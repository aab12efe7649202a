"""Flags of XLA that let it compile quickly for CPUs, for tests that do not look at speed.

Compiling is most of the time of the tests. The older emitters of loops, and one module of LLVM per
program, take 0.57 of the core seconds for an update of a small model on a mesh (69 s to 39 s).
"""

import importlib.metadata

# A flag, and how a release of jaxlib begins that knows it; another ends the process.
FLAGS = {"--xla_cpu_parallel_codegen_split_count=1": "",
         "--xla_cpu_use_fusion_emitters=false": "0.10."}
QUICK = " ".join(flag for flag, releases in FLAGS.items()
                 if importlib.metadata.version("jaxlib").startswith(releases))


def flags(devices: int) -> str:
    """The value of XLA_FLAGS for a process with so many devices."""
    return f"--xla_force_host_platform_device_count={devices} {QUICK}"
