"""The table of peaks: which row a device finds, and that no figure is a sparse one."""

from __future__ import annotations

import pytest

from llm.train.peaks import PUBLISHED, TERA, published_peak


@pytest.mark.parametrize(
    ("device", "precision", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 80GB HBM3", "fp32", 66.9),
        ("NVIDIA H100 PCIe", "bf16", 756.0),
        ("NVIDIA H100 NVL", "bf16", 835.5),
        ("NVIDIA H200", "bf16", 989.4),
        ("NVIDIA H200 NVL", "bf16", 835.5),
        ("NVIDIA GH200 480GB", "bf16", 989.4),
        ("NVIDIA B200", "bf16", 2250.0),
        ("NVIDIA GB200", "bf16", 2500.0),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312.0),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5),
        ("NVIDIA A10", "bf16", 125.0),
        ("NVIDIA A10G", "bf16", 70.0),
        ("NVIDIA L4", "bf16", 121.0),
        ("NVIDIA L40S", "bf16", 362.05),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("Tesla V100-SXM2-16GB", "fp16", 125.0),
        ("Tesla T4", "fp16", 65.0),
        ("AMD Instinct MI300X", "bf16", 1307.4),
    ],
)
def test_a_device_finds_its_own_row(device: str, precision: str, tera: float) -> None:
    found = published_peak(device, precision)
    assert found is not None and found[0] == tera * TERA
    assert "data sheet" in found[1] or "paper" in found[1]


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("a CPU", "fp32"),
        ("NVIDIA H100", "bf16"),  # which one?
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16"),
        ("Tesla V100-SXM2-16GB", "bf16"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16"),
        ("NVIDIA A1000", "bf16"),
    ],
)
def test_what_is_not_published_is_not_guessed(device: str, precision: str) -> None:
    assert published_peak(device, precision) is None


SPARSE = {
    4500,
    5000,
    1979,
    1671,
    1513,
    624,
    330,
    299.4,
    250,
    140,
    733,
    724.1,
    362.1,
    242,
    419,
    330.4,
    142,
    309.7,
    2614.9,
}


def test_the_figures_are_dense() -> None:
    """The figures that the same data sheets give "with sparsity" are in no row."""
    for row in PUBLISHED:
        assert not SPARSE & {row.fp16, row.bf16}, row
