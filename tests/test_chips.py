"""legion_jax/chips.py: which chip a device's kind names, and what is known of it."""

import pytest

from legion_jax import chips


@pytest.mark.parametrize("kind, peak", [
    ("TPU v4", 275e12), ("TPU v5 lite", 197e12), ("TPU v5", 459e12), ("TPU v5p", 459e12),
    ("TPU v6 lite", 918e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA A100 80GB PCIe", 312e12),
    ("NVIDIA H100 80GB HBM3", 989.5e12), ("NVIDIA H100 PCIe", 756.5e12),
    ("NVIDIA H200", 989.5e12), ("NVIDIA H200 NVL", 835.5e12), ("NVIDIA L4", 121e12),
    ("NVIDIA L40S", 362e12), ("NVIDIA A10", 125e12), ("NVIDIA GeForce RTX 3090", 71e12)])
def test_chips_that_are_known(kind, peak):
    assert chips.find(kind).flops == peak


@pytest.mark.parametrize("kind", [
    "cpu", "TPU v3", "TPU v4 lite", "TPU7x", "Tesla T4", "NVIDIA A10G", "NVIDIA L40",
    "NVIDIA GeForce RTX 3090 Ti", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", ""])
def test_chips_that_are_not_guessed_at(kind):
    assert chips.find(kind) is None


@pytest.mark.parametrize("kind, rate", [
    ("NVIDIA H100 80GB HBM3", 3.35e12), ("NVIDIA H100 PCIe", 2.0e12), ("NVIDIA H100 NVL", 3.9e12),
    ("NVIDIA H200", 4.8e12), ("NVIDIA H200 NVL", 4.8e12), ("NVIDIA B200", 8.0e12),
    ("NVIDIA A100-SXM4-40GB", 1.555e12), ("NVIDIA A100-PCIE-40GB", 1.555e12),
    ("NVIDIA A100 80GB PCIe", 1.935e12), ("NVIDIA A100-SXM4-80GB", 2.039e12),
    ("NVIDIA L4", 0.3e12), ("NVIDIA GH200 480GB", None), ("NVIDIA GeForce RTX 3090", None)])
def test_memory_of_gpus(kind, rate):
    assert chips.find(kind).hbm_rate == rate


def test_every_chip_has_one_row():
    names = [chip.name for _, chip in chips.CHIPS]
    assert len(set(names)) == len(names)
